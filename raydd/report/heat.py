"""Tables of numbers as heat maps: accuracies of networks, similarity of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize

from raydd.distilled import DistilledSet
from raydd.evaluate.matrix import short_nets
from raydd.report.papers import Cross
from raydd.report.pictures import png_uri
from raydd.report.scores import Score, Way, title_of

MOST_CELLS = 10  # classes whose similarities are written out
MOST_PIXELS = 400
PAIRS = 5
GROUNDS = {"light": (0xFF, 0xFF, 0xFF), "dark": (0x1A, 0x1E, 0x23)}
ALIKE = {"light": (0x1F, 0x6F, 0x8B), "dark": (0x6C, 0xC0, 0xD9)}
UNLIKE = {"light": (0xB4, 0x53, 0x09), "dark": (0xE8, 0x9B, 0x5A)}


@dataclass(frozen=True, slots=True)
class Heat:
    """A cell: what it says, how strongly it is coloured from 0 to 100, and whether it is a negative value."""

    text: str
    strength: int
    negative: bool = False


@dataclass(frozen=True, slots=True)
class HeatMap:
    """A heat map as a table.

    Attributes:
        corner: What the rows are.
        columns: Names of the columns.
        rows: Names and cells of the rows; None for a cell without a value.
    """

    corner: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Heat | None, ...]], ...]


def _accuracies(corner: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[float | None]]]) -> HeatMap:
    values = [value for _, row in rows for value in row if value is not None]
    low, high = min(values), max(values)
    scale = 100 / (high - low) if high > low else 0.0

    def cell(value: float | None) -> Heat | None:
        return None if value is None else Heat(f"{value:.1f}", round(scale * (value - low)))

    return HeatMap(corner, tuple(columns), tuple((name, tuple(map(cell, row))) for name, row in rows))


def cross_architecture(found: Sequence[Score]) -> HeatMap | None:
    """Return what networks score that were trained on which sets; None where there is but one network and one set.

    Rows are networks where there are more of them than sets, so that a map is higher than wide. Sets of one kind that
    differ in their labels are told apart by them, networks by their way of scoring where there are several, and baselines
    by the set that they were scored beside where they score otherwise beside another.
    """
    by_set = _by_set(found)
    of_score = [_source(score, by_set) for score in found]
    sources = list(dict.fromkeys(of_score))
    if len({score.result.net for score in found} - {""}) < 2 and sum(of == "distilled" for of, _, _ in sources) < 2:
        return None
    targets = list(dict.fromkeys((score.result.net, score.way) for score in found))
    values = {
        (source, (score.result.net, score.way)): score.result.mean
        for source, score in zip(of_score, found, strict=True)
    }
    nets, several = short_nets([net for net, _ in targets]), len({way for _, way in targets}) > 1
    columns = [", ".join(filter(None, [nets[net], way.text if several else ""])) for net, way in targets]
    kinds = [source[:2] for source in sources]
    names = _short_names([name for _, name, _ in sources])
    rows = [_title(of, names[name], kind, told_apart=kinds.count((of, name)) > 1) for of, name, kind in sources]
    table = [[values.get((source, target)) for target in targets] for source in sources]
    if len(columns) > len(rows):
        return _accuracies("Network", rows, list(zip(columns, zip(*table, strict=True), strict=True)))
    return _accuracies("Trained on", columns, list(zip(rows, table, strict=True)))


def _by_set(found: Sequence[Score]) -> set[str]:
    """Return the kinds of which every set has its own: the distilled ones, and baselines whose accuracies differ."""
    values: dict[tuple[str, str | None, str, Way], dict[str | None, float]] = {}
    for score in found:
        result = score.result
        values.setdefault((result.of, result.labels, result.net, score.way), {})[result.set] = result.mean
    return {"distilled"} | {key[0] for key, of_sets in values.items() if len(set(of_sets.values())) > 1}


def _source(score: Score, by_set: set[str]) -> tuple[str, str, str]:
    result = score.result
    return result.of, (result.set or "") if result.of in by_set else "", result.labels or ""


def _title(of: str, name: str, labels: str, *, told_apart: bool) -> str:
    # The set first: what does not fit is cut off at the end.
    parts = [name] if name and of == "distilled" else [name, title_of(of)] if name else [title_of(of)]
    return ", ".join([*parts, f"{labels} labels"] if told_apart else parts)


def _short_names(names: Sequence[str]) -> dict[str, str]:
    """Return of each set's URL as many parts of its end as tell the sets apart."""
    parts = {name: name.rstrip("/").split("/") for name in names}
    longest = max(map(len, parts.values()))
    for count in range(1, longest + 1):
        short = {name: "/".join(of[-count:]) for name, of in parts.items()}
        if len(set(short.values())) == len(short):
            return short
    return {name: name for name in names}


def published_map(cross: Cross) -> HeatMap:
    """Return a published cross-architecture table as a heat map."""
    return _accuracies(cross.title, cross.targets, cross.rows)


def similarities(addresses: Tensor) -> Tensor:
    """Return the cosine similarity of classes' coefficients, (classes, classes) in [-1, 1].

    Args:
        addresses: The addressing matrices, float32 (classes, r, K); a class's coefficients are all of its r x K.
    """
    of_class = normalize(addresses.flatten(1).double(), dim=1)
    return (of_class @ of_class.T).clamp(-1, 1)


@dataclass(frozen=True, slots=True)
class Similarity:
    """How much alike classes are in a memory.

    Attributes:
        map: The heat map, for few classes.
        pictures: Two pictures, on light and on dark ground, for many.
        pairs: The pairs of classes that are most alike, and their similarity.
    """

    map: HeatMap | None
    pictures: tuple[str, str] | None
    pairs: tuple[tuple[str, str, float], ...]


def similarity(ds: DistilledSet) -> Similarity | None:
    """Return how much alike the classes of an addressed memory are; None of anything else."""
    if not ds.is_memory or len(ds.extras["addresses"]) != len(ds.classes) or len(ds.classes) < 2:
        return None
    matrix = similarities(ds.extras["addresses"])
    few = len(matrix) <= MOST_CELLS
    return Similarity(
        map=_similarity_map(matrix, ds.classes) if few else None,
        pictures=None if few else (png_uri(_coloured(matrix, "light")), png_uri(_coloured(matrix, "dark"))),
        pairs=_pairs(matrix, ds.classes),
    )


def _similarity_map(matrix: Tensor, classes: Sequence[str]) -> HeatMap:
    rows = tuple(
        (name, tuple(Heat(_short(value), round(100 * abs(value)), value < 0) for value in row))
        for name, row in zip(classes, matrix.tolist(), strict=True)
    )
    return HeatMap("Class", tuple(classes), rows)


def _short(value: float) -> str:
    """Return a value in [-1, 1] in as few characters as tell it."""
    return f"{round(value, 2) or 0.0:.2f}".replace("0.", ".", 1)


def _coloured(matrix: Tensor, ground: str) -> Tensor:
    """Return a matrix of values in [-1, 1] as a picture, uint8 (3, n, n): colours of both signs, blended into the ground.

    A pixel is the mean of neighbours where there are too many.
    """
    factor = -(-len(matrix) // MOST_PIXELS)
    value = avg_pool2d(matrix[None], factor, ceil_mode=True)[0, :, :, None]
    paper, alike, unlike = (torch.tensor(table[ground]).double() for table in (GROUNDS, ALIKE, UNLIKE))
    colour = torch.where(value < 0, unlike, alike)
    return (paper + value.abs() * (colour - paper)).round().byte().permute(2, 0, 1)


def _pairs(matrix: Tensor, classes: Sequence[str]) -> tuple[tuple[str, str, float], ...]:
    first, second = torch.triu_indices(len(matrix), len(matrix), offset=1)
    values, best = matrix[first, second].topk(min(PAIRS, len(first)))
    return tuple(
        (classes[int(first[i])], classes[int(second[i])], value)
        for i, value in zip(best.tolist(), values.tolist(), strict=True)
    )
