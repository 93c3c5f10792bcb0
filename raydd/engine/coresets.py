"""Coresets as baselines: each is distilled as a run of its own would be, into a folder that is gone afterwards.

Where finished networks are kept (`raydd.evaluate.Keeping`), chosen sets are kept beside them, by all that the choice depends on.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace

from raydd.config import EngineConfig, config_from
from raydd.distilled import DistilledSet
from raydd.engine.executor import Executor
from raydd.engine.numerics import versions
from raydd.engine.run import Plan, distil, plan_run
from raydd.errors import ConfigError, IntegrityError
from raydd.evaluate.request import Request, check_protocol, per_class, split_seed, val_fraction
from raydd.store import Folder, Lease, digest, to_json

METHODS = ("herding", "kcenter", "forgetting", "kmeans", "average", "optimised")
COUNT = {"average": 1}  # images a class, where a coreset has no choice


def with_coresets(
    request: Request, *, train: str | None, engine: EngineConfig, executor: Executor, keep: Folder | None = None
) -> Request:
    """Choose the coresets among a request's baselines: as many images a class, from the same part of the training split.

    The network that chooses is of the kind that the set was distilled with. Images are not whitened for the choice.

    Args:
        request: A set and its baselines.
        train: URL of packed training shards.
        engine: How work is done.
        executor: Who does it; free afterwards.
        keep: Where chosen sets are kept until the evaluation is done, for one that goes on; None for nowhere.

    Returns:
        The request with its coresets, each in its own normalisation.

    Raises:
        ConfigError: When the set has not the same number of images of every class, or more than the data has.
    """
    names = [name for name in request.baselines if name in METHODS]
    if not names or train is None:
        return request
    counts = set(per_class(request.ds))
    if len(counts) > 1:
        raise ConfigError(
            f"the baseline {names[0]} takes as many images of every class, got a set with {min(counts)} to {max(counts)}; "
            "use random"
        )
    protocol = request.protocol or request.ds.recipe.protocol
    check_protocol(request.ds, protocol)
    chosen = {name: _choose(request.ds, name, max(counts), train, protocol, engine, executor, keep) for name in names}
    return replace(request, coresets=chosen)


def _choose(
    ds: DistilledSet,
    name: str,
    ipc: int,
    train: str,
    protocol: str,
    engine: EngineConfig,
    executor: Executor,
    keep: Folder | None,
) -> DistilledSet:
    with tempfile.TemporaryDirectory(prefix="raydd-") as store:
        config = {
            "name": name,
            "seed": split_seed(ds),
            "data": {
                "train": train,
                "classes": list(ds.classes),
                "val_fraction": val_fraction(ds, protocol),
                "zca": None,
            },
            "method": {"name": name, "ipc": COUNT.get(name, ipc)},
            "net": ds.recipe.config.get("net", "auto"),
            "engine": engine.model_dump(),
            "store": store,
            "track": [],
        }
        plan = plan_run(config_from(config, where=f"baseline {name}"), train, None)
        place = None if keep is None else keep.folder(_key(plan))
        if place is not None and (known := _kept(place)) is not None:
            return known
        with Lease.acquire(plan.run.folder("lease")) as lease:
            chosen = distil(plan, executor, lease)
        executor.end()
        if place is not None:
            chosen.save(place)
        return chosen


def _key(plan: Plan) -> str:
    """Return the name of a chosen set: by the config's hash, which has the data's in it, and what its bits depend on besides."""
    return f"coreset-{digest(to_json({'hash': plan.job.hash, 'versions': versions()})).sha256[:32]}"


def _kept(place: Folder) -> DistilledSet | None:
    """Return a set that was chosen before; None where there is none, or it is damaged."""
    try:
        return DistilledSet.load(place.url) if place.exists("manifest.json") else None
    except IntegrityError:
        return None
