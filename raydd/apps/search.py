"""Architecture search: how well few images rank networks, beside training every one of them on the whole set.

Every candidate of `app.grid` is trained on each proxy (sets of `methods`, random real images beside them, the whole set stopped
early) and scored on the validation part of the training split; the test split is read once, for the networks that were picked.
As in Zhao & Bilen, "Dataset Condensation with Distribution Matching", WACV 2023, Section 4.5, and DC and DSA before it.

Differs from the papers: every training, on proxies and on the whole set, takes the same protocol's augmentation and rate with a
cosine to zero, and as many updates on every proxy; the whole set is stopped early after as many updates of the same batch, in
the middle of its one training, so that its rate has not come down by then; each network is
trained on the whole set once, where the papers train five; the second correlation is over the networks that the whole set
ranks highest, the papers being unclear about whose ranking chooses them. Ties share their mean rank. Learned images may be kept
at a byte a pixel (`app.keep: uint8`), as real ones are: as floats they take the bytes of four times as many real images.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from raydd.apps.bench import Bench
from raydd.apps.memory import remembered
from raydd.apps.ranking import Ranking, read
from raydd.apps.titles import numbered, sized
from raydd.config import NETS, read_net
from raydd.config.apps import SearchSection
from raydd.config.net import AnyNetConfig
from raydd.data.epochs import real_batches
from raydd.data.reader import RealData
from raydd.distilled import DistilledSet
from raydd.engine.job import facts_of, open_real
from raydd.errors import ConfigError
from raydd.evaluate import PROTOCOLS, Request, net_text
from raydd.evaluate.grid import expand
from raydd.evaluate.items import Item, Shared, groups, images_of, score
from raydd.evaluate.protocols import Protocol
from raydd.evaluate.request import prepare
from raydd.evaluate.score import CUDA_GROUP
from raydd.functional.recipe import TrainRecipe
from raydd.functional.stacked import train_group
from raydd.functional.train import train_on
from raydd.nets import NetState, build, initialise
from raydd.nets.stored import keep_network, read_network
from raydd.report.findings import Findings
from raydd.seeding import derive, generator
from raydd.store import Folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Trials:
    """What all trainings on one set have in common; plain data.

    Attributes:
        shared: The set, or the real images, and how they are normalised.
        recipe: How networks are trained.
        early: Updates after which the training on the whole set is scored a first time.
        networks: URL of the folder that networks trained on the whole set are kept in.
    """

    shared: Shared
    recipe: TrainRecipe
    early: int = 0
    networks: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """A stand-in for the whole set.

    Attributes:
        name: For people.
        of: What its networks are trained on, as in `Item`.
        shared: The same as plain data.
        images: How many.
        stored: Their bytes.
    """

    name: str
    of: str
    shared: Shared
    images: int
    stored: int


def run(bench: Bench) -> Findings:
    """Return how well proxies rank the candidates."""
    app, config = bench.config.app, bench.config
    assert isinstance(app, SearchSection)
    nets, impossible = candidates(bench, app)
    _check_length(bench, app)
    sets = [remembered(bench.distil(m, f"{i}-{m.name}"), app.keep) for i, m in enumerate(config.methods)]
    proxies = _proxies(bench, sets)
    first = proxies[0].shared
    # The training on the whole set depends on no distilled image.
    real = replace(first, images=first.images[:0], labels=first.labels[:0], draws={})
    whole = Trials(
        shared=real,
        recipe=_recipe(real, app.batch, epochs=config.evaluate.whole_epochs),
        early=app.updates,
        networks=bench.folder.folder("networks").url,
    )
    rankings = [_rank(bench, proxy, nets, app) for proxy in proxies]
    found = bench.map(on_whole, [_item("whole", net, (0,)) for net in nets], whole)
    images = len(real.real())
    stored = images * (int(np.prod(real.real().shape)) + 8)
    for name, key in (("whole set, stopped early", "early"), ("whole set", "accuracy")):
        each, seconds = [[one[key]] for one in found], sum(one[f"{key}_seconds"] for one in found)
        rankings.append(Ranking(name=name, images=images, stored=stored, each=each, seconds=seconds))
    picks = sorted({ranking.pick for ranking in rankings})
    names = [found[pick]["network"] for pick in picks]
    asked = [(_item("whole", nets[pick], (0,)), name) for pick, name in zip(picks, names, strict=True)]
    tests = dict(zip(picks, bench.map(on_test, asked, whole), strict=True))
    notes = [(__doc__ or "").split("\n\n")[-1].replace("\n", " ").strip()]
    if impossible:
        notes.append(f"{impossible} networks of the grid halve such images more often than can be, and were left out.")
    return read(bench, app, nets, rankings, tests, sets, tuple(notes))


def candidates(bench: Bench, app: SearchSection) -> tuple[list[AnyNetConfig], int]:
    """Return the networks to compare, and how many of the grid are impossible for such images.

    Raises:
        ConfigError: When fewer are possible than are to be drawn.
    """
    real = _real(bench)
    asked = bench.config.evaluate.nets
    kinds: Sequence[Any] = [NETS["convnet"]()] if asked == "auto" else asked
    every = [net.resolved(facts_of(real)) for kind in kinds for net in expand(kind, app.grid)]
    possible = [net for net in every if _is_possible(net, real.shape, real.num_classes)]
    least, impossible = app.sample or 2, len(every) - len(possible)
    if len(possible) < least:
        what = "app.sample" if app.sample else "the number of candidates"
        raise ConfigError(
            f"{what} must be from 2 to those of app.grid that images of {real.shape[1]} pixels allow ({len(possible)}), "
            f"got {app.sample or len(possible)}"
        )
    if app.sample:
        drawn = torch.randperm(len(possible), generator=generator(bench.config.seed, "candidates"))[: app.sample]
        return [possible[i] for i in drawn.sort().values.tolist()], impossible
    return possible, impossible


def _check_length(bench: Bench, app: SearchSection) -> None:
    count = len(_real(bench))
    length = bench.config.evaluate.whole_epochs * -(-count // app.batch)
    if app.updates >= length:
        raise ConfigError(
            f"app.updates must be < the updates of the training on the whole set ({length}), which is stopped early there, "
            f"got {app.updates}; raise evaluate.whole_epochs"
        )


def _real(bench: Bench) -> RealData:
    """Return what networks are trained on, without the validation part."""
    return open_real(bench.config.run(bench.config.methods[0], "grid", "runs"), bench.train)


def _is_possible(net: AnyNetConfig, shape: tuple[int, int, int], classes: int) -> bool:
    try:
        build(net, shape, classes)
    except ConfigError:
        return False
    return True


def _proxies(bench: Bench, sets: Sequence[DistilledSet]) -> list[Proxy]:
    """Return the sets, and the random images beside those that are distilled."""
    config, found = bench.config, []
    protocol = "dsa" if config.evaluate.protocol == "auto" else config.evaluate.protocol
    drawn = [of for of in config.evaluate.baselines if of != "whole"]
    seen = []
    for method, title, ds in zip(config.methods, sized(config.methods), sets, strict=True):
        request = Request(ds=ds, protocol=protocol, baselines=drawn if method.iterative else ())
        task = prepare(
            request, test=bench.test, train=bench.train, whole_epochs=1, seed=config.seed, device=bench.device
        )
        names = {"random": f"random, ipc {method.ipc}", "random@bytes": f"random, the bytes of {title}"}
        for of, (images, stored) in task.sizes.items():
            shared = task.shared
            if of != "distilled":
                key = (of, shared.draws[of], str(shared.transform))
                if key in seen:
                    continue
                seen.append(key)
                shared = replace(
                    shared, images=shared.images[:0], labels=shared.labels[:0], draws={of: shared.draws[of]}
                )
            found.append(Proxy(name=names.get(of, title), of=of, shared=shared, images=images, stored=stored))
    # Random images may be as many as another method's, normalised otherwise, or a method themselves.
    names = numbered([proxy.name for proxy in found])
    return [replace(proxy, name=name) for proxy, name in zip(found, names, strict=True)]


def _rank(bench: Bench, proxy: Proxy, nets: Sequence[AnyNetConfig], app: SearchSection) -> Ranking:
    trials = Trials(shared=proxy.shared, recipe=_recipe(proxy.shared, app.batch, updates=app.updates, of=proxy.of))
    items = [_item(proxy.of, net, tuple(range(bench.config.evaluate.repeats))) for net in nets]
    found = bench.map(on_proxy, items, trials)
    return Ranking(
        name=proxy.name,
        images=proxy.images,
        stored=proxy.stored,
        each=[one["each"] for one in found],
        seconds=sum(one["seconds"] for one in found),
    )


def _item(of: str, net: AnyNetConfig, repeats: tuple[int, ...]) -> Item:
    return Item(of=of, net=net.model_dump(), net_text=net_text(net), repeats=repeats, part="val")


def _recipe(
    shared: Shared, batch: int, *, of: str = "whole", epochs: int | None = None, updates: int | None = None
) -> TrainRecipe:
    """Return the protocol's training at another length, its rate going to zero by a cosine."""
    training = _protocol(shared, of).training
    return replace(
        training,
        epochs=epochs,
        updates=updates,
        batch=batch,
        shuffle=True,
        schedule="cosine",
        warmup=0,
        final=0.0,
        drop_epoch=None,
    )


def _protocol(shared: Shared, of: str) -> Protocol:
    """Return how networks are trained: the same way all, though a protocol may have another one for some networks."""
    return PROTOCOLS[shared.protocol].on(shared.data).fitted(shared.labels_of(of))


def on_proxy(trials: Trials, item: Item) -> dict[str, Any]:
    """Train the networks of an item on a proxy; return their accuracies on the validation part, and the seconds it took."""
    began = time.perf_counter()
    shared, device = trials.shared, torch.device(trials.shared.device)
    module, normal, protocol = _module(shared, item), shared.preprocessing().to(device), _protocol(shared, item.of)
    augment, each = protocol.augment(handwritten=shared.handwritten), []
    for repeats in groups(len(item.repeats), CUDA_GROUP if device.type == "cuda" else 1):
        seeds = [item.seed(shared, repeat) for repeat in repeats]
        states = [initialise(module, generator(seed, "net"), device).channels_last() for seed in seeds]
        xs, ys = [], []
        for repeat in repeats:
            x, labels = images_of(shared, item, _draw(shared, item.of, repeat), normal, device)
            xs.append(x)
            ys.append(protocol.targets(labels, len(shared.classes)).to(device))
        states = train_group(
            module, states, torch.stack(xs), torch.stack(ys), trials.recipe, seeds=seeds, augment=augment
        )
        each += score(module, states, shared.judges("val"), normal, device)
    return {"each": each, "seconds": time.perf_counter() - began}


def _draw(shared: Shared, of: str, repeat: int) -> int:
    """Return what a repeat's random images are drawn by: the same for every network, which are compared on them."""
    return derive(shared.seed, "proxy", of, repeat)


def on_whole(trials: Trials, item: Item) -> dict[str, Any]:
    """Train a network on the whole set; return its accuracy early and at the end, the seconds to each, and its name."""
    began = time.perf_counter()
    shared, device = trials.shared, torch.device(trials.shared.device)
    module, normal, protocol = _module(shared, item), shared.preprocessing().to(device), _protocol(shared, item.of)
    seed, real = item.seed(shared, 0), shared.real()
    batches = real_batches(
        real,
        trials.recipe.batch,
        seed,
        image=lambda x: normal(x.to(device)),
        target=lambda y: protocol.targets(y, len(shared.classes)).to(device),
    )
    found: dict[str, Any] = {}

    def judge(key: str, state: NetState) -> None:
        found[key] = score(module, [state], shared.judges("val"), normal, device)[0]
        found[f"{key}_seconds"] = time.perf_counter() - began

    def look(done: int, state: NetState) -> None:
        if done == trials.early:
            judge("early", state)

    state = initialise(module, generator(seed, "net"), device).channels_last()
    augment = protocol.augment(handwritten=shared.handwritten)
    state = train_on(module, state, batches, len(real), trials.recipe, seed=seed, augment=augment, look=look)
    judge("accuracy", state)
    return {**found, "network": keep_network(Folder(trials.networks), state)}


def on_test(trials: Trials, picked: tuple[Item, str]) -> float:
    """Return the accuracy on the test split, in percent, of a network that was trained on the whole set."""
    (item, name), shared = picked, trials.shared
    device = torch.device(shared.device)
    state = read_network(Folder(trials.networks), name).to(device).channels_last()
    return score(_module(shared, item), [state], shared.judges("test"), shared.preprocessing().to(device), device)[0]


def _module(shared: Shared, item: Item) -> nn.Module:
    net = read_net(item.net)
    shape = shared.images.shape
    return build(net, (shape[1], shape[2], shape[3]), len(shared.classes))
