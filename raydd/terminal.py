"""Progress for people: a bar on a terminal, plain lines in a log. Always on stderr; stdout is for results."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from raydd.pace import Pace
from raydd.text import duration, rate

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from raydd.engine.coordinator import Progress

# A log gets a line this often, and after a quarter of an hour ever more rarely: sixty lines for that quarter, some three
# hundred for a day.
LINE_EVERY_S = 15.0
RARER_AFTER_S = 900.0


class Terminal:
    """A watcher (see `raydd.api.Watcher`) that shows progress on stderr."""

    def __init__(self, *, bars: bool | None = None) -> None:
        self.bars = sys.stderr.isatty() if bars is None else bars
        self._bar: Bar | None = None
        self._task = ""
        self._last = self._began = 0.0
        self._pace = Pace()

    def say(self, text: str) -> None:
        """Write a line."""
        self.close()
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def packing(self, done: int, total: int) -> None:
        """Show images packed."""
        self._show("packing", done, total, "images")

    def validating(self, done: int, total: int) -> None:
        """Show sets scored on the validation part."""
        self._show("validating", done, total, "sets")

    def evaluating(self, done: int, total: int) -> None:
        """Show networks trained."""
        self._show("evaluating", done, total, "networks")

    def exporting(self, done: int, total: int) -> None:
        """Show images written."""
        self._show("exporting", done, total, "images")

    def pulling(self, done: int, total: int) -> None:
        """Show what was fetched."""
        self._show("pulling", -(-done // 1000), -(-total // 1000), "kB")

    def sweeping(self, done: int, total: int, far: str) -> None:
        """Show trials that have ended."""
        self._show("sweeping", done, total, f"trials, {far}", "trials")

    def training(self, done: int, total: int, loss: float) -> None:
        """Show updates of a network done."""
        self._show("training", done, total, f"updates, loss {loss:.4g}")

    def round(self, progress: Progress) -> None:
        """Show rounds done."""
        loss = progress.metrics.get("loss")
        detail = "rounds" if loss is None else f"rounds, loss {loss:.4g}"
        if progress.workers:
            detail += f", {progress.workers} workers"
        self._show("distilling", progress.round, progress.rounds, detail, "rounds")

    def _show(self, task: str, done: int, total: int, detail: str, unit: str = "") -> None:
        if self.bars:
            self._draw(task, done, total, detail)
        else:
            self._log(task, done, total, detail, unit)
        self._task = task

    def _log(self, task: str, done: int, total: int, detail: str, unit: str) -> None:
        now = time.monotonic()
        if task != self._task:
            self._pace, self._began = Pace(done), now
        self._pace.tell(done)
        every_s = LINE_EVERY_S * max(1.0, (now - self._began) / RARER_AFTER_S)
        if done == total or task != self._task or now - self._last >= every_s:
            self._last = now
            per_second, left = self._pace.per_second(), self._pace.seconds_left(total)
            if per_second and unit:
                detail += f", {rate(per_second, unit)}"
            if left:
                detail += f", {duration(left)} left"
            sys.stderr.write(f"{task}: {done}/{total} {detail}\n")
            sys.stderr.flush()

    def _draw(self, task: str, done: int, total: int, detail: str) -> None:
        if task != self._task:
            self.close()
        if self._bar is None:
            self._bar = self._start(task, total)
        self._bar.update(self._bar.task_ids[0], completed=done, detail=detail)
        if done == total:
            self.close()

    def _start(self, task: str, total: int) -> Bar:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("{task.description:10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
        )
        bar = Bar(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True))
        bar.start()
        bar.add_task(task, total=total, detail="")
        return bar

    def close(self) -> None:
        """Take the bar away; what it showed stays."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
