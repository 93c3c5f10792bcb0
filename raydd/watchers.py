"""Who is told how long work goes on; see `raydd.terminal` for one that shows it."""

from __future__ import annotations

from typing import Protocol

from raydd.engine.coordinator import Progress


class Watcher(Protocol):
    """Is told how long work goes on. Every method may be called often."""

    def packing(self, done: int, total: int) -> None:
        """Images packed."""
        ...

    def round(self, progress: Progress) -> None:
        """A round is done."""
        ...

    def validating(self, done: int, total: int) -> None:
        """Sets on the way scored after the last round, of those that had no score by then."""
        ...

    def evaluating(self, done: int, total: int) -> None:
        """Networks trained."""
        ...

    def exporting(self, done: int, total: int) -> None:
        """Images written in another format."""
        ...

    def pulling(self, done: int, total: int) -> None:
        """Bytes of a distilled set fetched."""
        ...

    def sweeping(self, done: int, total: int, far: str) -> None:
        """Trials that have ended, and what the best of them reached."""
        ...

    def training(self, done: int, total: int, loss: float) -> None:
        """Updates of a network done, and the loss of the last."""
        ...

    def say(self, text: str) -> None:
        """Something worth a line."""
        ...


class Silent:
    """A watcher that says nothing."""

    def packing(self, done: int, total: int) -> None:
        """Ignore it."""

    def round(self, progress: Progress) -> None:
        """Ignore it."""

    def validating(self, done: int, total: int) -> None:
        """Ignore it."""

    def evaluating(self, done: int, total: int) -> None:
        """Ignore it."""

    def exporting(self, done: int, total: int) -> None:
        """Ignore it."""

    def pulling(self, done: int, total: int) -> None:
        """Ignore it."""

    def sweeping(self, done: int, total: int, far: str) -> None:
        """Ignore it."""

    def training(self, done: int, total: int, loss: float) -> None:
        """Ignore it."""

    def say(self, text: str) -> None:
        """Ignore it."""
