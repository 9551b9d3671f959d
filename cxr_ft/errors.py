"""Define the package's errors: UsageError (bad input), LeakError (a split that leaks), TrainingError (it diverged)."""

from collections.abc import Iterable


class UsageError(Exception):
    """Bad input from a person: one line that says what, where, why, and what would work.

    Commands print it without a traceback and exit with code 2.
    """


class LeakError(UsageError):
    """Compiled splits in which two splits share a subject, a study, an image or a text: they are not written.

    A UsageError, so that commands print one line: the usual cause is a source whose ids differ only in case or spaces.
    The message names no subject, study or image, since patient ids must not reach a terminal's log.

    Args:
        kind: what is shared: "subject", "study", "image" or "text".
        splits: the two splits, as ("train", "test").
        count: how many subjects, studies, images or texts are in both.
        where: the folder that was not written.
    """

    def __init__(self, kind: str, splits: tuple[str, str], count: int, where: object) -> None:
        self.kind, self.splits, self.count = kind, splits, count
        plural = {"study": "studies"}.get(kind, f"{kind}s")
        cause = "ids or file names that differ only in upper and lower case or in spaces"
        if kind == "text":
            cause = "texts that are the same or nearly the same under different groups"
        super().__init__(
            f"{where}: no split file was written, because {count} {kind if count == 1 else plural} would be in both "
            f"{splits[0]} and {splits[1]}. In the source, look for {cause} and correct it; "
            "if there is none, this is a fault of cxr-split: please report it"
        )


class TrainingError(Exception):
    """A training that cannot go on: one line that says where and why. The run is recorded as failed.

    Commands print it without a traceback and exit with code 1; an ablation goes on with its next run. The line is kept
    in result.json, which others read: it names rows by their numbers, never by an id, a path or a text.

    Args:
        message: the line.
        details: what is for the run's own log alone, such as the ids of a batch.
    """

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


def unknown(kind: str, value: object, known: Iterable[str], where: str = "") -> UsageError:
    """Return a UsageError for a name that is not among the `known` ones, with the closest first."""
    import difflib

    names = sorted(known)
    close = difflib.get_close_matches(str(value), names, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    place = f" in {where}" if where else ""
    return UsageError(f"unknown {kind} {str(value)!r}{place}{hint}; choose from: {', '.join(names) or 'none'}")
