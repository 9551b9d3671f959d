"""Give a table of resumes the split that was published with it: at random, by rows, so that copies are in two splits.

    python tools/published_split.py UpdatedResumeDataSet.csv resumes_published.csv
    cxr-split resumes_published.csv --layout resumes --per-label 100 --official --out data_splits/resumes_published

scikit-learn's train_test_split, stratified, 70/15/15, seed 42: 137 of the 145 test texts stand in train word for word.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ft.files import atomic

if TYPE_CHECKING:
    import pandas as pd

SEED = 42


def published(table: "pd.DataFrame") -> "pd.DataFrame":
    """The table with a column `split`: train, val or test.

    Args:
        table: with a column Category.
    """
    from sklearn.model_selection import train_test_split

    _, rest = train_test_split(table, test_size=0.3, random_state=SEED, stratify=table["Category"])
    val, test = train_test_split(rest, test_size=0.5, random_state=SEED, stratify=rest["Category"])
    sides = {**dict.fromkeys(val.index, "val"), **dict.fromkeys(test.index, "test")}
    return table.assign(split=[sides.get(row, "train") for row in table.index])


def main() -> None:
    """Read, split, write."""
    import pandas as pd

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the table, with columns Category and Resume")
    parser.add_argument("out", type=Path, help="the same with a column split")
    args = parser.parse_args()
    table = published(pd.read_csv(args.source, dtype=str))
    train = set(table.loc[table["split"] == "train", "Resume"])
    test = table.loc[table["split"] == "test", "Resume"]
    with atomic(args.out, private=True) as path:
        table.to_csv(path, index=False, lineterminator="\n")
    print(f"{int(test.isin(train).sum())} of {len(test)} test texts stand in train word for word; written: {args.out}")


if __name__ == "__main__":
    main()
