"""The papers' applications of distilled sets, each a function from a `Bench` to what it found.

They stand above the engine, not in `raydd/evaluate`, because they distil: a run of theirs is an ordinary run, whose data,
checkpoints, resume and workers are those of `raydd distill`.
"""

from raydd.apps.bench import Bench
from raydd.apps.run import Application, run_application

__all__ = ["Application", "Bench", "run_application"]
