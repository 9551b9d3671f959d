"""Show progress with an ETA: on standard error, and in a notebook below its cell."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")
#: Least seconds between two lines where standard error is not a terminal (a log).
LOG_EVERY = 10.0
#: The live display, at most one. It is module state because there is one terminal: rich refuses a second live display,
#: and code that opens a bar does not know whether it runs inside another one. Inner bars become lines of the display.
_displays: "list[Progress]" = []


class Bar(Protocol):
    """A progress bar, advanced by the work that it shows."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Add `steps` to the steps done; `note` is shown behind the bar (a loss, for example)."""


@contextmanager
def bar(title: str, total: int) -> Iterator[Bar]:
    """Yield a bar of `total` steps.

    On a terminal and in a notebook it moves; in a log it is a line every LOG_EVERY seconds.
    """
    # A log would be filled with control characters of a moving bar.
    if not (sys.stderr.isatty() or in_notebook()):
        yield _Log(title, total)
    elif _displays:
        yield from _line(_displays[-1], title, total)
    else:
        with _display() as progress:
            _displays.append(progress)
            try:
                yield from _line(progress, title, total)
            finally:
                _displays.pop()


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    # Looked up, not imported: a process without a notebook has not loaded IPython, and shall not.
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"


def track(items: Iterable[T], title: str, total: int) -> Iterator[T]:
    """Yield `items` under a bar."""
    with bar(title, total) as progress:
        for item in items:
            yield item
            progress.advance()


def _line(display: "Progress", title: str, total: int) -> Iterator[Bar]:
    task = display.add_task(title, total=total, note="")

    class Line:
        def advance(self, steps: int = 1, note: str = "") -> None:
            display.update(task, advance=steps, note=note)

    try:
        yield Line()
    finally:
        # The line of an inner bar goes with its work; the outermost one stays.
        display.update(task, visible=display.tasks[0].id == task)


def _display() -> "Progress":
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("ETA"),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[note]}"),
        console=Console(stderr=True, force_jupyter=in_notebook()),
    )


class _Log:
    def __init__(self, title: str, total: int) -> None:
        self.title, self.total, self.done = title, total, 0
        self.start = self.printed = time.monotonic()

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.done += steps
        now = time.monotonic()
        if now - self.printed < LOG_EVERY:
            return
        self.printed = now
        # By the mean pace since the start; max() serves the time before the first step.
        left = (now - self.start) * (self.total - self.done) / max(self.done, 1)
        print(f"{self.title}: {self.done}/{self.total}, ETA {left:.0f} s {note}".rstrip(), file=sys.stderr, flush=True)
