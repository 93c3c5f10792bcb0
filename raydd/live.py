"""What the folder of a run tells of it, also while it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

from raydd.errors import DataError, IntegrityError
from raydd.store import Folder, load_manifest, sign_of_life
from raydd.text import duration, is_number, rate

if TYPE_CHECKING:
    from raydd.evaluate import Accuracy

# Four heartbeats of a lease.
SILENT_S = 60.0


def show_run(run: Folder) -> dict[str, Any]:
    """Return a run's state, progress and accuracies.

    `state` is `running`, then `distilled` while networks are trained on the result, and `finished`; `starting` before the first
    round. Of a run that should go on but does not it is `stopped` where its driver is known to have ended, `silent` where that
    has not been heard of for a minute. `heard_s` says how long ago it was, `last_checkpoint_s` how old the last checkpoint is,
    in seconds by this machine's clock.
    """
    status = run.record("status.json") if run.exists("status.json") else {"state": "starting"}
    if status.get("state") != "finished":
        status |= life(run, status) | _last_checkpoint(run)
    if run.exists("evaluation.json"):
        status["accuracy"] = {result.of: round(result.mean, 2) for result in reversed(read_accuracies(run))}
    return status


def show_sweep(sweep: Folder) -> dict[str, Any]:
    """Return a sweep's state, its trials by state, and the best of them; `state` as of a run."""
    from raydd.sweep.best import best_of, shown_point
    from raydd.sweep.records import read_trials

    status = sweep.record("status.json") if sweep.exists("status.json") else {"state": "starting"}
    if status.get("state") != "finished":
        status |= life(sweep, status)
    trials = read_trials(sweep)
    states = [trial.state for trial in trials]
    status |= {state: states.count(state) for state in ("finished", "stopped", "failed", "running") if state in states}
    best = best_of(trials)
    if best is not None:
        status |= {"best": best.name, "val_accuracy": best.accuracy, "ipc": best.ipc, "point": shown_point(best)}
    if sweep.exists("evaluation.json"):
        status["accuracy"] = {result.of: round(result.mean, 2) for result in reversed(read_accuracies(sweep))}
    return status


def show_application(folder: Folder) -> dict[str, Any]:
    """Return an application's kind and state (as of a run), and once it is finished its page and its `findings`."""
    facts = application_status(folder)
    if facts["state"] != "finished":
        return facts
    return {**facts, "report": f"{folder.url}/report.html", "findings": folder.record("results.json").get("findings")}


def application_status(folder: Folder) -> dict[str, Any]:
    """Return an application's kind and state; nothing of what it found is read."""
    facts = {"application": folder.record("app.json").get("kind")}
    if folder.exists("results.json"):
        return {**facts, "state": "finished"}
    return {**facts, **life(folder, {"state": "running"})}


def life(run: Folder, status: dict[str, Any]) -> dict[str, Any]:
    """Return state and age of the last sign of life of a run that is not finished."""
    sign = sign_of_life(run.folder("lease"))
    state = str(status.get("state"))
    if sign is None:
        return {"state": state}
    heard_s = min((age for age in (_age(sign.time), _age(status.get("time"))) if age is not None), default=None)
    if sign.state in ("released", "dead"):
        state = "stopped"
    elif sign.state == "stopped" or (heard_s is not None and heard_s > SILENT_S):
        state = "silent"
    return {"state": state, "driver": sign.driver, "heard_s": heard_s}


def checkpoints(run: Folder) -> list[Folder]:
    """Return the folders of a run's checkpoints, ascending; those that were never finished are none."""
    folder = run.folder("checkpoints")
    return [folder.folder(name) for name in folder.folders() if folder.exists(f"{name}/manifest.json")]


def _last_checkpoint(run: Folder) -> dict[str, Any]:
    """Return round and age of the newest checkpoint; nothing where there is none. Newer than what the status tells."""
    places = [place for place in checkpoints(run) if place.name.isdigit()]
    if not places:
        return {}
    try:
        at = load_manifest(places[-1]).meta.get("time")
    except (IntegrityError, FileNotFoundError):
        at = None
    return {"last_checkpoint": int(places[-1].name), "last_checkpoint_s": _age(at)}


def _age(moment: Any) -> float | None:
    """Return how many seconds ago a moment was that a record names; None where it names none.

    Args:
        moment: Seconds since 1970, or text as `raydd.store.utc` writes it.
    """
    try:
        at = float(moment) if is_number(moment) else datetime.fromisoformat(moment).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
    return max(0.0, round(time.time() - at, 1))


def run_lines(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what `show_run` tells as pairs of name and text, for people."""

    def told(key: str, text: str, show: Callable[[float], str] = duration) -> str:
        value = facts.get(key)
        return text.format(show(value)) if is_number(value) else ""

    going = facts["state"] == "running"
    heard = told("heard_s", f", last heard of {{}} ago ({facts.get('driver')})")
    yield "state", f"{facts['state']}{heard}"
    if "rounds" in facts:
        yield "round", f"{facts.get('round')} of {facts['rounds']}"
    speed = told("rounds_per_second", "{}", lambda value: rate(value, "rounds"))
    if speed:
        yield "rate", speed + (told("seconds_left", ", {} left") if going else "")
    loss = told("loss", "{}", "{:.4g}".format)
    if loss:
        yield "loss", loss
    nodes = facts.get("nodes")
    where = ", ".join(f"{count} on {node}" for node, count in nodes.items()) if isinstance(nodes, dict) else ""
    yield "workers", f"{facts.get('workers') or 'none, one process'}{f' ({where})' if where else ''}"
    last = facts.get("last_checkpoint")
    yield "last checkpoint", "none" if last is None else f"round {last}{told('last_checkpoint_s', ', {} ago')}"
    yield "faults so far", str(facts.get("faults", 0))
    yield "distilling", told("seconds", "{}") or "not begun"
    if isinstance(facts.get("accuracy"), dict):
        yield "accuracy", ", ".join(f"{of} {mean} %" for of, mean in facts["accuracy"].items())


def read_accuracies(run: Folder) -> list[Accuracy]:
    """Read what a run was scored.

    Raises:
        IntegrityError: When the record was altered.
    """
    # Here, because whoever lists runs needs no torch.
    from raydd.evaluate import Accuracy

    results = run.record("evaluation.json").get("results")
    if not isinstance(results, list):
        raise IntegrityError(f"{run.url}/evaluation.json: expected a list of results, got none; delete the file")
    try:
        return [Accuracy.from_json(result) for result in results]
    except DataError as error:
        raise IntegrityError(f"{run.url}/evaluation.json: {error}") from None
