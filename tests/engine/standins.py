"""Small modules in place of mlflow and wandb, which write down what they are told, a JSON line a call, to $STANDIN_LOG."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_COMMON = """
import json, os
class Error(Exception): pass
def tell(**said):
    if os.environ.get("STANDIN_FAILS"):
        raise Error("no server answers")
    with open(os.environ["STANDIN_LOG"], "a") as log:
        log.write(json.dumps(said) + "\\n")
"""
_MLFLOW = """
from mlflow.common import tell
class Box:
    def __init__(self, **kept): self.__dict__.update(kept)
class MlflowClient:
    def get_experiment_by_name(self, name): return None
    def create_experiment(self, name):
        tell(experiment=name)
        return "7"
    def create_run(self, experiment_id, start_time=None, tags=None, run_name=None):
        tell(created=run_name, experiment=experiment_id)
        return Box(info=Box(run_id="m1"))
    def update_run(self, run_id, status=None, name=None): tell(again=run_id, status=status)
    def log_batch(self, run_id, metrics=(), params=(), tags=(), synchronous=None):
        assert len(metrics) <= 1000 and len(params) <= 100
        for m in metrics: tell(run=run_id, key=m.key, value=m.value, step=m.step, at=m.timestamp)
        if params: tell(run=run_id, params={p.key: p.value for p in params})
    def set_terminated(self, run_id, status=None, end_time=None): tell(ended=run_id, status=status)
"""
_ENTITIES = """
class Metric:
    def __init__(self, key, value, timestamp, step): self.key, self.value, self.timestamp, self.step = key, value, timestamp, step
class Param:
    def __init__(self, key, value): self.key, self.value = key, value
"""
_WANDB = """
from wandb.common import Error, tell
class Run:
    def __init__(self, id): self.id = id
    def define_metric(self, name, step_metric=None): tell(defined=name, step_metric=step_metric)
    def log(self, data, step=None): tell(run=self.id, step=data["round"], values=data)
    def finish(self, exit_code=None): tell(ended=self.id, exit_code=exit_code)
def init(project=None, name=None, config=None, id=None, resume=None):
    tell(created=name, project=project, id=id, resume=resume, ipc=config["method.ipc"])
    return Run(id or "w1")
"""


def put(folder: Path) -> None:
    """Write the modules into a folder that is to stand on sys.path."""
    files = {"mlflow/__init__.py": _MLFLOW, "mlflow/entities.py": _ENTITIES, "wandb/__init__.py": _WANDB}
    files |= {"mlflow/exceptions.py": "from mlflow.common import Error as MlflowException\n"}
    for name, text in {**files, "mlflow/common.py": _COMMON, "wandb/common.py": _COMMON}.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def calls(log: Path) -> list[dict[str, Any]]:
    """Return what they were told."""
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
