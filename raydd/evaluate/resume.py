"""Finished parts of an evaluation, kept in a folder, so that an interrupted one goes on where it stopped.

A part is a file `<key>.json`, written whole or not at all by the process that did the work. The key names all that its
numbers depend on: the set and the labels, the real images by the hash of their index, protocol, network, repeats and seed,
device, threads, precision and whether kernels are deterministic, and the versions of raydd and torch. What another evaluation
kept is never mistaken for one's own, and a file that is damaged or something else is as good as none: its part is done again.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from raydd.data.index import load_index
from raydd.errors import IntegrityError
from raydd.evaluate.items import Item, Placed, Shared
from raydd.evaluate.mapping import MapFunction, Progress
from raydd.evaluate.protocols import PROTOCOLS
from raydd.nets import computing_in
from raydd.store import Folder, to_json

Function = Callable[[Sequence[Shared], Placed], list[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """A `MapFunction` that writes down what each item gives, and leaves out the items that were done before.

    `on_result` is told of those as well, all at once. The folder is written by whoever does the items, so workers on other
    machines need a store that they reach too; on a disk of their own what they write is lost, and only costs time.

    Attributes:
        map: Spreads the items that are still to do.
        folder: Where finished ones are kept; it need not exist.
    """

    map: MapFunction
    folder: Folder

    def __call__(
        self, function: Any, items: Sequence[Any], shared: Any, on_result: Progress | None = None
    ) -> list[Any]:
        """Return `[function(shared, item) for item in items]`, each list of numbers from the folder where it is there."""
        bases = [identity(each) for each in shared]
        keys = [key(bases[placed.which], placed.item) for placed in items]
        names = set(self.folder.list())
        found = {
            place: numbers
            for place, name in enumerate(keys)
            if f"{name}.json" in names and (numbers := _read(self.folder, name, items[place].item)) is not None
        }
        if found and on_result is not None:
            on_result(len(found), len(items))
        todo = [place for place in range(len(items)) if place not in found]
        if todo:
            tell = _after(len(found), len(items), on_result)
            task = Task(function=function, shared=shared, folder=self.folder)
            done = self.map(do, [(keys[place], items[place]) for place in todo], task, tell)
            found |= dict(zip(todo, done, strict=True))
        return [found[place] for place in range(len(items))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What whoever does items needs to know; picklable where `function` and `shared` are."""

    function: Function
    shared: Sequence[Shared]
    folder: Folder


def do(task: Task, named: tuple[str, Placed]) -> list[float]:
    """Do an item and write down what it gives under its key."""
    name, placed = named
    numbers = task.function(task.shared, placed)
    body = _body(name, placed.item, numbers)
    task.folder.write_json(f"{name}.json", {**body, "sha256": digest(body)})
    return numbers


def identity(shared: Shared) -> str:
    """Return the hash of all that the numbers of an evaluation's items have in common."""
    common = plain({field.name: getattr(shared, field.name) for field in fields(shared)})
    # Images may move, and a URL may come to hold others.
    for split in ("train", "test"):
        url = common.pop(split)
        common[split] = None if url is None else load_index(Folder(url)).hash
    versions = {name: version(name) for name in ("raydd", "torch")}
    numerics = [torch.get_num_threads(), torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()]
    numerics += [torch.get_deterministic_debug_mode(), str(computing_in())]
    how = {"protocol": repr(PROTOCOLS[shared.protocol]), "numerics": numerics, "versions": versions}
    return digest({"shared": common, "how": how})


def key(base: str, item: Item) -> str:
    """Return the name of an item's file, given the `identity` of what it shares."""
    return digest({"shared": base, "item": plain(item)})


def _read(folder: Folder, name: str, item: Item) -> list[float] | None:
    """Return what was kept of an item; None where that is not whole or not what it says it is."""
    try:
        body = folder.record(f"{name}.json")
    except (FileNotFoundError, IntegrityError):
        return None
    sha, numbers = body.pop("sha256", None), body.get("accuracies")
    if not isinstance(numbers, list) or len(numbers) != len(item.repeats) * len(item.predictors):
        return None
    if not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers):
        return None
    whole = body == _body(name, item, numbers) and sha == digest(body)
    return [float(n) for n in numbers] if whole else None


def _body(name: str, item: Item, numbers: list[float]) -> dict[str, Any]:
    return {"key": name, "item": plain(item), "accuracies": numbers}


def _after(before: int, total: int, on_result: Progress | None) -> Progress | None:
    return None if on_result is None else lambda done, _: on_result(before + done, total)


def plain(value: Any) -> Any:
    """Return a value as JSON has it, arrays by what is in them."""
    if isinstance(value, np.ndarray):
        data = np.ascontiguousarray(value)
        return [data.dtype.str, list(data.shape), hashlib.sha256(data.tobytes()).hexdigest()]
    if is_dataclass(value) and not isinstance(value, type):
        return plain({field.name: getattr(value, field.name) for field in fields(value)})
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [plain(each) for each in value]
    return value


def digest(value: Any) -> str:
    """Return the sha256 of plain data as JSON."""
    return hashlib.sha256(to_json(value)).hexdigest()
