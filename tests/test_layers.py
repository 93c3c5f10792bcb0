"""Imports run one way, and what needs neither torch nor Ray loads neither."""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import raydd

ROOT = Path(raydd.__file__).parent
LAYERS = (
    ("errors", "urls", "config", "seeding", "pace", "text", "threads"),
    ("store",),
    ("functional", "nets", "augment"),
    ("data", "distilled", "memories", "card", "export"),
    ("methods", "evaluate", "training"),
    ("engine",),
    ("sweep", "report"),
    (
        "watchers",
        "packing",
        "apps",
        "pulling",
        "evaluating",
        "sweeping",
        "api",
        "estimate",
        "catalogue",
        "listing",
        "live",
        "doctor",
        "terminal",
        "cli",
        "__main__",
        "",
    ),
)
RANK = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}
APART = {("methods", "evaluate"), ("evaluate", "methods")}
RAY = ("engine", "sweep")
NO_TORCH = ("errors", "urls", "config", "pace", "text", "threads", "store", "terminal", "cli", "__main__", "")


def sources() -> Iterator[tuple[str, str]]:
    """Yield (module, source) of all of raydd."""
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), path.read_text()


def imported(source: str) -> Iterator[str]:
    """Yield the full name of every module that is imported, wherever in the file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def at_import(source: str) -> Iterator[str]:
    """Yield what is imported as soon as the module is: not inside functions, and not for type checkers only."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imported(ast.unparse(node))


def wrong_arrows(modules: Iterator[tuple[str, str]]) -> list[str]:
    """Return every import that runs up, sideways between methods and evaluation, or to Ray from elsewhere."""
    wrong = []
    for module, source in modules:
        part = module.split(".")[0]
        for name in imported(source):
            package, *rest = name.split(".")
            if package == "ray" and part not in RAY:
                wrong.append(f"raydd.{module} imports {name}")
            if package != "raydd":
                continue
            other = rest[0] if rest and rest[0] in RANK else ""
            if RANK[other] > RANK[part] or (part, other) in APART:
                wrong.append(f"raydd.{module} imports {name}")
    return wrong


def test_every_part_has_its_place() -> None:
    assert {module.split(".")[0] for module, _ in sources()} <= RANK.keys()


def test_imports_run_one_way() -> None:
    assert wrong_arrows(sources()) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("store.folder", "from raydd.nets import build"),
        ("data.reader", "def f():\n    import raydd.methods.dm"),
        ("methods.dm", "from raydd.evaluate import evaluate"),
        ("evaluate.score", "from raydd import methods"),
        ("engine.run", "from raydd import api"),
        ("config.load", "from raydd.store import Folder"),
        ("doctor", "import ray"),
        ("methods.dm", "def f():\n    from ray.util import placement_group"),
    ],
)
def test_an_arrow_that_runs_up_is_found(module: str, line: str) -> None:
    (wrong,) = wrong_arrows(iter([(module, line)]))
    assert wrong.startswith(f"raydd.{module} imports ra")


def test_torch_is_imported_late_where_it_is_not_needed() -> None:
    for module, source in sources():
        if module.split(".")[0] in NO_TORCH:
            heavy = [name for name in at_import(source) if name.split(".")[0] in ("torch", "ray", "torchvision")]
            assert heavy == [], module


def test_it_is_not_loaded_by_others_either() -> None:
    """Whatever config, store and the command line import in turn; the check of a store's backends included."""
    light = ["raydd", "raydd.errors", "raydd.cli", "raydd.terminal"]
    for package in ("config", "store"):
        found = pkgutil.iter_modules([str(ROOT / package)])
        light += [f"raydd.{package}", *(f"raydd.{package}.{module.name}" for module in found)]
    script = (
        f"import sys, importlib\nfor name in {light!r}:\n    importlib.import_module(name)\n"
        "print(sorted({'torch', 'ray', 'torchvision'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_nothing_is_ever_unpickled_or_executed() -> None:
    """`data/plainpickle.py` reads a subset of pickle by itself; nobody else goes near it."""
    for module, source in sources():
        names = {name.split(".")[0] for name in imported(source)}
        if module != "data.plainpickle":
            assert not names & {"pickle", "cloudpickle", "dill", "shelve", "marshal", "joblib"}, module
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("torch.load", "torch.save", "np.load", "numpy.load", "eval", "exec"), module
                assert called not in ("yaml.unsafe_load", "yaml.full_load", "pickle.loads", "pickle.load"), module


def test_nobody_draws_from_a_global_generator() -> None:
    drawn = ("torch.manual_seed", "torch.rand", "torch.randn", "torch.randperm", "torch.randint", "torch.normal")
    for module, source in sources():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in drawn:
                assert any(keyword.arg == "generator" for keyword in node.keywords), f"{module}:{node.lineno}"
        assert "np.random." not in source, module
        assert "random" not in {name.split(".")[0] for name in imported(source)}, module
