"""What lies in a store: listing, showing and verifying runs, distilled sets and shards."""

from __future__ import annotations

from typing import Any

from raydd.data.index import load_index, verify_shards
from raydd.distilled import DistilledSet
from raydd.errors import DataError, IntegrityError
from raydd.live import checkpoints, show_application, show_run, show_sweep
from raydd.store import Folder, Kind, kinds, load_manifest, verify


def kind_of(url: str) -> Kind:
    """Tell what a URL holds.

    Raises:
        DataError: When it is neither a run, a sweep, an application, a distilled set nor packed shards.
    """
    folder = Folder(url)
    kind = kinds.kind_of(folder)
    if kind is None or kind == "training":
        raise DataError(
            f"expected a run, a sweep, an application, a distilled set or packed shards at {folder.url}, got none of them; "
            "check the URL"
        )
    return kind


def show(url: str) -> dict[str, Any]:
    """Return the facts of a run, a sweep, an application, a distilled set or shards."""
    kind, folder = kind_of(url), Folder(url)
    facts = {
        "run": show_run,
        "sweep": show_sweep,
        "application": show_application,
        "set": _show_set,
        "shards": _show_shards,
    }
    return {"kind": kind, "url": folder.url, **facts[kind](folder)}


def _show_set(folder: Folder) -> dict[str, Any]:
    ds = DistilledSet.load(folder.url)
    recipe = ds.recipe
    return {
        "name": recipe.name,
        "method": recipe.method,
        "paper": recipe.paper,
        "rounds": recipe.rounds,
        "images": list(ds.images.shape),
        "labels": f"{recipe.label_kind}: {recipe.label_convention}",
        "classes": list(ds.classes),
        "protocol": recipe.protocol,
        "augmentation": recipe.augmentation,
        "storage_bytes": ds.storage_bytes,
        "versions": recipe.versions,
    }


def _show_shards(folder: Folder) -> dict[str, Any]:
    index = load_index(folder)
    return {
        "name": index.name,
        "split": index.split,
        "images": len(index),
        "classes": len(index.classes),
        "shape": [index.channels, index.size, index.size],
        "shards": len(index.shards),
        "bytes": sum(shard.size for shard in index.shards),
        "hash": index.hash,
    }


def problems(url: str) -> list[str]:
    """Read everything at a URL again and return what is wrong with it, a line each; nothing where all is well."""
    kind, folder = kind_of(url), Folder(url)
    if kind == "shards":
        return verify_shards(folder, load_index(folder))
    if kind == "set":
        return _set_problems(folder)
    if kind == "application":
        runs, data = folder.folder("runs"), folder.folder("data")
        shards = [data.folder(name) for name in data.folders() if data.exists(f"{name}/index.json")]
        found = [problem for place in shards for problem in verify_shards(place, load_index(place))]
        return [*found, *(problem for name in runs.folders() for problem in _run_problems(runs.folder(name)))]
    if kind == "sweep":
        trials = [folder.folder("trials", name) for name in folder.folder("trials").folders() if name.isdigit()]
        found = [problem for trial in trials for problem in _run_problems(trial)]
        return [*found, *_artifact_problems(folder)]
    return _run_problems(folder)


def _run_problems(folder: Folder) -> list[str]:
    found = [problem for place in checkpoints(folder) for problem in _manifest_problems(place)]
    return [*found, *_artifact_problems(folder)]


def _artifact_problems(folder: Folder) -> list[str]:
    artifact = folder.folder("distilled")
    return _set_problems(artifact) if artifact.exists("manifest.json") or artifact.list() else []


def _manifest_problems(folder: Folder) -> list[str]:
    try:
        return verify(folder, load_manifest(folder))
    except (IntegrityError, FileNotFoundError) as error:
        return [str(error)]


def _set_problems(folder: Folder) -> list[str]:
    found = _manifest_problems(folder)
    if not found:
        try:
            DistilledSet.load(folder.url)
        except DataError as error:
            found = [str(error)]
    return found
