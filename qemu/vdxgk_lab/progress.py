"""Progress of long steps: a bar on a terminal, plain lines anywhere else."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)


class Step(Protocol):
    """A step under way."""

    def update(self, percent: float) -> None:
        """Say how much is done, 0 to 100."""


class Reporter:
    """Tells a person, on standard error, what takes so long."""

    def __init__(self, console: Console | None = None) -> None:
        """Report to `console`; standard error by default."""
        self._console = console or Console(file=sys.stderr, highlight=False)

    def note(self, text: str) -> None:
        """One line."""
        self._console.print(f"setup: {text}", markup=False, soft_wrap=True)

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Frame a step: its title while it lasts, and how long it took."""
        start = time.monotonic()
        if self._console.is_terminal:
            columns = (
                TextColumn("setup: {task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TimeElapsedColumn(),
            )
            with Progress(*columns, console=self._console, transient=True) as bar:
                task = bar.add_task(title, total=None)
                yield _Bar(bar, int(task))
        else:
            self.note(f"{title} ...")
            yield _Lines()
        self.note(f"{title}: done in {time.monotonic() - start:.0f} s")


class Silent(Reporter):
    """Tells nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Nothing."""
        yield _Lines()


class _Bar:
    def __init__(self, bar: Progress, task: int) -> None:
        self._bar = bar
        self._task = task

    def update(self, percent: float) -> None:
        self._bar.update(TaskID(self._task), total=100, completed=percent)


class _Lines:
    def update(self, percent: float) -> None:
        pass
