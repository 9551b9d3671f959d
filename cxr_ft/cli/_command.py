"""Share among the commands: the parser, exit codes, one line for bad input."""

import argparse
import errno
import signal
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

from cxr_ft.errors import UsageError

#: Exit codes: done, a run failed or a check has a result that needs attention, bad input, interrupted.
DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
#: Errors of the system that a user can do something about.
_LIMITS = frozenset((
    *(errno.ENAMETOOLONG, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR),
    *(errno.EISDIR, errno.ELOOP, errno.EMFILE, errno.EFBIG),
))  # fmt: skip
#: Characters of a path that a message shows.
_SHOWN = 80


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Show a flag's default after its help, where there is one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        # By identity: 0 equals False, and is a default worth showing.
        hidden = action.default is None or action.default is False or action.default == []
        return action.help if hidden else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that reports bad input in one line and accepts no abbreviated flags."""

    def __init__(self, prog: str, description: str, *, add_help: bool = True) -> None:
        super().__init__(
            prog=prog,
            description=description,
            add_help=add_help,
            allow_abbrev=False,
            formatter_class=_Help,
        )

    def error(self, message: str) -> NoReturn:
        """Raise a UsageError, which `guarded` prints."""
        raise UsageError(f"{message} (see {self.prog} --help)")


def guarded(prog: str, work: Callable[[], int]) -> int:
    """Run `work` and return its exit code; bad input prints a line and returns 2, an interrupt or SIGTERM 130."""
    try:
        # Schedulers end a job by SIGTERM: clean up and record it as for Ctrl-C.
        # Python sets signal handlers in the main thread alone, and raises in any other.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        return work()
    except UsageError as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print(f"{prog}: interrupted; the same command continues where it stopped", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (head, less) has ended. Python would print the error again at exit: close the stream.
        sys.stderr.close()
        return DONE
    except OSError as error:
        # What a disk, a name or a right forbids, wherever it is noticed. Any other one is a fault of ours, to be seen.
        if error.errno not in _LIMITS:
            raise
        name = str(error.filename or "")
        place = f"{name[:_SHOWN]}...: " if len(name) > _SHOWN else f"{name}: " if name else ""
        print(f"{prog}: error: {place}{error.strerror}", file=sys.stderr)
        return BAD_INPUT
    except MemoryError:
        print(f"{prog}: failed: the memory that this process may use is not enough", file=sys.stderr)
        return FAILED


def words(text: str) -> tuple[str, ...]:
    """Return `a,b` as ("a", "b")."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def numbers(text: str, flag: str) -> tuple[int, ...]:
    """Return `0,1,2` as numbers.

    Raises:
        UsageError: where it is not a list of whole numbers.
    """
    try:
        return tuple(int(word) for word in words(text))
    except ValueError:
        raise UsageError(f"{flag} {text}: give whole numbers separated by commas, as 0,1,2") from None
