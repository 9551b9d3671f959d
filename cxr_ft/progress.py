"""One progress bar with an ETA, on standard error, for everything that takes long."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

T = TypeVar("T")


class Bar(Protocol):
    """What a long piece of work calls."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Say that `steps` more are done; `note` stands behind the bar (a loss, say)."""


@contextmanager
def bar(what: str, total: int) -> Iterator[Bar]:
    """A bar of `total` steps. On a terminal it moves; elsewhere (a log) it prints a line at each tenth."""
    if not sys.stderr.isatty():
        yield _Log(what, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=total, note="")

        class Rich:
            def advance(self, steps: int = 1, note: str = "") -> None:
                progress.update(task, advance=steps, note=note)

        yield Rich()


def track(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """Yield `items` under a bar."""
    with bar(what, total) as progress:
        for item in items:
            yield item
            progress.advance()


class _Log:
    def __init__(self, what: str, total: int) -> None:
        import time

        self.what, self.total, self.done, self.tenth = what, total, 0, 0
        self.clock, self.start = time.monotonic, time.monotonic()

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.done += steps
        tenth = 10 * self.done // max(self.total, 1)
        if tenth == self.tenth:
            return
        self.tenth = tenth
        left = (self.clock() - self.start) * (self.total - self.done) / self.done
        print(f"{self.what}: {self.done}/{self.total}, ETA {left:.0f} s {note}".rstrip(), file=sys.stderr, flush=True)
