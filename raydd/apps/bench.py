"""What an application works with: it distils, evaluates, and spreads work of its own; all of it goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, TypeVar

import torch

from raydd.config import AppConfig, MethodConfig
from raydd.data.index import load_index
from raydd.data.pack import pack
from raydd.distilled import DistilledSet
from raydd.engine.executor import Executor
from raydd.engine.run import distil, is_finished, plan_run
from raydd.errors import ConfigError, IntegrityError, RunError
from raydd.evaluate import Accuracy, Keeping, Request, evaluate_all
from raydd.evaluate.resume import digest, plain
from raydd.store import Folder, Lease
from raydd.watchers import Watcher

# Beside finished work, and gone with it: what packed shards held.
PACKED = "packed.json"

Shared = TypeVar("Shared")
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One application's config, folder and workers.

    Attributes:
        config: What the user said.
        folder: The application's folder: `runs/` its distillations, `data/` what was packed for it, `work/` finished parts.
        train: URL of the packed training split.
        test: URL of the packed test split.
        executor: Who does the work.
        lease: The right to write to the folder.
        watcher: Is told of progress.
    """

    config: AppConfig
    folder: Folder
    train: str
    test: str
    executor: Executor
    lease: Lease
    watcher: Watcher

    @property
    def device(self) -> str:
        """Where networks are trained, as torch names it."""
        return "cuda" if self.config.engine.gpus_per_worker else "cpu"

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes that the config asks for."""
        names, chosen = load_index(Folder(self.train)).classes, self.config.data.classes
        return names if chosen == "all" else tuple(c if isinstance(c, str) else names[c] for c in chosen)

    def distil(self, method: MethodConfig, name: str, *, train: str | None = None, **data: Any) -> DistilledSet:
        """Return what a method distils, from the run's checkpoints or its finished set where it was begun before.

        Args:
            method: The method, of those in the config, perhaps changed.
            name: The run's name below `runs/`.
            train: Other packed shards than the application's own.
            data: Changes to the config's `data` section, such as `classes`.

        Raises:
            ConfigError: When the method cannot do it on these data.
            EngineError: When workers or arithmetic fail.
        """
        if train is not None and self.config.data.classes != "all":
            # By name: in shards of these classes alone they have other positions.
            data = {"classes": list(self.classes), **data}
        config = self.config.run(method, name, self.folder.folder("runs").url, **data)
        plan = plan_run(config, train or self.train, None)
        if is_finished(plan, "auto"):
            return DistilledSet.load(plan.run.url)
        self.watcher.say(f"{self.config.name}: distilling {name}")
        try:
            return distil(plan, self.executor, self.lease, self.watcher.round)
        finally:
            self.executor.end()

    def evaluate(
        self,
        requests: Sequence[Request],
        *,
        repeats: int | None = None,
        seed: int | None = None,
        test: str | None = None,
    ) -> list[Accuracy]:
        """Score sets by networks trained from scratch, as `raydd.evaluate.evaluate_all` does; finished networks are kept."""
        wanted = self.config.evaluate
        return evaluate_all(
            requests,
            test=test or self.test,
            train=self.train,
            repeats=wanted.repeats if repeats is None else repeats,
            whole_epochs=wanted.whole_epochs,
            seed=self.config.seed if seed is None else seed,
            device=self.device,
            map=Keeping(map=self.executor.map, folder=self.folder.folder("work")),
            on_result=self.watcher.evaluating,
        )

    def request(self, ds: DistilledSet, **more: Any) -> Request:
        """Return what a set is to be scored by, as the config's `evaluate` section says."""
        wanted = self.config.evaluate
        protocol = None if wanted.protocol == "auto" else wanted.protocol
        nets = None if wanted.nets == "auto" else wanted.nets
        return replace(Request(ds=ds, protocol=protocol, nets=nets), **more)

    def map(self, function: Callable[[Shared, Item], Any], items: Sequence[Item], shared: Shared) -> list[Any]:
        """Return `function(shared, item)` for every item, in order; what was done before is read back.

        Args:
            function: Of a module, so that it has a name; a pure function of its arguments, whose result is plain data as
                JSON has it.
            items: Plain data or dataclasses of it, arrays included.
            shared: Likewise. Real images are named by the URL of packed shards that never change.
        """
        kept = self.folder.folder("work")
        versions = [version(name) for name in ("raydd", "torch", "scikit-learn")]
        numerics = [torch.get_num_threads(), self.device, *versions]
        base = [function.__module__, function.__qualname__, plain(shared), numerics]
        keys = [digest([base, plain(item)]) for item in items]
        there = set(kept.list())
        found = {i: _read(kept, f"{key}.json") for i, key in enumerate(keys) if f"{key}.json" in there}
        found = {i: body["result"] for i, body in found.items() if body is not None}
        todo = [i for i in range(len(items)) if i not in found]
        task = (function, shared, kept)
        before = len(found)

        def tell(done: int, _: int) -> None:
            self.watcher.evaluating(before + done, len(items))

        done = self.executor.map(_do, [(keys[i], items[i]) for i in todo], task, tell) if todo else []
        found |= dict(zip(todo, done, strict=True))
        return [found[i] for i in range(len(items))]

    def pack(self, source: str, name: str, *, split: str = "train", size: int | None = None) -> str:
        """Pack a SOURCE into the application's folder, once, and return the URL of its shards.

        Raises:
            RunError: When work was done on other images of the same SOURCE.
        """
        url = self.folder.folder("data", name).url
        pack(source, url, split=split, size=size, progress=self.watcher.packing)
        return self.unchanged(url)

    def unchanged(self, url: str) -> str:
        """Return the URL of packed shards; finished work names them by it, so they must hold what they first did.

        Raises:
            RunError: When they hold something else: a SOURCE is a place, and other files may have come there.
        """
        kept, held = self.folder.folder("work"), load_index(Folder(url)).hash
        noted = kept.record(PACKED) if kept.exists(PACKED) else {}
        if noted.setdefault(url, held) != held:
            raise RunError(
                f"expected {url} to hold what it did when {self.folder.url} was begun, got other images; bring those back, "
                "choose another name, or delete the application's folder"
            )
        kept.write_json(PACKED, noted)
        return url


def need(what: str | None, message: str) -> str:
    """Return what must be there.

    Raises:
        ConfigError: With the message, when it is not.
    """
    if what is None:
        raise ConfigError(message)
    return what


def _do(task: tuple[Callable[[Any, Any], Any], Any, Folder], named: tuple[str, Any]) -> Any:
    """Do an item, and keep what it gives under its key."""
    (function, shared, kept), (key, item) = task, named
    result = function(shared, item)
    kept.write_json(f"{key}.json", {"result": result})
    return result


def _read(kept: Folder, name: str) -> dict[str, Any] | None:
    try:
        body = kept.record(name)
    except (FileNotFoundError, IntegrityError):
        return None
    return body if "result" in body else None
