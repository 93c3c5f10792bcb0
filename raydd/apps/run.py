"""`raydd app`: packs what must be packed, takes the lease, lets the application work, and writes what it found."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from raydd.apps.bench import PACKED, Bench, need
from raydd.config import AppConfig, dump_config
from raydd.data.index import load_index
from raydd.data.sources import is_source
from raydd.engine.executor import open_executor
from raydd.engine.numerics import keep_heap, numerics
from raydd.engine.run import Resume
from raydd.errors import ConfigError, RunError
from raydd.packing import packed
from raydd.report import write_application
from raydd.report.findings import Findings
from raydd.store import Folder, Lease, check_kind
from raydd.watchers import Watcher


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """A finished application in the store.

    Attributes:
        url: Its folder.
        findings: What it found, as plain data.
    """

    url: str
    findings: dict[str, Any]

    @property
    def report(self) -> str:
        """URL of the page."""
        return f"{self.url}/report.html"


def run_application(kind: str, config: AppConfig, resume: Resume, watcher: Watcher) -> Application:
    """Run an application to its page; it goes on where it was stopped, and a finished one is read back.

    Raises:
        UserError: For whatever the caller can mend: config, data, store, folder.
        EngineError: When workers or arithmetic fail.
    """
    keep_heap()
    train, test = packed(config, watcher)
    test = need(test, "an application scores on a test split, got none; set data.test")
    folder = Folder(config.store).folder(config.name)
    hashes = (load_index(Folder(train)).hash, load_index(Folder(test)).hash)
    identity = {"kind": kind, "hash": config.hash(*hashes), "others": _others(config)}
    exists = _exists(folder, kind, identity, resume)
    if exists and folder.exists("results.json"):
        body = folder.record("results.json")
        if {key: body.get(key) for key in identity} == identity:
            return Application(url=folder.url, findings=body["findings"])
    try:
        with Lease.acquire(folder.folder("lease"), say=watcher.say) as lease:
            # Once more: another driver may have begun it in between.
            _exists(folder, kind, identity, "auto")
            # What tells it from a run comes first.
            folder.write_json("app.json", identity)
            folder.write("config.yaml", dump_config(config).encode())
            with numerics(config.engine), open_executor(config.engine) as executor:
                bench = Bench(
                    config=config,
                    folder=folder,
                    train=train,
                    test=test,
                    executor=executor,
                    lease=lease,
                    watcher=watcher,
                )
                findings = _function(kind)(bench)
            lease.check()
            write_application(folder, kind, config, findings)
            folder.write_json("results.json", {**identity, "findings": findings.to_json()})
    except ConfigError:
        # Of a mistake that only the data show nothing stays.
        if not exists and not _begun(folder):
            ours = ("config.yaml", "app.json", f"work/{PACKED}")
            folder.delete(*(name for name in folder.list() if name in ours or name.startswith("lease/")))
        raise
    return Application(url=folder.url, findings=findings.to_json())


def _others(config: AppConfig) -> dict[str, str]:
    """Return the hashes of the indexes of packed shards that the section `app` names: a URL may come to hold others."""
    said = config.app.model_dump()
    named = [said.get("source"), *(said.get("tests") or ()), *(_many(said.get("tasks")))]
    shards = [url for url in named if url is not None and not is_source(url)]
    return {url: load_index(Folder(url)).hash for url in shards}


def _begun(folder: Folder) -> bool:
    """Whether anything was done that belongs to one config alone."""
    return any(name != PACKED for part in ("data", "runs", "work") for name in folder.folder(part).list())


def _many(tasks: Any) -> list[str]:
    """Return what `app.tasks` names: data in one kind of application, in others it is their number."""
    return tasks if isinstance(tasks, list) else []


def _function(kind: str) -> Callable[[Bench], Findings]:
    return importlib.import_module(f"raydd.apps.{kind}").run


def _exists(folder: Folder, kind: str, identity: dict[str, Any], resume: Resume) -> bool:
    """Whether the application was begun before; checks that it may be gone on with."""
    check_kind(folder, "application")
    exists = folder.exists("app.json")
    if exists and resume == "never":
        raise RunError(f"the folder {folder.url} exists; choose another name, delete it, or let --resume be auto")
    if not exists and resume == "must":
        raise RunError(f"expected an application at {folder.url} to go on with, got none; check name and store")
    if not exists:
        return False
    if folder.record("app.json") != identity and _begun(folder):
        raise RunError(f"{folder.url} is of another config or kind; choose another name, or delete it")
    return True
