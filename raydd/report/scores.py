"""Accuracies as the page shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from raydd.evaluate import Accuracy, Robustness
from raydd.text import number, size

TITLES = {"distilled": "Distilled set", "random": "Random real images", "whole": "Whole training set"}
TITLES |= {"random@bytes": "Random real images, same bytes", "kcenter": "k-center", "kmeans": "k-means"}
PREDICTORS = {"train": "trained network", "krr": "kernel ridge regression", "knn": "nearest neighbours"}


def title_of(of: str) -> str:
    """Return what networks were trained on, in words."""
    return TITLES.get(of, of.replace("_", " ").capitalize())


@dataclass(frozen=True, slots=True)
class Way:
    """How something was scored: results are comparable only within one."""

    protocol: str
    predictor: str
    augment: str

    @property
    def text(self) -> str:
        """The way in words."""
        parts = [f"protocol {self.protocol}"]
        parts += [PREDICTORS.get(self.predictor, self.predictor)] if self.predictor != "train" else []
        return ", ".join(parts + ([f"augmentation {self.augment}"] if self.augment else []))


@dataclass(frozen=True, slots=True)
class Score:
    """An accuracy, and how it was scored."""

    result: Accuracy
    way: Way

    @property
    def title(self) -> str:
        """What was trained on, in words."""
        return title_of(self.result.of)


def scores(results: Sequence[Accuracy]) -> list[Score]:
    """Return accuracies as the page shows them, in their order."""
    return [Score(result, Way(result.protocol, result.predictor, _augment(result))) for result in results]


def _augment(result: Accuracy) -> str:
    return (result.augment or "").replace(":", ": ").replace("_", ", ")


def headline(found: Sequence[Score]) -> list[Score]:
    """Return the first accuracy and what is comparable with it: one way, one network and one distilled set, each kind once."""
    alike: dict[str, Score] = {}
    for score in found:
        first, result = found[0], score.result
        if (score.way, result.net, result.set) == (first.way, first.result.net, first.result.set):
            alike.setdefault(result.of, score)
    return list(alike.values())


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its name, and whether it holds numbers."""

    name: str
    right: bool = False
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table: its name, its cells as (text, fainter text after it), and whether it is the run's own."""

    name: str
    cells: tuple[tuple[str, str], ...]
    own: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table: what the rows are, columns, rows, and what holds for all rows as pairs of name and value."""

    corner: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    common: tuple[tuple[str, str], ...] = ()


def networks(result: Accuracy) -> str:
    """Return how many networks were trained: of several sets that were distilled alike, such as `5 x 20`."""
    return f"{result.sets} x {result.repeats // result.sets}" if result.sets > 1 else str(result.repeats)


def percent(mean: float, std: float | None) -> tuple[str, str]:
    """Return an accuracy and its deviation as text."""
    return f"{mean:.1f}", "" if std is None else f" \N{PLUS-MINUS SIGN} {std:.1f}"


def percent_of(result: Accuracy) -> tuple[str, str]:
    """Return an accuracy as text, with its deviation where there is one."""
    return percent(result.mean, result.std if result.repeats > 1 else None)


Show = Callable[[Accuracy], str]
_COLUMNS: tuple[tuple[Column, Show], ...] = (
    (Column("Set", kind="set"), lambda r: r.set or ""),
    (Column("Networks", True), lambda r: networks(r)),
    (Column("Protocol"), lambda r: r.protocol),
    (Column("Predictor"), lambda r: PREDICTORS.get(r.predictor, r.predictor)),
    (Column("Network", kind="net"), lambda r: r.net.replace(":", ": ").replace(",", ", ")),
    (Column("Augmentation"), _augment),
    (Column("Labels"), lambda r: r.labels or ""),
    (Column("Learning rate", True), lambda r: "" if r.lr is None else f"{r.lr:g}"),
    (Column("Images", True), lambda r: number(r.images)),
    (Column("A class, by count", True), lambda r: _each(r.images_per_class)),
    (Column("A class, by storage", True), lambda r: _each(r.stored_images_per_class)),
    (Column("Storage", True), lambda r: size(r.storage_bytes)),
)
# What is no column of its own where all rows have the same.
_COMMON = ("Set", "Networks", "Protocol", "Predictor", "Network", "Augmentation", "Labels", "Learning rate")


def _each(count: float | None) -> str:
    return "" if count is None else f"{count:.4g}"


def accuracy_table(found: Sequence[Score], *, memory: bool) -> Table:
    """Return all accuracies as a table; what nothing is known of is left out, what all have in common stands apart.

    Args:
        found: The accuracies.
        memory: Whether the set is an addressed memory, of which images a class are counted in two ways.
    """
    told = [(column, [show(score.result) for score in found]) for column, show in _COLUMNS]
    told = [(column, texts) for column, texts in told if any(texts)]
    if not memory:
        told = [(column, texts) for column, texts in told if not column.name.startswith("A class, ")]
    common = [column.name for column, texts in told if column.name in _COMMON and len(set(texts)) == 1]
    shown = [(column, texts) for column, texts in told if column.name not in common]
    rows = tuple(
        Row(score.title, (percent_of(score.result), *((texts[i], "") for _, texts in shown)), _is_own(score))
        for i, score in enumerate(found)
    )
    return Table(
        "Trained on",
        (Column("Accuracy", True, "score"), *(column for column, _ in shown)),
        rows,
        tuple((column.name, texts[0]) for column, texts in told if column.name in common),
    )


def robust_table(found: Sequence[Robustness]) -> Table:
    """Return robust scores, and what they are made of in percent, as a table."""
    parts = {"Gain over random": "gain_over_random", "Loss by hard labels": "hard_label_loss"}
    parts |= {"Gain, augmented": "augmented_gain", "Gain, not augmented": "plain_gain"}
    names = ["Label-robust score", "Augmentation-robust score", *parts]

    def row(one: Robustness) -> Row:
        spreads = ["" if std is None else f" \N{PLUS-MINUS SIGN} {std:.3f}" for std in (one.lrs_std, one.ars_std)]
        values = list(zip([f"{one.lrs:.3f}", f"{one.ars:.3f}"], spreads, strict=True))
        values += [(f"{100 * getattr(one, key):+.1f}", "") for key in parts.values()]
        return Row(one.set or TITLES["distilled"], tuple(values), own=True)

    return Table("Set", tuple(Column(name, True) for name in names), tuple(row(one) for one in found))


def _is_own(score: Score) -> bool:
    return score.result.of == "distilled"


def notes(found: Sequence[Score]) -> list[tuple[str, str]]:
    """Return what a reader must know besides, once each: what was trained on, and the note."""
    return list(dict.fromkeys((score.title, note) for score in found for note in _notes(score.result)))


def _notes(result: Accuracy) -> Iterator[str]:
    if result.sets > 1:
        each = result.repeats // result.sets
        plural = "s" if each != 1 else ""
        yield f"{networks(result)} is {each} network{plural} on each of {result.sets} sets, distilled alike with a seed each"
    if result.note:
        yield result.note
