"""The verb for many runs of one config."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raydd.cli.printing import brief, print_json, print_line, print_table
from raydd.cli.words import ConfigFile, Json, Overrides, Resume, app

if TYPE_CHECKING:
    from raydd.sweeping import Sweep


@app.command()
def sweep(
    config: ConfigFile,
    overrides: Overrides = None,
    resume: Resume = "auto",
    as_json: Json = False,
) -> None:
    """Distil at many points of the config's `sweep.space`, keep the best; the same command goes on where it was stopped."""
    from raydd.config import read_config, sweep_base

    # A mistake in the config is told before torch is loaded.
    sweep_base(read_config(config), overrides or (), where=config)
    from raydd.sweeping import sweep as run
    from raydd.terminal import Terminal

    terminal = Terminal()
    try:
        found = run(config, overrides=overrides or (), resume=resume, watcher=terminal)
    finally:
        terminal.close()
    if as_json:
        print_json(_facts(found))
        return
    for line in _table(found):
        print_line(line)
    print_line("")
    print_table(found.accuracies)
    print_line(f"artifact  {found.artifact}")
    print_line(f"report    {found.report}")


def _facts(found: Sweep) -> dict[str, Any]:
    states = [trial.state for trial in found.trials]
    bests = [
        {
            "trial": trial.name,
            "ipc": trial.ipc,
            "storage_bytes": trial.storage_bytes,
            "val_accuracy": trial.accuracy,
            "point": trial.point,
            "config": config,
        }
        for trial, config in zip(found.bests, found.configs, strict=True)
    ]
    return {
        "sweep": found.url,
        "artifact": found.artifact,
        "report": found.report,
        "best": found.best.name,
        "by_storage": bests,
        "trials": {state: states.count(state) for state in ("finished", "stopped", "failed", "running")},
        "seconds": found.seconds,
        "accuracy": {a.of: brief(a) for a in reversed(found.accuracies)},
    }


def _table(found: Sweep) -> list[str]:
    from raydd.sweep.best import shown_point
    from raydd.text import size

    rows = [("images a class", "storage", "validation", "trial", "point")]
    for trial in found.bests:
        star = "*" if trial == found.best else ""
        reached = f"{trial.accuracy:.2f} %{star}"
        rows.append((str(trial.ipc), size(trial.storage_bytes or 0), reached, trial.name, shown_point(trial)))
    widths = [max(len(row[k]) for row in rows) for k in range(4)]
    return [
        "  ".join([*(cell.rjust(width) for cell, width in zip(row[:4], widths, strict=True)), row[4]]) for row in rows
    ]
