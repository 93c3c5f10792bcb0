"""A run's metrics: a line a round in `metrics.jsonl`, and scores on the way in between."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from raydd.engine.work import Reply
from raydd.errors import IntegrityError
from raydd.store import Folder


def mean_metrics(replies: Sequence[Reply]) -> dict[str, float]:
    """Return each metric's mean over slots."""
    names = replies[0].metrics if replies else {}
    return {name: sum(reply.metrics[name] for reply in replies) / len(replies) for name in names}


def read_metrics(run: Folder, step: str = "round") -> list[dict[str, float]]:
    """Return the lines of a run's metrics.jsonl; none where there is no such file.

    Args:
        run: The run's folder.
        step: What counts the lines: an integer in each of them.

    Raises:
        IntegrityError: When it was altered.
    """
    if not run.exists("metrics.jsonl"):
        return []
    try:
        lines = [json.loads(line) for line in run.read("metrics.jsonl").decode().splitlines()]
        return [{**line, step: int(line[step])} for line in lines]
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{run.url}/metrics.jsonl was altered ({error!r}); delete the file") from None


def write_metrics(run: Folder, lines: Sequence[dict[str, float]]) -> None:
    """Write a run's metrics.jsonl whole."""
    run.write("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())


def with_scores(lines: Sequence[dict[str, float]], scores: Mapping[int, dict[str, float]]) -> list[dict[str, float]]:
    """Return the lines of a run's metrics with its validation scores: each a line of its own, after the round that made the set.

    Args:
        lines: Lines of rounds.
        scores: Accuracy and deviation on the validation part by the number of rounds that a set had seen.
    """
    seconds = {line["round"]: line["seconds"] for line in lines if "seconds" in line}
    plain = [line for line in lines if "val_accuracy" not in line]
    scored = [
        {"round": n - 1, **({"seconds": seconds[n - 1]} if n - 1 in seconds else {}), **scores[n]} for n in scores
    ]
    return sorted([*plain, *scored], key=lambda line: (line["round"], "val_accuracy" in line))
