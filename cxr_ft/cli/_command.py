"""What every command does alike: one line for bad input, exit codes, the parser."""

import argparse
import signal
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

from cxr_ft.errors import UsageError

#: Exit codes: done, the check found something, bad input, interrupted.
DONE, FOUND, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Defaults behind the help, where there is one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        # By identity: 0 is a default worth showing, and equals False.
        unsaid = action.default is None or action.default is False or action.default == []
        return action.help if unsaid else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that answers bad input with one line, and shows no abbreviations."""

    def __init__(self, prog: str, description: str, *, add_help: bool = True) -> None:
        super().__init__(
            prog=prog,
            description=description,
            add_help=add_help,
            allow_abbrev=False,
            formatter_class=_Help,
        )

    def error(self, message: str) -> NoReturn:
        """Leave by a UsageError, which `guarded` prints."""
        raise UsageError(f"{message} (see {self.prog} --help)")


def guarded(prog: str, work: Callable[[], int]) -> int:
    """Run `work`; bad input is one line on standard error and exit code 2, an interrupt or a SIGTERM 130."""
    try:
        # Schedulers end a job by SIGTERM: clean up and record as for an interrupt.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        return work()
    except UsageError as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print(f"{prog}: interrupted; the same command goes on where it was", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (head, less) has left: nothing more to say, and nothing to say it to.
        sys.stderr.close()
        return DONE


def words(text: str) -> tuple[str, ...]:
    """`a,b` as ("a", "b")."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def numbers(text: str, flag: str) -> tuple[int, ...]:
    """`0,1,2` as numbers.

    Raises:
        UsageError: where it is no list of whole numbers.
    """
    try:
        return tuple(int(word) for word in words(text))
    except ValueError:
        raise UsageError(f"{flag} {text}: give whole numbers separated by commas, as 0,1,2") from None
