"""Results as a table: what was trained on in rows, which networks were trained in columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from raydd.evaluate.results import Accuracy


@dataclass(frozen=True, slots=True)
class Matrix:
    """Accuracies by source and target, as in the papers' cross-architecture tables.

    Attributes:
        rows: The sets and baselines, in the order of the results.
        columns: The networks, with whatever else differs between results.
        cells: The accuracy of a (row, column); a pair that was not asked for is not there.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: dict[tuple[str, str], Accuracy]

    def lines(self) -> Iterator[str]:
        """Yield the table as text: mean and deviation in percent."""
        first = max(map(len, self.rows), default=0)
        widths = {column: max(len(column), len("100.00 +- 10.00")) for column in self.columns}
        yield "  ".join([" " * first, *(f"{column:>{width}}" for column, width in widths.items())])
        for row in self.rows:
            texts = [f"{_score(self.cells.get((row, column))):>{width}}" for column, width in widths.items()]
            yield "  ".join([f"{row:{first}}", *texts])


def arrange(results: Sequence[Accuracy]) -> Matrix:
    """Arrange results as a matrix.

    A row is a set, or a baseline (with its set's name where there are several). A column is a network, by its options
    where several are of one name, and whatever else keeps two results of a row apart: predictor, no augmentation,
    protocol, labels.
    """
    places = [(_row(results, result), _column(results, result, ())) for result in results]
    if len(set(places)) < len(places):
        places = [(_row(results, result), _column(results, result, ("protocol", "labels"))) for result in results]
    cells: dict[tuple[str, str], Accuracy] = {}
    for place, result in zip(places, results, strict=True):
        cells.setdefault(place, result)
    rows, columns = (tuple(dict.fromkeys(place[i] for place in places)) for i in (0, 1))
    return Matrix(rows, columns, cells)


def _row(results: Sequence[Accuracy], result: Accuracy) -> str:
    if result.of == "distilled":
        return result.set or result.of
    return f"{result.of} for {result.set}" if len({r.set for r in results}) > 1 else result.of


def _column(results: Sequence[Accuracy], result: Accuracy, keys: Sequence[str]) -> str:
    parts = [short_nets([r.net for r in results])[result.net]]
    parts += [str(getattr(result, key)) for key in keys if result.net]
    parts += [result.predictor] if result.predictor != "train" else []
    alike = ("net", "predictor", "protocol")
    if result.augment is None and any(
        r.augment is not None and all(getattr(r, key) == getattr(result, key) for key in alike) for r in results
    ):
        parts.append("plain")
    return " ".join(part for part in parts if part)


def short_nets(texts: Sequence[str]) -> dict[str, str]:
    """Return each network's text without what it shares with the others: its name, or its name and some options."""
    options = {text: text.partition(":")[2].split(",") for text in texts}
    names = {text: text.partition(":")[0] for text in texts}
    shortened = {}
    for text, name in names.items():
        alike = [options[other] for other in options if names[other] == name]
        own = [option for option in options[text] if any(option not in others for others in alike)]
        shortened[text] = f"{name}:{','.join(own)}" if own else name
    return shortened


def _score(accuracy: Accuracy | None) -> str:
    if accuracy is None:
        return "-"
    return f"{accuracy.mean:.2f} +- {accuracy.std:.2f}" if accuracy.repeats > 1 else f"{accuracy.mean:.2f}"
