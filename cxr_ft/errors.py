"""The one error that means "your input, not our bug"."""

from collections.abc import Iterable


class UsageError(Exception):
    """Bad input from a person: one line that says what, where, why, and what would work.

    Commands print it without a traceback and exit with code 2.
    """


def unknown(kind: str, value: object, known: Iterable[str], where: str = "") -> UsageError:
    """A UsageError for a name that is not among the `known` ones, with the closest first."""
    import difflib

    names = sorted(known)
    close = difflib.get_close_matches(str(value), names, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    place = f" in {where}" if where else ""
    return UsageError(f"unknown {kind} {str(value)!r}{place}{hint}; choose from: {', '.join(names) or 'none'}")
