"""Reads what a run's folder holds; all of it but the distilled set may be missing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor

from raydd.distilled import DistilledSet, tensors_from
from raydd.errors import DataError
from raydd.evaluate import Accuracy, Evaluation, recorded
from raydd.report.real import RealImages, read_real
from raydd.store import Folder
from raydd.text import is_number

MOST_FRAMES = 8

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A set that was chosen among those on the way: after how many rounds, of how many, and its score or None."""

    round: int
    of: int
    score: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """A run as far as its folder tells.

    Attributes:
        url: The run's folder.
        ds: The distilled set.
        loss: Pairs of round and loss, ascending.
        scores: Triples of the rounds that a set had seen, its accuracy on the validation part in percent, and the
            deviation, ascending.
        status: Contents of `status.json`, or empty.
        results: Accuracies.
        evaluation_seconds: How long the evaluation took, or None.
        history: Pairs of round and images, float32, the first ones of `ds.images` as they were then; at most eight,
            the set's own the last of them.
        real: Real images of some classes, or None.
        evaluations: What `raydd evaluate` found of the set since.
        missing: What could not be read, one short sentence a part, by the part's name.
    """

    url: str
    ds: DistilledSet
    loss: list[tuple[float, float]]
    scores: list[tuple[float, float, float]]
    status: dict[str, Any]
    results: list[Accuracy]
    evaluation_seconds: float | None
    history: list[tuple[int, Tensor]]
    real: RealImages | None
    evaluations: list[Evaluation] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def choice(self) -> Choice | None:
        """The set's round where the validation part chose it; None where it is simply the last."""
        recipe = self.ds.recipe
        if not recipe.rounds or recipe.config.get("evaluate", {}).get("select") != "val":
            return None
        said = recipe.config.get("method", {}).get("rounds")
        score = next((mean for round, mean, _ in self.scores if round == recipe.rounds), None)
        return Choice(round=recipe.rounds, of=max(recipe.rounds, int(said) if is_number(said) else 0), score=score)

    @property
    def later(self) -> list[list[Accuracy]]:
        """What each later evaluation found of this set; those by its recipe's protocol come first."""
        found = [own for one in self.evaluations if (own := _own(one.results, self.url))]
        return sorted(found, key=lambda own: (own[0].predictor != "train", own[0].protocol != self.ds.recipe.protocol))


def _own(results: list[Accuracy], url: str) -> list[Accuracy]:
    """Return those accuracies that are about the run at `url`, though other sets were scored beside it."""
    names = {result.set or "" for result in results}
    if len(names) > 1:
        # A set goes by the path or URL that somebody typed, perhaps in another folder: its end tells.
        names = set(sorted((name for name in sorted(names) if _is_end(name, url)), key=len)[-1:])
    return [result for result in results if (result.set or "") in names]


def _is_end(name: str, url: str) -> bool:
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    if parts[-1:] == ["distilled"]:
        parts.pop()
    return bool(parts) and [part for part in url.split("/") if part][-len(parts) :] == parts


def gather(run: Folder) -> RunRecord:
    """Read a run's folder.

    Raises:
        DataError: When it holds no distilled set.
    """
    ds = DistilledSet.load(run.url)
    missing: dict[str, str] = {}

    def part(name: str, read: Callable[[], T], otherwise: T) -> T:
        try:
            return read()
        except FileNotFoundError:
            missing[name] = "Nothing was recorded."
        except (DataError, ValueError, KeyError, TypeError) as error:
            missing[name] = f"The record could not be read: {error}"
        return otherwise

    status = part("status", lambda: _object(run.read("status.json")), {})
    rows = part("metrics", lambda: _metrics(run), [])
    loss = part("loss", lambda: _loss(rows), [])
    if "metrics" in missing:
        missing["loss"] = missing["metrics"]
    evaluation = part("evaluation", lambda: _evaluation(run), ([], None))
    history = part("history", lambda: _history(run.folder("history"), ds), [])
    real = part("real", lambda: read_real(run, ds.images.shape[1:], len(ds.classes)), None)
    return RunRecord(
        url=run.url,
        ds=ds,
        loss=loss,
        scores=part("scores", lambda: _scores(rows), []),
        status=status,
        results=evaluation[0],
        evaluation_seconds=evaluation[1],
        history=history,
        real=real,
        evaluations=part("evaluations", lambda: recorded(run), []),
        missing=missing,
    )


def _object(data: bytes) -> dict[str, Any]:
    value = json.loads(data)
    if not isinstance(value, dict):
        raise DataError(f"expected a JSON object, got {type(value).__name__}")
    return value


def _metrics(run: Folder) -> list[dict[str, Any]]:
    return [_object(line) for line in run.read("metrics.jsonl").splitlines() if line.strip()]


def _loss(rows: list[dict[str, Any]]) -> list[tuple[float, float]]:
    pairs = sorted((float(row["round"]), float(row["loss"])) for row in rows if "loss" in row)
    finite = [pair for pair in pairs if all(map(math.isfinite, pair))]
    if not finite:
        raise FileNotFoundError("metrics.jsonl holds no loss")
    return finite


def _scores(rows: list[dict[str, Any]]) -> list[tuple[float, float, float]]:
    scored = [row for row in rows if is_number(row.get("val_accuracy"))]
    # A line names the round, counted from 0, after which the set was scored.
    return sorted((row["round"] + 1.0, float(row["val_accuracy"]), float(row.get("val_std") or 0)) for row in scored)


def _evaluation(run: Folder) -> tuple[list[Accuracy], float | None]:
    raw = _object(run.read("evaluation.json"))
    seconds = raw.get("seconds")
    return [Accuracy.from_json(result) for result in raw["results"]], None if seconds is None else float(seconds)


def _history(folder: Folder, ds: DistilledSet) -> list[tuple[int, Tensor]]:
    rounds = sorted((int(stem), f"{stem}.safetensors") for stem in _stems(folder) if stem.isdigit())
    if not rounds:
        raise FileNotFoundError("history is empty")
    # Of a set that was chosen, or a run that was given more rounds since, what came after is another story.
    rounds = [one for one in rounds if one[0] <= ds.recipe.rounds]
    if not rounds or rounds[-1][0] < ds.recipe.rounds:
        rounds.append((ds.recipe.rounds, ""))
    frames = []
    for round, name in spread(rounds, MOST_FRAMES):
        images = tensors_from(folder.read(name), f"{folder.url}/{name}")["images"] if name else ds.images
        if images.shape[1:] != ds.images.shape[1:] or not 0 < len(images) <= len(ds.images):
            raise DataError(
                f"expected images {tuple(ds.images.shape)} in {folder.url}/{name}, got {tuple(images.shape)}"
            )
        frames.append((round, images.float()))
    # A large set keeps only its first images on the way.
    kept = min(len(images) for _, images in frames)
    return [(round, images[:kept]) for round, images in frames]


def _stems(folder: Folder) -> list[str]:
    return [name.removesuffix(".safetensors") for name in folder.list() if name.endswith(".safetensors")]


def spread(values: list[T], most: int) -> list[T]:
    """Return at most `most` >= 2 of the values, evenly spread, the first and the last among them."""
    if len(values) <= most:
        return values
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]
