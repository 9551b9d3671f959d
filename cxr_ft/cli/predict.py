"""Predict single images with a saved run: the command cxr-predict."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ft.cli._command import DONE, FAILED, Parser, guarded
from cxr_ft.errors import UsageError

if TYPE_CHECKING:
    from cxr_ft.run.evaluation.predictor import PredictionJson


def parser() -> Parser:
    """Return the parser of the command's flags."""
    p = Parser(
        "cxr-predict",
        "Predict single images (DICOM, PNG, JPEG). For research; not a medical device.",
    )
    p.add_argument("run", type=Path, metavar="RUN", help="a run's folder")
    p.add_argument("files", type=Path, nargs="+", metavar="FILE", help="images")
    p.add_argument("--json", action="store_true", help="one JSON object a line")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, 1 where an image could not be read, or 2 for bad input."""
    return guarded("cxr-predict", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    args = parser().parse_args(argv)
    # Before the model is loaded, which takes seconds.
    if missing := [file for file in args.files if not file.is_file()]:
        raise UsageError(f"{missing[0]} is not a file; give images (DICOM, PNG, JPEG)")
    from cxr_ft.data.dicom import DicomError
    from cxr_ft.run.evaluation.predictor import Predictor

    refused = 0
    predictor = Predictor(args.run)
    for file in args.files:
        try:
            answer = predictor.predict(file).to_json()
        except DicomError as error:
            # One unreadable image must not cost the predictions of all others.
            refused += 1
            reason = f"{error.reason.value}: {error.detail}"
            if args.json:
                print(json.dumps({"file": str(file), "refused": reason}), flush=True)
            print(f"{file}: cannot be read: {reason}", file=sys.stderr)
            continue
        line = json.dumps({"file": str(file), **answer}) if args.json else f"{file}: {_prediction_line(answer)}"
        # A reader of the pipe gets each prediction when it is made.
        print(line, flush=True)
    return FAILED if refused else DONE


def _prediction_line(answer: "PredictionJson") -> str:
    ranked = sorted(answer.get("scores", {}).items(), key=lambda item: -item[1])
    positive = answer.get("positive", ())
    scores = ", ".join(f"{name} {score:.3f}{' +' if name in positive else ''}" for name, score in ranked)
    return "; ".join(part for part in (answer.get("report", ""), scores) if part)


if __name__ == "__main__":
    raise SystemExit(main())
