"""Evaluations of a finished run, each a file `evaluations/<key>.json` in its folder, for the report.

The key names what was asked and for which set, so that the same command writes the same file. `evaluation.json` stays what
`raydd distill` wrote.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError

from raydd.errors import DataError, IntegrityError
from raydd.evaluate.results import Accuracy
from raydd.evaluate.robust import Robustness
from raydd.store import Folder, digest, load_manifest, to_json

FOLDER = "evaluations"
# Options of `raydd evaluate` that the numbers depend on, with what they are where nobody says anything.
_USUAL: dict[str, Any] = {"train": None, "protocol": None, "nets": None, "predictors": "train", "repeats": 5}
_USUAL |= {"baselines": None, "whole_epochs": 20, "seed": 0, "threads": 1, "gpus": None, "precision": "fp32"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What one command found.

    Attributes:
        test: URL of the test split.
        at: When it ended, in seconds since 1970; 0 where that is not known.
        asked: What the numbers depend on, as plain data.
        results: Accuracies, of other sets too where those were asked for beside the run's.
        robust: Robust scores, where they were asked for.
    """

    test: str
    results: list[Accuracy]
    robust: list[Robustness]
    at: float = 0.0
    asked: dict[str, Any] = field(default_factory=dict)


def record(run: Folder, asked: dict[str, Any], evaluation: Evaluation) -> str:
    """Write an evaluation into the folder of a finished run.

    Args:
        run: The folder.
        asked: What the numbers depend on, as plain data.
        evaluation: What came of it.

    Returns:
        The file's URL.

    Raises:
        StoreError: When the folder cannot be written to.
    """
    learned = _set_of(run)
    name = f"{digest(to_json({'set': learned, **asked})).sha256[:16]}.json"
    results = [result.to_json() for result in evaluation.results]
    robust = [score.to_json() for score in evaluation.robust]
    body: dict[str, Any] = {"set": learned, "asked": asked, "test": evaluation.test, "at": time.time()}
    body |= {"results": results, "robust": robust}
    run.folder(FOLDER).write_json(name, body)
    return f"{run.url}/{FOLDER}/{name}"


def recorded(run: Folder) -> list[Evaluation]:
    """Return the evaluations of a run's set as it is now, the newest first.

    Raises:
        DataError: When a record was altered.
    """
    folder = run.folder(FOLDER)
    names = [name for name in folder.list() if name.endswith(".json")]
    bodies = [(name, folder.record(name)) for name in names]
    learned = _set_of(run) if names else ""
    # A run that was given more rounds has another set.
    found = [_parse(body, f"{folder.url}/{name}") for name, body in bodies if body.get("set") == learned]
    return sorted(found, key=lambda one: -one.at)


def command(evaluation: Evaluation) -> str:
    """Return a command line that repeats an evaluation."""
    asked = evaluation.asked
    words = ["raydd", "evaluate", *map(str, asked.get("sets", ())), "--test", evaluation.test]
    for key, usual in _USUAL.items():
        value = asked.get(key, usual)
        if isinstance(value, list):
            value = ",".join(each if isinstance(each, str) else str(each.get("name")) for each in value)
        if value != usual:
            words += [f"--{key.replace('_', '-')}", str(value)]
    for option, values in (asked.get("grid") or {}).items():
        words += ["--grid", f"{option}={','.join(map(str, values))}"]
    return shlex.join(words + ["--robust"] * bool(asked.get("robust")))


def _parse(body: dict[str, Any], where: str) -> Evaluation:
    try:
        robust = TypeAdapter(list[Robustness]).validate_python(body.get("robust"))
        results: Sequence[Any] = TypeAdapter(list[Any]).validate_python(body.get("results"))
        return Evaluation(
            test=str(body.get("test")),
            results=[Accuracy.from_json(r) for r in results],
            robust=robust,
            at=TypeAdapter(float).validate_python(body.get("at", 0.0)),
            asked=TypeAdapter(dict[str, Any]).validate_python(body.get("asked", {})),
        )
    except (ValidationError, DataError) as error:
        raise IntegrityError(f"{where} was altered ({' '.join(str(error).split())[:200]}); delete it") from None


def _set_of(run: Folder) -> str:
    return load_manifest(run.folder("distilled")).files["data.safetensors"].sha256
