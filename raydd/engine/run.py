"""One run, from a config to an artifact in the store: packing, preparing, resuming, distilling, saving."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from raydd.config import BASELINES, Config, config_from, dump_config, flat, methods, parse_yaml
from raydd.config.net import read_net
from raydd.data.index import load_index
from raydd.data.reader import RealData
from raydd.data.transforms import Transform
from raydd.distilled import DistilledSet, Recipe, read_transform, write_transform
from raydd.engine.coordinator import Coordinator, Progress
from raydd.engine.executor import Executor, check_engine
from raydd.engine.held import check_exchange
from raydd.engine.job import Job, facts_of, open_real, problem_of
from raydd.engine.metrics import read_metrics, with_scores, write_metrics
from raydd.engine.numerics import versions
from raydd.engine.validation import FOLDER as SETS
from raydd.engine.validation import Ask, Score, Validation
from raydd.engine.work import Arrays, fit_whitening, to_arrays, transform_of
from raydd.errors import ConfigError, RunError
from raydd.evaluate.protocols import PROTOCOLS
from raydd.evaluate.request import check_apart, check_index
from raydd.methods import Method, Tensors, create
from raydd.nets import build
from raydd.store import Folder, Lease, check_kind, from_json, load_manifest, read_verified

Resume = Literal["auto", "never", "must"]
_log = logging.getLogger("raydd")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run that has been checked against its data and may begin.

    Attributes:
        job: The job, its config resolved.
        real: The training images; the index is read, no image is.
        method: The method, on the CPU, for the coordinator.
        run: The run's folder.
        test: URL of the packed test split; None where there is none.
    """

    job: Job
    real: RealData
    method: Method[Any]
    run: Folder
    test: str | None

    @property
    def config(self) -> Config:
        """The resolved config."""
        return self.job.config


def plan_run(config: Config, train: str, test: str | None) -> Plan:
    """Check a config against packed data; starts nothing and writes nothing.

    Args:
        config: As the user wrote it.
        train: URL of the packed training split.
        test: URL of the packed test split.

    Raises:
        ConfigError: When the config asks for what the data, the network or this machine cannot give.
        DataError: When there are no shards.
    """
    check_engine(config.engine)
    real = open_real(config, train)
    resolved = config.resolved(facts_of(real))
    check_evaluation(resolved, real, test)
    job = Job(config=resolved, shards=train, index_hash=real.index.hash)
    method = create(resolved.method, resolved.net, problem_of(resolved, real))
    check_exchange(resolved.engine, method)
    return Plan(job=job, real=real, method=method, run=Folder(resolved.store).folder(resolved.name), test=test)


def check_evaluation(config: Config, real: RealData, test: str | None) -> None:
    """Check, before any round, what is to be scored when all are done.

    Args:
        config: Resolved.
        real: The training images.
        test: URL of the packed test split; None where there is none.

    Raises:
        ConfigError: For a protocol or a network that is impossible here, or splits that are the same.
        DataError: When the test split does not fit the training split.
    """
    wanted, method, facts, classes = config.evaluate, config.method, facts_of(real), real.class_names
    if not wanted.repeats and not wanted.every:
        return
    name = method.default_protocol if wanted.protocol == "auto" else wanted.protocol
    protocol, shape = PROTOCOLS[name], (facts.channels, facts.size, facts.size)
    if protocol.learned_steps and method.default_protocol != name and method.name not in BASELINES:
        raise ConfigError(
            f"evaluate.protocol {name} applies step sizes that are learned with a set, got method.name {method.name}, which "
            "learns none; set it to auto"
        )
    assert config.net != "auto", "it is resolved"
    own = config.net if protocol.net_name is None else read_net(protocol.net_name)
    for net in [own] if wanted.nets == "auto" else wanted.nets:
        build(protocol.net(net).resolved(facts), shape, len(classes))
    if test is None or not wanted.repeats:
        return
    index = load_index(Folder(test))
    check_index(index, test, "test", classes, shape)
    if wanted.baselines or protocol.rates:
        check_apart(real.index.hash, index.hash, f"data.train and data.test ({test})")


def is_finished(plan: Plan, resume: Resume) -> bool:
    """Whether a run has its artifact already; checks that it may be gone on with.

    Raises:
        RunError: When it exists and must not, does not exist and must, is a run of another config, or no run.
    """
    run, name = plan.run, plan.config.name
    check_kind(run, "run")
    exists = run.exists("config.yaml")
    if exists and resume == "never":
        raise RunError(f"the run {run.url} exists; choose another name, delete it, or let --resume be auto")
    if not exists:
        if resume == "must":
            raise RunError(
                f"expected a run at {run.url} to go on with, got none; check name and store, or let --resume be auto"
            )
        return False
    where = f"{run.url}/config.yaml"
    before = config_from(parse_yaml(run.read("config.yaml").decode(), where), where=where)
    status = run.record("status.json") if run.exists("status.json") else {}
    index_hash = str(status.get("index_hash", plan.job.index_hash))
    if before.hash(index_hash) != plan.job.hash:
        difference = _difference(before, plan.config, index_hash, plan.job)
        raise RunError(
            f"the run {name} at {run.url} is of another config ({difference}); choose another name, or delete it"
        )
    artifact = run.folder("distilled")
    if not artifact.exists("manifest.json"):
        return False
    recipe = read_verified(artifact, load_manifest(artifact), "recipe.json")
    # Its own `rounds` are fewer where the best set on the way was taken.
    made = Recipe.from_json(from_json(recipe, artifact.url), artifact.url).config
    done, select = int(made["method"]["rounds"]), made.get("evaluate", {}).get("select", "last")
    if plan.config.method.rounds < done:
        raise RunError(
            f"method.rounds must be >= {done}, which {run.url} has done already, got {plan.config.method.rounds}"
        )
    more, other = done < plan.config.method.rounds, select != plan.config.evaluate.select
    if other and not more and plan.config.evaluate.select == "val" and not run.folder(SETS).folders():
        raise RunError(
            f"evaluate.select val chooses among sets on the way, got none in {run.url}, whose rounds were done without "
            "evaluate.every; choose another name, or set it to last"
        )
    # Another choice among those sets is made anew, though no round is left.
    return not (more or other)


def _difference(before: Config, now: Config, index_hash: str, job: Job) -> str:
    """Name the first key in which two configs differ."""
    old, new = flat(before.identity(index_hash)), flat(now.identity(job.index_hash))
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            why = ", and the method has a schedule that depends on it" if key == "method.rounds" else ""
            return f"{key} was {old.get(key)!r}, now {new.get(key)!r}{why}"
    return "they differ in what a newer raydd records"


def distil(
    plan: Plan,
    executor: Executor,
    lease: Lease,
    watch: Callable[[Progress], None] | None = None,
    validating: Callable[[int, int], None] | None = None,
    scored: Callable[[int, Score], None] | None = None,
    failed: Callable[[Exception], None] | None = None,
) -> DistilledSet:
    """Run a plan to its artifact, from its last checkpoint if there is one.

    Args:
        plan: The run.
        executor: Who does the work.
        lease: The right to write to the run's folder.
        watch: Called after each round.
        validating: Called after each score on the validation part that is worked out when the rounds are done.
        scored: Called with the round of each such score as it becomes known, from any thread.
        failed: Called with the fault when one will not come, from any thread.

    Raises:
        RunError: When its checkpoints are those of another config, or of more rounds.
        EngineError: When workers cannot be had or kept, the arithmetic fails, or the lease is lost.
        StoreError: When the store fails.
    """
    run, config = plan.run, plan.config
    run.write("config.yaml", dump_config(config).encode())
    whitening = _whitening(plan, executor)
    transform = transform_of(config, plan.real, whitening)

    def as_set(variables: Tensors, rounds: int) -> DistilledSet:
        return _as_set(plan, variables, transform, rounds)

    ask = Ask.of(config, plan.job.shards)
    validation = Validation(run, config.evaluate.every, ask, as_set, executor.score_beside, scored, failed)
    coordinator = Coordinator(plan.job, plan.method, executor, whitening, run, lease, validation, watch)
    variables = coordinator.distil()
    scores = validation.finish(executor.map, validating)
    result = as_set(variables, config.method.rounds)
    if config.evaluate.select == "val":
        # Of equals the earliest; it may be from before `method.rounds` was raised.
        best = validation.load(max(scores, key=lambda round: scores[round]["val_accuracy"]))
        result = replace(best, recipe=replace(best.recipe, config=result.recipe.config))
    lease.check()
    on_the_way: list[dict[str, float]] = []
    if scores:
        lines = with_scores(read_metrics(run), scores)
        write_metrics(run, lines)
        on_the_way = [line for line in lines if "val_accuracy" in line]
    # Before the artifact: once that is there, nobody asks the coordinator again.
    run.write_json("status.json", coordinator.watching.finish(on_the_way))
    result.save(run.folder("distilled"), transforms=Folder(config.store).folder("transforms"))
    return result


def _as_set(plan: Plan, variables: Tensors, transform: Transform, rounds: int) -> DistilledSet:
    config, method = plan.config, plan.method
    tensors = {name: value.detach().contiguous() for name, value in method.distilled(variables).items()}
    facts = method.problem.facts
    protocol = PROTOCOLS[config.method.default_protocol].on(facts.name)
    recipe = Recipe(
        name=config.name,
        method=config.method.name,
        paper=methods()[config.method.name].paper,
        config=config.model_dump(mode="json"),
        classes=tuple(plan.real.class_names),
        label_kind=method.labels.kind,
        label_convention=method.labels.convention,
        protocol=config.method.default_protocol,
        augmentation=protocol.operations(handwritten=facts.handwritten),
        transform=transform.to_json(),
        index_hash=plan.job.index_hash,
        rounds=rounds,
        versions=versions(),
        dataset=facts.name,
    )
    images, labels = tensors.pop("images"), tensors.pop("labels")
    return DistilledSet(images=images, labels=labels, recipe=recipe, preprocessing=transform, extras=tensors)


def _whitening(plan: Plan, executor: Executor) -> Arrays | None:
    """Return the fitted whitening's tensors, from the store where some run has fitted it before."""
    if plan.config.data.zca is None:
        return None
    place = Folder(plan.config.store).folder("transforms")
    key = f"{plan.config.data.zca}-{plan.job.whitening_key}.json"
    sha256 = str(place.record(key).get("sha256")) if place.exists(key) else ""
    if sha256 and place.exists(f"{sha256}.safetensors"):
        stored = read_transform(place, sha256)
        return to_arrays({name.removeprefix("transform."): value for name, value in stored.items()})
    arrays = executor.map(_fit, [None], plan.job)[0]
    place.write_json(key, {"sha256": write_transform(place, transform_of(plan.config, plan.real, arrays))})
    return arrays


def _fit(job: Job, _: None) -> Arrays:
    return fit_whitening(job)
