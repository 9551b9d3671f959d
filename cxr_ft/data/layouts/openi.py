"""Open-I, the Indiana University chest X-rays: XML reports and PNG images, as the NLM gives them.

    ecgen-radiology/1.xml                  NLMCXR_reports.tgz: text, MeSH headings, the names of the images
    NLMCXR_png/CXR1_1_IM-0001-3001.png     NLMCXR_png.tgz
    nlmcxr_dicom_metadata.csv.gz           optional, as torchxrayvision publishes it: the views (imageid, View Position)

The images may also lie in SOURCE itself or in images/, the reports in SOURCE. The XML names neither patients nor views.
Labels are the reports' own MeSH headings, by hand and not by a labeler: `normal`, and those findings that occur in at
least 40 of the 3,851 reports with images. Places (Lung, Spine), mere descriptions (Density, Markings, Deformity,
Thickening) and remarks on the picture are no labels. A heading that a report lacks is 0; reports that were not indexed
("No Indexing") are left out.
"""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from xml.etree import ElementTree

from cxr_ft.data.card import DatasetCard
from cxr_ft.data.records import REPORT_TEXTS, Records, views
from cxr_ft.data.sources import locations, table_reader
from cxr_ft.errors import UsageError
from cxr_ft.progress import track

if TYPE_CHECKING:
    import pandas as pd

NORMAL = "normal"
HEADINGS = (
    "Airspace Disease",
    "Atherosclerosis",
    "Calcified Granuloma",
    "Calcinosis",
    "Cardiomegaly",
    "Catheters, Indwelling",
    "Cicatrix",
    "Emphysema",
    "Fractures, Bone",
    "Granuloma",
    "Granulomatous Disease",
    "Hernia, Hiatal",
    "Implanted Medical Device",
    "Infiltrate",
    "Nodule",
    "Opacity",
    "Osteophyte",
    "Pleural Effusion",
    "Pneumonia",
    "Pulmonary Atelectasis",
    "Pulmonary Congestion",
    "Pulmonary Disease, Chronic Obstructive",
    "Pulmonary Edema",
    "Scoliosis",
    "Spondylosis",
    "Surgical Instruments",
)
CARD = DatasetCard(
    name="Open-I",
    labels=(NORMAL, *HEADINGS),
    normal=NORMAL,
    group="unknown",
    sensitivity="public",
    source="https://openi.nlm.nih.gov/faq",
    terms="Creative Commons BY-NC-ND 4.0",
    citation="Demner-Fushman et al., Preparing a collection of radiology examinations for distribution and retrieval, "
    "Journal of the American Medical Informatics Association 23(2), 304-310 (2016)",
)
UNKNOWN = "Open-I names no patients: each report is taken for its own subject"
NO_VIEWS = "views unknown: put nlmcxr_dicom_metadata.csv.gz (torchxrayvision's) beside the reports to know them"
UNINDEXED = "No Indexing"
#: One image by our column names: ids and texts, and 0 or 1 for each label.
Row = dict[str, str | float | None]


class Report(NamedTuple):
    """One XML report: a row for each of its images, and whether it has MeSH headings."""

    rows: list[Row]
    indexed: bool


def records(source: str) -> Records:
    """Return the records of Open-I's folder.

    Raises:
        UsageError: where there are no reports, or one is no XML report of Open-I.
    """
    import pandas as pd

    root = locations.normalized(source)
    folder = next(
        (locations.join(root, name) for name in locations.list_names(root) if name == "ecgen-radiology"), root
    )
    reports = [name for name in locations.list_names(folder) if name.endswith(".xml")]
    if not reports:
        raise UsageError(f"{source} has no ecgen-radiology/*.xml: give the folder that NLMCXR_reports.tgz unpacks to")
    notes = [UNKNOWN]
    rows: list[Row] = []
    unindexed = 0
    for name in track(reports, "reading reports", len(reports)):
        report = _read_report(locations.join(folder, name))
        # Without headings nothing is known of the labels; counted as 0 they would be false negatives.
        if report.indexed:
            rows += report.rows
        else:
            unindexed += len(report.rows)
    if unindexed:
        notes.append(f"{unindexed} images of reports without MeSH headings are left out")
    if not rows:
        raise UsageError(f"{folder}: none of its {len(reports)} reports has headings and names an image")
    table = pd.DataFrame(rows).astype(dict.fromkeys(CARD.labels, "float64"))
    table["path"] = _paths(table["dicom_id"], root)
    table["view"] = _views(table["dicom_id"], root, notes)
    return Records(table=table, card=CARD, root=root, notes=tuple(notes))


def demo(folder: Path) -> str:
    """Return a tiny Open-I for tests; the source to give to `records`."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    root = folder / "openi"
    (root / "ecgen-radiology").mkdir(parents=True)
    (root / "NLMCXR_png").mkdir()
    for number in range(1, 31):
        headings = rng.choice(HEADINGS, rng.integers(0, 3), replace=False)
        majors = "".join(f"<major>{name}/lung/left</major>" for name in headings) or "<major>normal</major>"
        images = [f"CXR{number}_{number}_IM-{number:04}-{view}001" for view in (1, 2)]
        for image in images:
            pixels = rng.integers(0, 256, (40, 36), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "NLMCXR_png" / f"{image}.png")
        texts = {"COMPARISON": "None.", "INDICATION": "Cough", "FINDINGS": f"Film {number}.", "IMPRESSION": "As above."}
        abstract = "".join(f'<AbstractText Label="{name}">{text}</AbstractText>' for name, text in texts.items())
        pictures = "".join(f'<parentImage id="{image}"><figureId>F1</figureId></parentImage>' for image in images)
        (root / "ecgen-radiology" / f"{number}.xml").write_text(
            f'<?xml version="1.0" encoding="utf-8"?><eCitation><uId id="CXR{number}"/><MedlineCitation><Article>'
            f"<Abstract>{abstract}</Abstract></Article></MedlineCitation><MeSH>{majors}</MeSH>{pictures}</eCitation>"
        )
    return str(root)


def _read_report(where: str) -> Report:
    """Return the images of a report, with its labels and texts."""
    try:
        report = ElementTree.fromstring(locations.read_text(where).encode())
    except ElementTree.ParseError as error:
        raise UsageError(f"{where} is no XML: {error}") from None
    name = report.find("uId")
    if name is None or not name.get("id"):
        raise UsageError(f"{where} is no report of Open-I: it has no uId")
    subject = name.get("id")
    # A heading is written finding/place/side; only the finding is a label.
    # Under MeSH there are also `automatic` terms, read off by a program; `major` ones were given by hand.
    headings = {(major.text or "").partition("/")[0].strip() for major in report.iterfind("MeSH/major")}
    texts = {part.get("Label"): " ".join((part.text or "").split()) for part in report.iter("AbstractText")}
    rows: list[Row] = [
        {
            "subject_id": subject,
            "study_id": subject,
            "dicom_id": image.get("id"),
            # Open-I has no split of its own; its reports are in the rows and not in files.
            "official": "",
            "report": "",
            **{column: texts.get(column.upper(), "") for column in REPORT_TEXTS},
            **{label: float(label in headings) for label in CARD.labels},
        }
        # 104 of the 3,955 reports name no image, and give no row.
        for image in report.iter("parentImage")
    ]
    return Report(rows, indexed=bool(headings) and UNINDEXED not in headings)


def _paths(images: "pd.Series[str]", root: str) -> "pd.Series[str]":
    """Return the folder of the images: NLMCXR_png/, images/ or the folder itself."""
    present = locations.list_names(root)
    folder = next((f"{name}/" for name in ("NLMCXR_png", "images") if name in present), "")
    if not folder and not any(name.endswith(".png") for name in present):
        folder = "NLMCXR_png/"
    return folder + images + ".png"


def _views(images: "pd.Series[str]", root: str, notes: list[str]) -> "pd.Series[str]":
    import pandas as pd

    # Neither XML nor PNG says how a film was taken: only the headers of the DICOM release do, two thirds of them.
    file = next((name for name in locations.list_names(root) if name.startswith("nlmcxr_dicom_metadata.")), None)
    if file is None:
        notes.append(NO_VIEWS)
        return pd.Series("", index=images.index, dtype="string")
    headers = table_reader.read_table(locations.join(root, file), ["imageid", "View Position"]).drop_duplicates(
        "imageid"
    )
    return views(images.map(headers.set_index("imageid")["View Position"]).astype("string"))
