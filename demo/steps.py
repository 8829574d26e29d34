"""The progress of the demo's steps, for a person: bars on a terminal, lines in a log."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

HEARTBEAT_SECONDS: Final = 10.0


@dataclass
class Step:
    """A piece of work that is done ``total`` times; ``detail`` says how it stands."""

    what: str
    total: int
    done: int = 0
    detail: str = ""
    _bar: tuple[Progress, TaskID] | None = field(default=None, repr=False)

    def advance(self) -> None:
        """Count it as done once more."""
        self.stands_at(self.done + 1)

    def stands_at(self, done: int, detail: str = "") -> None:
        """Set how many times it was done."""
        self.done, self.detail = done, detail
        if self._bar is not None:
            progress, task = self._bar
            progress.update(task, completed=done, detail=escape(detail))

    def __str__(self) -> str:
        count = f": {self.done} of {self.total}" if self.total > 1 else ""
        return f"{self.what}{count}{f' ({self.detail})' if self.detail else ''}"


@dataclass
class Steps:
    """Shows steps one after the other.

    Without a terminal a line marks the beginning and the end of a step. Every ten seconds a line
    says that it goes on.
    """

    console: Console
    _began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """How long it has been since the first step."""
        return time.monotonic() - self._began

    @contextmanager
    def step(self, what: str, total: int = 1) -> Iterator[Step]:
        """A step, for the length of a ``with`` block."""
        with (self._bar if self.console.is_terminal else self._lines)(what, total) as step:
            yield step

    def say(self, words: str) -> None:
        """Print a line, with the time since the first step."""
        self.console.print(f"[dim]{self.seconds:4.0f} s[/dim]  {words}", highlight=False)

    @contextmanager
    def _bar(self, what: str, total: int) -> Iterator[Step]:
        columns = (
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[detail]}[/dim]"),
        )
        with Progress(*columns, console=self.console, refresh_per_second=4) as progress:
            task = progress.add_task(escape(what), total=total, detail="")
            step = Step(what, total, _bar=(progress, task))
            yield step
            step.stands_at(total)

    @contextmanager
    def _lines(self, what: str, total: int) -> Iterator[Step]:
        step, ended = Step(what, total), threading.Event()
        self.say(f"{escape(what)} …")

        def tell() -> None:
            while not ended.wait(HEARTBEAT_SECONDS):
                self.say(f"  … {escape(str(step))}")

        heartbeat = threading.Thread(target=tell, name="heartbeat", daemon=True)
        heartbeat.start()
        try:
            yield step
        finally:
            ended.set()
            heartbeat.join()
