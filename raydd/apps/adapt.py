"""Domain adaptation: networks trained on one data set meet another through few of its images.

Networks are trained on the whole source (`app.source`) and then fine-tuned on a few images of the target (`data`): real ones
drawn at random, chosen ones, or distilled ones, as in Table 4 of Zhao, Mopuri & Bilen, "Dataset Condensation with Gradient
Matching", ICLR 2021. A set of method `dd` is distilled for networks that were trained on the source, and applied by its
learned steps alone, as in Table 2 of Wang et al., "Dataset Distillation", 2018: with `net_init: fixed` for the very network
that is adapted (one set a run), else for `app.networks` others of the same distribution.

Differs from the papers: source and target are each normalised by their own statistics; a source of another number of channels
is shown in those of the target; momentum and weight decay of the fine-tuning, which the papers do not state, are those of DC's
evaluation; soft labels are taken as classes, except by DD's steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from raydd.apps.arms import Arm, Trial, Way, read, titles
from raydd.apps.bench import Bench
from raydd.apps.memory import remembered, renormalised
from raydd.config import MethodConfig, read_net
from raydd.config.apps import AdaptSection
from raydd.config.net import AnyNetConfig
from raydd.data.epochs import real_batches
from raydd.data.index import load_index
from raydd.data.plan import class_batch
from raydd.data.reader import RealData
from raydd.data.sources import is_source
from raydd.data.transforms import Transform
from raydd.data.views import View
from raydd.distilled import DistilledSet
from raydd.engine.job import facts_of, open_real
from raydd.engine.work import transform_of
from raydd.errors import ConfigError, DataError
from raydd.evaluate.items import real_data, score
from raydd.evaluate.request import real_bytes
from raydd.evaluate.steps import FIXED, STEP_SIZES, apply_steps
from raydd.functional.recipe import TrainRecipe
from raydd.functional.train import train, train_on
from raydd.nets import NetState, build, initialise
from raydd.nets.stored import keep_network, list_networks, read_network
from raydd.report.findings import Findings
from raydd.seeding import derive, generator
from raydd.store import Folder

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
WHOLE_BATCH = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Domains:
    """What all trainings have in common; plain data.

    Attributes:
        seed: Root of all draws.
        device: Where networks are trained.
        net: The network's config.
        classes: Names, the same in both data sets.
        source: URL of packed shards.
        train: Likewise, of the target.
        test: Likewise.
        val_fraction: Share of the target's training split that is left out.
        normal: The target's normalisation as plain data.
        source_normal: The source's, in the target's channels.
        networks: URL of the folder of trained networks.
        pretraining: How networks are trained on the source.
        tuning: How they are fine-tuned on few images.
        whole: How they are trained on the whole target.
    """

    seed: int
    device: str
    net: dict[str, Any]
    classes: tuple[str, ...]
    source: str
    train: str
    test: str
    val_fraction: float
    normal: dict[str, Any]
    source_normal: dict[str, Any]
    networks: str
    pretraining: TrainRecipe
    tuning: TrainRecipe
    whole: TrainRecipe

    def target(self) -> RealData:
        """Return the training images of the target."""
        return real_data(self.train, self.classes, self.val_fraction, self.seed)

    def module(self) -> nn.Module:
        """Return the network without numbers."""
        return build(read_net(self.net), self.target().shape, len(self.classes))


def run(bench: Bench) -> Findings:
    """Return what networks of the source score on the target, adapted in different ways."""
    app = bench.config.app
    assert isinstance(app, AdaptSection)
    domains = _domains(bench, app)
    runs = bench.config.evaluate.repeats
    names = bench.map(pretrain, list(range(runs)), domains)
    sets = [_sets(bench, domains, i, method, names) for i, method in enumerate(bench.config.methods)]
    arms = _arms(bench, domains, names, sets)
    found = bench.map(adapted, [trial for arm in arms for trial in arm.trials], domains)
    each = iter(found)
    scores = [[next(each) for _ in arm.trials] for arm in arms]
    return read(bench, app, arms, scores, sets, differs=(__doc__ or "").split("\n\n")[-1])


def pretrain(domains: Domains, index: int) -> str:
    """Train the network of an index on the source, write it to the store and return its name."""
    real = real_data(domains.source, domains.classes)
    seed = derive(domains.seed, "source", index)
    device, channels = torch.device(domains.device), domains.target().shape[0]
    normal = Transform.from_parts({}, domains.source_normal).to(device)
    module = domains.module()
    state = initialise(module, generator(seed, "net"), device).channels_last()
    batches = real_batches(
        real,
        domains.pretraining.batch,
        seed,
        image=lambda x: normal(in_channels(x, channels).to(device)),
        target=lambda y: y.to(device),
    )
    state = train_on(module, state, batches, len(real), domains.pretraining, seed=seed)
    return keep_network(Folder(domains.networks), state)


def adapted(domains: Domains, trial: Trial) -> float:
    """Return the accuracy on the target's test split, in percent, of a network that met the target."""
    device, module = torch.device(domains.device), domains.module()
    normal = Transform.from_parts({}, domains.normal).to(device)
    seed = derive(domains.seed, "adapt", trial.way, trial.run)
    if trial.way == "scratch":
        state = initialise(module, generator(seed, "net"), device).channels_last()
    else:
        state = read_network(Folder(domains.networks), trial.network).to(device).channels_last()
    if trial.way in ("whole", "scratch"):
        state = _on_whole(domains, module, state, normal, seed)
    elif trial.way != "none":
        x, y = (tensor.to(device) for tensor in _images(domains, trial, normal, seed))
        if trial.steps is not None:
            state = apply_steps(module, state, x, y, torch.from_numpy(trial.steps.copy()))
        else:
            state = train(module, state, x, y, fitted(domains.tuning, len(x)), seed=seed)
    return score(module, [state], real_data(domains.test, domains.classes), normal, device)[0]


def _images(domains: Domains, trial: Trial, normal: Transform, seed: int) -> tuple[Tensor, Tensor]:
    """Return the few images that a network is adapted on, and their labels."""
    if trial.images is not None and trial.labels is not None:
        return torch.from_numpy(trial.images.copy()), torch.from_numpy(trial.labels.copy())
    real = domains.target()
    drawn = [class_batch(ids, trial.per_class, generator(seed, "random", c)) for c, ids in enumerate(real.by_class)]
    ids = torch.cat(drawn)
    return normal(real.images(ids).to(normal.mean.device)), real.labels[ids]


def _on_whole(domains: Domains, module: nn.Module, state: NetState, normal: Transform, seed: int) -> NetState:
    real, device = domains.target(), normal.mean.device
    batches = real_batches(
        real, domains.whole.batch, seed, image=lambda x: normal(x.to(device)), target=lambda y: y.to(device)
    )
    return train_on(module, state, batches, len(real), domains.whole, seed=seed)


def fitted(tuning: TrainRecipe, n: int) -> TrainRecipe:
    """Return the fine-tuning on `n` images: the rate drops after as many updates as `drop_epoch` says, in whole epochs."""
    batch = min(tuning.batch, n)
    length = -(-n // batch)
    assert tuning.drop_epoch is not None
    return replace(tuning, batch=batch, drop_epoch=-(-tuning.drop_epoch // length))


def in_channels(images: Tensor, channels: int) -> Tensor:
    """Return uint8 images (n, C, H, W) as `channels` = 1 or 3: grey ones three times over, colours by their luma."""
    if images.shape[1] == channels:
        return images
    if channels == 3:
        return images.expand(-1, 3, -1, -1)
    weights = torch.tensor(LUMA)[:, None, None]
    return (images * weights).sum(1, keepdim=True).round().clamp(0, 255).to(torch.uint8)


def normal_in_channels(normal: Transform, channels: int) -> Transform:
    """Return a normalisation in other channels; the deviation of a luma is taken as the weighted mean of those of colours."""
    if len(normal.mean) == channels:
        return normal
    if channels == 3:
        return Transform(normal.mean.expand(3).clone(), normal.std.expand(3).clone())
    weights = torch.tensor(LUMA)
    return Transform((normal.mean * weights).sum(0, keepdim=True), (normal.std * weights).sum(0, keepdim=True))


def _domains(bench: Bench, app: AdaptSection) -> Domains:
    config = bench.config.run(bench.config.methods[0], "plain", "runs", zca=None)
    real = open_real(config, bench.train)
    classes = bench.classes
    url = _source(bench, app, real.index.size, classes)
    source = RealData(url, classes=list(classes))
    source_normal = transform_of(config, source, None)
    sgd: dict[str, Any] = {"optimiser": "sgd", "momentum": 0.9, "weight_decay": 5e-4}
    to_zero: dict[str, Any] = {"lr": 0.01, "batch": WHOLE_BATCH, "schedule": "cosine", "final": 0.0}
    return Domains(
        seed=bench.config.seed,
        device=bench.device,
        net=_net(bench, real).model_dump(),
        classes=classes,
        source=url,
        train=bench.train,
        test=bench.test,
        val_fraction=bench.config.data.val_fraction,
        normal=transform_of(config, real, None).to_json(),
        source_normal=normal_in_channels(source_normal, real.index.channels).to_json(),
        networks=bench.folder.folder("networks").url,
        pretraining=TrainRecipe(epochs=app.source_epochs, **sgd, **to_zero),
        tuning=TrainRecipe(
            lr=app.lr, updates=app.updates, batch=app.batch, schedule="drop", drop_epoch=app.drop, final=0.1, **sgd
        ),
        whole=TrainRecipe(epochs=bench.config.evaluate.whole_epochs, **sgd, **to_zero),
    )


def _net(bench: Bench, real: RealData) -> AnyNetConfig:
    """Return the network that is adapted: that of the first method, which all sets for pre-trained networks must share."""
    first, *others = [
        bench.config.run(method, "net", "runs").resolved(facts_of(real)).net
        for i, method in enumerate(bench.config.methods)
        if i == 0 or method.name == "dd"
    ]
    assert isinstance(first, AnyNetConfig), "resolved"
    if any(net != first for net in others):
        raise ConfigError(f"net.name must be given, since the sets of dd are for the network adapted, {first.name}")
    return first


def _source(bench: Bench, app: AdaptSection, size: int, classes: tuple[str, ...]) -> str:
    """Return the URL of the source's packed shards, of the target's size."""
    url = bench.pack(app.source, "source", size=size) if is_source(app.source) else app.source
    index = load_index(Folder(url))
    if index.size != size:
        raise DataError(
            f"app.source must hold images of {size} pixels, as the target does, got {index.size} in {url}; "
            "give a SOURCE, which is packed at that size"
        )
    missing = [name for name in classes if name not in index.classes]
    if missing:
        raise DataError(f"app.source must have the target's classes, got none called {missing[0]!r} in {url}")
    return bench.pack(View(of=url, rotate=app.rotate).source, "turned") if app.rotate else url


def _sets(bench: Bench, domains: Domains, i: int, method: MethodConfig, names: list[str]) -> list[DistilledSet]:
    """Return what a method distils: one set, or one for each run's own network."""
    name = f"{i}-{method.name}"
    if method.name == "random":
        return []  # drawn anew for every run
    if method.name != "dd":
        return [remembered(bench.distil(method, name), "float32")]
    networks = Folder(domains.networks)
    if getattr(method, "net_init", "") == "fixed":
        starts = [[name] for name in names]
    else:
        app = bench.config.app
        assert isinstance(app, AdaptSection)
        # Others than those that are adapted.
        starts = [bench.map(pretrain, list(range(len(names), len(names) + app.networks)), domains)]
    told = [method.model_copy(update={"init_from": list_networks(networks, start)}) for start in starts]
    return [bench.distil(each, f"{name}-{k}" if len(told) > 1 else name) for k, each in enumerate(told)]


def _arms(bench: Bench, domains: Domains, names: list[str], sets: list[list[DistilledSet]]) -> list[Arm]:
    real, asked = domains.target(), bench.config.evaluate.baselines
    pixels = real_bytes(real.shape)

    def plain(name: str, way: Way, images: int, per_class: int = 0) -> Arm:
        trials = tuple(Trial(way=way, run=r, network=each, per_class=per_class) for r, each in enumerate(names))
        return Arm(name=name, kind=way, images=images, stored=images * pixels, trials=trials)

    def drawn(per_class: int, beside: str) -> Arm:
        return plain(f"random, ipc {per_class}{beside}", "random", per_class * len(domains.classes), per_class)

    arms = [plain("no adaptation", "none", 0)]
    for method, title, made in zip(bench.config.methods, titles(bench.config.methods), sets, strict=True):
        if method.name == "random" or "random" in asked:
            arms.append(drawn(method.ipc, ""))
        if not made:
            continue
        same = _bytes(made[0]) // pixels // len(domains.classes)
        if "random@bytes" in asked and same > method.ipc:
            arms.append(drawn(same, f", the bytes of {method.name}, ipc {method.ipc}"))
        arms.append(_arm_of(method, title, domains, names, made))
    arms.append(plain("whole target, fine-tuned", "whole", len(real)))
    arms.append(plain("whole target, from scratch", "scratch", len(real)))
    return list({(arm.name, arm.images): arm for arm in arms}.values())


def _arm_of(method: MethodConfig, title: str, domains: Domains, names: list[str], made: list[DistilledSet]) -> Arm:
    trials = []
    for r, network in enumerate(names):
        ds = made[r % len(made)]
        steps = ds.extras.get(STEP_SIZES)
        labels = ds.targets if steps is None else ds.labels
        trials.append(
            Trial(
                way="set" if steps is None else "steps",
                run=r,
                network=network,
                images=renormalised(ds, Transform.from_parts({}, domains.normal)).numpy(),
                labels=labels.numpy(),
                steps=None if steps is None else steps.numpy(),
            )
        )
    return Arm(
        name=title,
        kind=title.replace(f", ipc {method.ipc}", "", 1),
        images=len(made[0]),
        stored=_bytes(made[0]),
        trials=tuple(trials),
    )


def _bytes(ds: DistilledSet) -> int:
    """Return a set's bytes; the network of a set for a known one is there already."""
    known = (value for name, value in ds.extras.items() if name.startswith(FIXED))
    return ds.storage_bytes - sum(value.numel() * value.element_size() for value in known)
