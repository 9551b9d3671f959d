"""A list of films in a text file, one film a line: `subject; file; class`, with paths relative to the list."""

from pathlib import Path

from cxr_ft.data.card import DatasetCard
from cxr_ft.data.layouts import _rows
from cxr_ft.data.records import Records, root_folder
from cxr_ft.errors import UsageError

CARD = DatasetCard(name="film list", multi_label=False, sensitivity="credentialed", source="the user's own list")


def records(source: str) -> Records:
    """Return the records of the list `films.txt` in the folder `source`.

    Raises:
        UsageError: where there is no list, or a line has other than three fields.
    """
    import pandas as pd

    root = root_folder(source)
    if not (root / "films.txt").is_file():
        raise UsageError(f"{source} holds no films.txt; write one line a film: subject; file; class")
    lines = (root / "films.txt").read_text(encoding="utf-8").splitlines()
    rows = [[field.strip() for field in line.split(";")] for line in lines]
    if bad := [line for line, row in zip(lines, rows, strict=True) if len(row) != 3]:
        raise UsageError(f"{root / 'films.txt'}: {bad[0]!r} is not: subject; file; class")
    table = pd.DataFrame(rows, columns=["subject_id", "path", "label"], dtype="string")
    return _rows.assemble(table, str(root), CARD, (), [])


def demo(folder: Path) -> str:
    """Write 12 subjects of two classes, two films each; return the source to give to `records`."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    rng, lines = np.random.default_rng(0), []
    for i in range(24):
        name, shade = ("clear", 60) if i % 4 < 2 else ("opaque", 150)
        Image.fromarray(rng.normal(shade, 20, (40, 36)).clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
        lines.append(f"p{i // 2}; {i}.png; {name}")
    (folder / "films.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(folder)
