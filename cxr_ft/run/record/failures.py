"""Record why a run failed: one line for result.json, which others read, and everything for the run's own log.

The message of an error may quote anything: a path, an id, a cell, a sentence. So the line is taken from the error's
message only where this package wrote it for that purpose (TrainingError); of any other error it names the class and the
place in the code. The message and the traceback go to `run.log`, a private file in the run's folder.
"""

import os
import time
import traceback
from pathlib import Path

from cxr_ft.errors import TrainingError
from cxr_ft.files import open_for_appending

#: The run's log; nothing of it is passed on.
LOG = "run.log"


def record(run: Path, error: BaseException) -> str:
    """Append an error with its traceback to the run's log; return the line that others may read."""
    details = f"{error.details}\n" if isinstance(error, TrainingError) and error.details else ""
    text = "".join(traceback.format_exception(error))
    with open_for_appending(run / LOG, private=True) as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}\n{text}{details}\n")
    return public_line(error)


def public_line(error: BaseException) -> str:
    """Return what may be said of an error to those who may not see the data: no message of unknown origin."""
    if isinstance(error, TrainingError):
        return next(iter(str(error).splitlines()), "") or type(error).__name__
    kind = type(error).__name__
    cause = error if isinstance(error, OSError) else error.__cause__
    # The system's own words for a number; an OSError's message names a file.
    why = f": {os.strerror(cause.errno)}" if isinstance(cause, OSError) and cause.errno else ""
    return f"{kind}{why}, in {_place(error)}; the message is in {LOG} in the run's folder"


def _place(error: BaseException) -> str:
    """Return the module and line that raised an error; not the file, whose path names the user's folders."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "an unknown place"
    return f"{trace.tb_frame.f_globals.get('__name__', 'a script')} line {trace.tb_lineno}"
