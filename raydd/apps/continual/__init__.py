"""Continual learning: a memory of distilled images is all that is left of what was seen.

`classes` is class-incremental learning as in Zhao & Bilen (WACV 2023), `tasks` task-incremental learning over several data
sets as in Zhao, Mopuri & Bilen (ICLR 2021), `stream` compress-then-recall as in Deng & Russakovsky (NeurIPS 2022).
"""

from __future__ import annotations

from raydd.apps.bench import Bench
from raydd.apps.continual import classes, stream, tasks
from raydd.config.apps import ClassesSection, StreamSection, TasksSection
from raydd.report.findings import Findings


def run(bench: Bench) -> Findings:
    """Return what memories are worth, in the way that `app.kind` names."""
    match bench.config.app:
        case ClassesSection() as app:
            return classes.run(bench, app)
        case TasksSection() as app:
            return tasks.run(bench, app)
        case StreamSection() as app:
            return stream.run(bench, app)
    raise AssertionError("the config knows no other kind")
