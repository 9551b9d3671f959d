"""One progress display with an ETA, on standard error, for everything that takes long."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")
#: Where standard error is no terminal (a log), a line at most this often, in seconds.
LOG_EVERY = 10.0
#: The display that is on; bars inside a bar become further lines of it, since a terminal has room for one display.
_displays: "list[Progress]" = []


class Bar(Protocol):
    """What a long piece of work calls."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Say that `steps` more are done; `note` stands behind the bar (a loss, say)."""


@contextmanager
def bar(what: str, total: int) -> Iterator[Bar]:
    """A bar of `total` steps: on a terminal it moves, in a log it is a line now and then."""
    if not sys.stderr.isatty():
        yield _Log(what, total)
    elif _displays:
        yield from _line(_displays[-1], what, total)
    else:
        with _display() as progress:
            _displays.append(progress)
            try:
                yield from _line(progress, what, total)
            finally:
                _displays.pop()


def track(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """Yield `items` under a bar."""
    with bar(what, total) as progress:
        for item in items:
            yield item
            progress.advance()


def _line(display: "Progress", what: str, total: int) -> Iterator[Bar]:
    task = display.add_task(what, total=total, note="")

    class Line:
        def advance(self, steps: int = 1, note: str = "") -> None:
            display.update(task, advance=steps, note=note)

    try:
        yield Line()
    finally:
        # A line inside a bar has had its say; the outermost one stays to be read.
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
        console=Console(stderr=True),
    )


class _Log:
    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.done = what, total, 0
        self.start = self.said = time.monotonic()

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.done += steps
        now = time.monotonic()
        if now - self.said < LOG_EVERY:
            return
        self.said = now
        left = (now - self.start) * (self.total - self.done) / max(self.done, 1)
        print(f"{self.what}: {self.done}/{self.total}, ETA {left:.0f} s {note}".rstrip(), file=sys.stderr, flush=True)
