"""The runs, sweeps and applications of a store, from manifests, recipes and records alone: hundreds in seconds. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from raydd.config import parse_yaml
from raydd.data.names import data_name
from raydd.errors import DataError, IntegrityError, UserError
from raydd.live import application_status, life
from raydd.store import Folder, from_json, load_manifest, read_verified
from raydd.text import is_number

Sort = Literal["name", "accuracy", "bytes", "ipc", "method", "dataset", "seconds"]
# What takes longest is to wait for the store; a disk has nothing to wait for.
THREADS = 16
_TEXTS = ("name", "method", "dataset")
_SPLITS = ("train", "test", "val")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which runs are wanted; None: any.

    Attributes:
        method: Name of the method.
        ipc: Images per class, as the config has it.
        dataset: Name of the real data set.
    """

    method: str | None = None
    ipc: int | None = None
    dataset: str | None = None

    def has(self, facts: dict[str, Any]) -> bool:
        """Say whether a run is wanted."""
        asked = {"method": self.method, "ipc": self.ipc, "dataset": self.dataset}
        return all(value is None or facts.get(key) == value for key, value in asked.items())


def runs(
    store: str, wanted: Wanted | None = None, sort: Sort = "name", *, recipes: bool = False
) -> list[dict[str, Any]]:
    """Return facts about the runs of a store, its sweeps and applications among them.

    Of a finished run four small files are read: the manifest and recipe of its set, `status.json` and `evaluation.json`.
    Of one that is not wanted the recipe is all. A run that is damaged is told with state `damaged` and the `problem`; it
    hides no others, and is wanted by whoever asks for nothing in particular.

    Args:
        store: URL of a folder of runs.
        wanted: Which; None: all.
        sort: By what: the best accuracy first, the rest ascending; runs that have none come last.
        recipes: Whether `config`, the whole config as plain data, is told as well.

    Returns:
        Dicts with `name`, `url`, `state` and `kind` (run, sweep or application), and as far as known `method`, `dataset`,
        `ipc`, `bytes` (of the set's tensors), `accuracy` (percent by what was trained on), `std`, `protocol`, `net`, and what
        `status.json` tells.
    """
    folder, wanted = Folder(store), wanted or Wanted()
    with ThreadPoolExecutor(1 if folder.is_local else THREADS) as pool:
        found = pool.map(lambda name: _told(folder.folder(name), wanted), folder.folders())
        listed = [facts for facts in found if facts is not None]
    for facts in listed:
        if not recipes:
            facts.pop("config", None)
    return _sorted(listed, sort)


def _sorted(listed: list[dict[str, Any]], sort: Sort) -> list[dict[str, Any]]:
    def key(facts: dict[str, Any]) -> tuple[bool, Any]:
        value: Any = facts.get("accuracy", {}).get("distilled") if sort == "accuracy" else facts.get(sort)
        if sort in _TEXTS:
            return (False, value) if isinstance(value, str) else (True, "")
        number = value if is_number(value) else None
        return number is None, (number or 0) * (-1 if sort == "accuracy" else 1)

    return sorted(sorted(listed, key=lambda facts: facts["name"]), key=key)


def _told(run: Folder, wanted: Wanted) -> dict[str, Any] | None:
    """Return what is known of a folder; None where it is no run, or not wanted."""
    facts: dict[str, Any] = {"name": run.name, "url": run.url, "kind": "run"}
    try:
        made = _made(run)
        if made is None or not wanted.has(made):
            return None
        if made.get("kind") == "application":
            return facts | made | application_status(run)
        status = _status(run)
        kind = {"kind": "sweep"} if "trials" in status else {}
        return facts | made | status | kind | _scores(run)
    except DataError as error:
        return {**facts, "state": "damaged", "problem": str(error)} if wanted == Wanted() else None


def _made(run: Folder) -> dict[str, Any] | None:
    """Return what a run makes, by the recipe of its set, or by its config while there is none."""
    artifact = run.folder("distilled")
    try:
        manifest = load_manifest(artifact)
    except FileNotFoundError:
        return _planned(run)
    where = f"{artifact.url}/recipe.json"
    recipe = from_json(read_verified(artifact, manifest, "recipe.json"), where)
    if not isinstance(recipe, dict) or not isinstance(recipe.get("config"), dict):
        raise IntegrityError(f"{where}: expected a recipe with its config, got something else; distil or pull it again")
    data = manifest.files.get("data.safetensors")
    more = {"dataset": recipe["dataset"]} if recipe.get("dataset") else {}
    return {**_of_config(recipe["config"]), **more, "bytes": data.size if data else None}


def _planned(folder: Folder) -> dict[str, Any] | None:
    """Return what a run, a sweep or an application is to make, by its config; None where there is none."""
    for name in ("config.yaml", "sweep.yaml"):
        try:
            text = folder.read_bounded(name, 1 << 20).decode(errors="replace")
        except FileNotFoundError:
            continue
        try:
            config = parse_yaml(text, f"{folder.url}/{name}")
        except IntegrityError:
            raise
        except UserError as error:
            raise IntegrityError(str(error)) from None
        kind = "sweep" if name == "sweep.yaml" else "application" if folder.exists("app.json") else "run"
        return {**_of_config(config if isinstance(config, dict) else {}), "kind": kind}
    return None


def _of_config(config: dict[str, Any]) -> dict[str, Any]:
    method, data = _section(config, "method"), _section(config, "data")
    told = {"method": method.get("name"), "ipc": method.get("ipc"), "dataset": _data_name(data)}
    return {**{key: value for key, value in told.items() if value is not None}, "config": config}


def _section(config: dict[str, Any], name: str) -> dict[str, Any]:
    section = config.get(name)
    return section if isinstance(section, dict) else {}


def _data_name(data: dict[str, Any]) -> str | None:
    """Return what a config's data set is called, as far as the config tells."""
    name, classes = _place_name(data.get("train")), data.get("classes")
    chosen = isinstance(classes, list) and all(isinstance(one, int | str) for one in classes)
    return data_name(name, classes) if name and chosen else name


def _place_name(train: Any) -> str | None:
    """Return what a data set is called by where it lies: a SOURCE's own name, or that of the folder of its shards."""
    if not isinstance(train, str) or not train:
        return None
    source, _, root = train.partition(":")
    if "/" not in source and source not in ("folder", "webdataset") and not root.startswith("//"):
        return source
    parts = [part for part in train.split("/") if part]
    return parts[-2] if parts[-1] in _SPLITS and len(parts) > 1 else parts[-1]


def _status(run: Folder) -> dict[str, Any]:
    try:
        status = run.record("status.json")
    except FileNotFoundError:
        status = {"state": "starting"}
    return status if status.get("state") == "finished" else status | life(run, status)


def _scores(run: Folder) -> dict[str, Any]:
    """Return what a run scored: of what was scored several ways, the first."""
    try:
        results = run.record("evaluation.json").get("results")
    except FileNotFoundError:
        return {}
    if not isinstance(results, list) or not all(_is_result(result) for result in results):
        raise IntegrityError(
            f"{run.url}/evaluation.json: expected a list of results, got something else; delete the file"
        )
    told: dict[str, Any] = {"accuracy": {result["of"]: round(result["mean"], 2) for result in reversed(results)}}
    own = next((result for result in results if result["of"] == "distilled"), None)
    if own is not None:
        told |= {key: own[key] for key in ("std", "repeats", "protocol", "net") if key in own}
    return told


def _is_result(result: Any) -> bool:
    return isinstance(result, dict) and isinstance(result.get("of"), str) and is_number(result.get("mean"))


def lines(listed: Sequence[dict[str, Any]]) -> list[str]:
    """Return a line a run, for people."""
    return [_line(facts) for facts in listed]


def _line(facts: dict[str, Any]) -> str:
    begin = f"{facts['name']:30} {facts['state']:10}"
    if facts["kind"] == "application":
        return f"{begin} {facts.get('application')} on {facts.get('dataset', '-')}"
    accuracy = ", ".join(f"{of} {mean}" for of, mean in facts.get("accuracy", {}).items())
    what = f"{facts.get('method', '-')} {facts.get('dataset', '-')} ipc {facts.get('ipc', '-')}"
    if facts["kind"] == "sweep":
        done = f"{facts.get('ended', 0)}/{facts.get('trials', '?')} trials"
    else:
        done = f"{facts.get('round', 0)}/{facts.get('rounds', '?')}"
    return f"{begin} {done:>15} {what:26} {accuracy}".rstrip()
