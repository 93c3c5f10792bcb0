"""A sweep that has been checked against its data and may begin: its base config, its points, and its trials' configs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import yaml

from raydd.config import (
    Config,
    DataFacts,
    SweepBase,
    SweepConfig,
    dump_config,
    flat,
    validate,
)
from raydd.data.reader import RealData
from raydd.engine.executor import check_engine
from raydd.engine.job import facts_of, open_real, problem_of
from raydd.engine.run import check_evaluation
from raydd.errors import ConfigError, RunError
from raydd.evaluate import net_text
from raydd.methods import create
from raydd.store import Folder, check_kind
from raydd.sweep.records import Trial, name_of
from raydd.sweep.space import Draw, applied, count, points, probes

PROBED_DRAWS = 8
CONFIG = "sweep.yaml"
# May be raised, or chosen anew, on a sweep that exists.
OPEN = ("trials", "hours", "max_concurrent")


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPlan:
    """A sweep that may begin.

    Attributes:
        raw: The base config as the user said it, without the section `sweep`.
        config: The base config.
        sweep: The section.
        train: URL of the packed training split.
        test: URL of the packed test split, for the best set at the end; None where there is none.
        real: The training images; the index is read, no image is.
    """

    raw: dict[str, Any]
    config: Config
    sweep: SweepConfig
    train: str
    test: str | None
    real: RealData
    folder: Folder = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Folder(self.config.store).folder(self.config.name))

    @property
    def facts(self) -> DataFacts:
        """Facts of the data."""
        return facts_of(self.real)

    @property
    def count(self) -> int:
        """Trials that are asked for; there may be fewer different ones."""
        return count(self.sweep)

    @property
    def protocol(self) -> str:
        """The protocol of all scores."""
        for said in (self.sweep.protocol, self.config.evaluate.protocol, self.config.method.default_protocol):
            if said != "auto":
                return said
        raise AssertionError("methods name a protocol")

    def draws(self) -> Iterator[Draw]:
        """Yield the draws of random or grid search."""
        return points(self.sweep, self.config.seed, lambda drawn: applied(self.raw, self.sweep.space, drawn)[1])

    def trial(self, index: int, drawn: Draw) -> Trial:
        """Return a trial that is about to begin."""
        raw, point = applied(self.raw, self.sweep.space, drawn)
        return Trial(index=index, drawn=drawn, point=point, ipc=self._validated(raw).method.ipc)

    def point_config(self, drawn: Draw, name: str) -> Config:
        """Return the config at a point as a user would write it, ready to be distilled.

        Where the best of the sets on the way counts, it is looked for as often as in the trial.
        """
        raw, _ = applied(self.raw, self.sweep.space, drawn)
        config = self._validated({**raw, "name": name})
        if config.evaluate.select == "last":
            return config
        return config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"every": self._every(config)})})

    def trial_config(self, trial: Trial) -> Config:
        """Return the config of a trial's run: at its point, scored on the way, never on the test split."""
        config = self.point_config(trial.drawn, name_of(trial.index))
        every = self._every(config)
        evaluate: dict[str, Any] = {
            "protocol": self.protocol,
            "nets": self._judges(),
            "every": every,
            "select": config.evaluate.select if every else "last",
            "repeats": self.sweep.repeats,
            "baselines": [],
            "sets": 1,
        }
        data = {"train": self.train, "test": None, "size": None}
        update = {
            "store": self.folder.folder("trials").url,
            "data": config.data.model_copy(update=data),
            "evaluate": config.evaluate.model_copy(update=evaluate),
        }
        return config.model_copy(update=update)

    def _every(self, config: Config) -> int:
        return math.ceil(config.method.rounds / self.sweep.scores) if config.method.iterative else 0

    def _judges(self) -> Any:
        """Return the networks of all scores: those of the config; where networks are varied, its own for all trials."""
        if self.config.evaluate.nets != "auto" or not any(
            key == "method.name" or key.startswith("net.") for key in self.sweep.space
        ):
            return self.config.evaluate.nets
        return [self.config.resolved(self.facts).net]

    def _validated(self, raw: dict[str, Any]) -> Config:
        return validate(Config, raw, where="sweep.space")

    def check(self) -> None:
        """Build the config of every point, and one for every value and bound of the space, before anything starts.

        Raises:
            ConfigError: Naming the dotted key, when one is not allowed or the data cannot give what it asks for.
        """
        for key, dimension in self.sweep.space.items():
            for other in dimension.when.keys() - self.sweep.space.keys() - flat(self.raw).keys():
                raise ConfigError(
                    f"sweep.space.{key}.when must name keys that the config or sweep.space sets, got {other}; write it out"
                )
        some = list(islice(self.draws(), PROBED_DRAWS))
        for key, drawn in probes(self.sweep.space, some):
            self._check_one(drawn, key)
        if self.sweep.search != "optuna":
            for index, drawn in enumerate(self.draws()):
                self._check_one(drawn, f"trial {name_of(index)}")

    def _check_one(self, drawn: Draw, what: str) -> None:
        raw, point = applied(self.raw, self.sweep.space, drawn)
        try:
            config = self._validated(raw).resolved(self.facts)
            create(config.method, config.net, problem_of(config, self.real))
        except ConfigError as error:
            shown = ", ".join(f"{key} {value}" for key, value in point.items())
            raise ConfigError(f"{str(error).removesuffix(' (sweep.space)')} (sweep.space, {what}: {shown})") from None

    def identity(self) -> dict[str, Any]:
        """Return what must be the same for a sweep to go on: all that decides its points and their scores."""
        asked = self.sweep.model_dump(mode="json", exclude=set(OPEN))
        asked |= {"protocol": self.protocol, "nets": self._judges_text()}
        return {**self.config.identity(self.real.index.hash), "base": self.raw_identity(), "sweep": asked}

    def raw_identity(self) -> dict[str, Any]:
        """Return what the user said of what trials may be made of; methods other than the config's may read it."""
        said = {key: self.raw.get(key) for key in ("method", "net")}
        return {"said": said, "select": self.config.evaluate.select}

    def _judges_text(self) -> list[str] | str:
        nets = self._judges()
        return nets if nets == "auto" else [net_text(net) for net in nets]

    def dump(self) -> str:
        """Return the sweep as YAML: the config, and what is varied."""
        section = self.sweep.model_dump(mode="json", exclude_none=True)
        for dimension in section["space"].values():
            if not dimension["when"]:
                del dimension["when"]
        return dump_config(self.config) + yaml.safe_dump({"sweep": section}, sort_keys=False, width=120)


def plan_sweep(base: SweepBase, train: str, test: str | None) -> SweepPlan:
    """Check a sweep against packed data; starts nothing and writes nothing.

    Args:
        base: What the user said.
        train: URL of the packed training split.
        test: URL of the packed test split.

    Raises:
        ConfigError: When a point of the space is not allowed.
        DataError: When there are no shards.
    """
    check_engine(base.config.engine)
    real = open_real(base.config, train)
    plan = SweepPlan(
        raw=base.raw,
        config=base.config,
        sweep=base.sweep,
        train=Folder(train).url,
        test=test,
        real=real,
    )
    plan.check()
    check_evaluation(base.config.resolved(facts_of(real)), real, test)
    return plan


def check_same(plan: SweepPlan) -> bool:
    """Say whether the sweep exists already; checks that it is this one.

    Raises:
        RunError: When it is another, or something else.
    """
    folder = plan.folder
    check_kind(folder, "sweep")
    if not folder.exists(CONFIG):
        return False
    where = f"{folder.url}/{CONFIG}"
    before = folder.record("identity.json")
    old, new = flat(before), flat(_plain(plan.identity()))
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            raise RunError(
                f"the sweep {plan.config.name} at {folder.url} is another one ({key} was {old.get(key)!r}, now "
                f"{new.get(key)!r}; {where}); choose another name, or delete it"
            )
    return True


def write_plan(plan: SweepPlan) -> None:
    """Write what a sweep is into its folder; what tells it from others comes first."""
    plan.folder.write_json("identity.json", _plain(plan.identity()))
    plan.folder.write(CONFIG, plan.dump().encode())


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """Return what comes back from JSON."""
    return json.loads(json.dumps(value, default=str))
