"""Write an audit as one self-contained HTML page that fetches nothing and runs nothing; all text in it is escaped."""

from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ft import files, html_templates

if TYPE_CHECKING:
    from cxr_ft.data.audit.leak_audit import Audit

#: What the kinds of findings mean, as the page explains them.
MEANINGS = {
    "LEAK": "the same value is in two splits",
    "CONFOUND": "a label can be predicted without the content of the image",
    "BALANCE": "labels have other numbers of rows than asked for, or none in a split",
    "LABELS": "one image or text has different labels",
    "SPLIT": "the data's own split says otherwise",
    "COPIES": "one image has two names, or one text several rows",
    "FEW": "too few subjects to test a label on",
    "CHANGED": "a file is not the one that its manifest certifies",
}


def write(audit: "Audit", path: Path) -> None:
    """Write the page of an audit; it holds row numbers, names of tables and labels, and no id, path or text of a row.

    Raises:
        UsageError: where it cannot be written.
    """
    environment = html_templates.open_folder(Path(__file__).parent)
    found = [("LEAK", str(leak), leak.rows, leak.example) for leak in audit.leaks]
    found += [("CONFOUND", str(confound), confound.rows, "") for confound in audit.confounded]
    found += [(finding.kind, finding.sentence, finding.count, finding.example) for finding in audit.findings]
    html = environment.get_template("audit_page.html").render(audit=audit, found=found, meanings=MEANINGS)
    files.write_text(path, html)
