"""Privacy: does a network that was trained on distilled images tell which real images these were made from?

Zhou, Nezhadarya & Ba, "Dataset Distillation using Neural Feature Regression", NeurIPS 2022, Section 5. The training split is cut
into chunks, whose images are the members; as many test images of each class are the non-members. Networks are trained on the
whole chunk, on a random part of it (as many images as the distilled set, or as many bytes) and on the distilled set of the
chunk, and attacked by what they say of members and non-members (`raydd/apps/attackers.py`). One training is attacked several
times on its way.

Differs from the paper: every network of a chunk is attacked, where the authors' code attacks the last one of five. The distilled
arm is trained on the images that were learned; their script takes those that learning starts from. All networks of one row are
trained in shuffled batches at a rate that stays as it is, so that one training can be looked at on its way. Of random real
images the losses on those images themselves are shown beside what the whole chunk gives away, since a network that has seen a
tenth of the members can betray a tenth of them at most.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from raydd.apps.attackers import ATTACKERS, attack
from raydd.apps.bench import Bench
from raydd.apps.memory import remembered
from raydd.apps.titles import sized
from raydd.config import read_net
from raydd.config.apps import PrivacySection
from raydd.data.index import load_index
from raydd.data.plan import class_batch
from raydd.data.transforms import Transform
from raydd.distilled import DistilledSet
from raydd.errors import ConfigError
from raydd.evaluate.items import SCORE_BATCH, Item, Shared, images_of
from raydd.evaluate.protocols import Protocol
from raydd.evaluate.request import prepare
from raydd.evaluate.resume import digest, plain
from raydd.functional.losses import centred_labels
from raydd.functional.train import train
from raydd.nets import NetState, apply, build, initialise
from raydd.report.findings import Figure, Findings, Grid, Line, Sheet, pair
from raydd.seeding import derive, generator
from raydd.store import Folder

REAL = {"whole": "whole chunk", "random": "random, as many images", "random@bytes": "random, as many bytes"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What the networks of one chunk and filler have in common; plain data.

    Attributes:
        shared: Set, data and protocol, as an evaluation has them; its training shards are the chunk.
        updates: When a network is attacked, ascending.
        batch: Images a step.
        members: Members that are attacked, of each class; as many test images are the non-members.
    """

    shared: Shared
    updates: tuple[int, ...]
    batch: int
    members: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Arm:
    """Networks of one row of the tables: what they are trained on, how many images, and what was found.

    Attributes:
        name: Of the row.
        images: Of the first chunk's training.
        found: What `attacked` returned for each chunk and network.
    """

    name: str
    images: int
    found: tuple[list[dict[str, Any]], ...]

    def numbers(self, key: str, place: int) -> tuple[float, float] | None:
        """Return mean and deviation over chunks and networks of a number at the place-th look; None where there is none."""
        each = [looks[place][key] for looks in self.found if looks[place][key] is not None]
        return pair(each) if each else None


def run(bench: Bench) -> Findings:
    """Return how well networks are attacked, by what they were trained on."""
    app = bench.config.app
    assert isinstance(app, PrivacySection)
    chunks = [_chunk(bench, app, k) for k in range(app.chunks)]
    sets: dict[int, list[DistilledSet]] = {}
    found: dict[str, list[list[dict[str, Any]]]] = {}
    images: dict[str, int] = {}
    seen: set[str] = set()
    for i, (method, title) in enumerate(zip(bench.config.methods, sized(bench.config.methods), strict=True)):
        sets[i] = [
            remembered(bench.distil(method, f"{i}-{method.name}-chunk{k}", train=url), "float32")
            for k, url in enumerate(chunks)
        ]
        for k, (url, ds) in enumerate(zip(chunks, sets[i], strict=True)):
            for name, count, looks in _attack(bench, app, url, k, ds, title, seen):
                found.setdefault(name, []).extend(looks)
                images.setdefault(name, count)
    arms = [Arm(name, images[name], tuple(looks)) for name, looks in found.items()]
    return _findings(bench, app, arms, {i: ds[0] for i, ds in sets.items()}, _told(chunks))


def _chunk(bench: Bench, app: PrivacySection, k: int) -> str:
    """Pack the k-th chunk and return its URL.

    Raises:
        ConfigError: When the training split is too small for the chunks.
    """
    index = load_index(Folder(bench.train))
    total = int(sum(index.counts[index.classes.index(name)] for name in bench.classes))
    parts = total // app.members
    if parts < app.chunks:
        raise ConfigError(
            f"app.chunks times app.members must be <= the training images ({total}), got {app.chunks} times {app.members}"
        )
    view = {"of": bench.train, "classes": list(bench.classes), "part": [k, parts], "seed": bench.config.seed}
    return bench.pack(f"view:{json.dumps(view)}", f"chunk{k}")


def _attack(
    bench: Bench, app: PrivacySection, url: str, k: int, ds: DistilledSet, title: str, seen: set[str]
) -> list[tuple[str, int, list[list[dict[str, Any]]]]]:
    """Return name, images and what was found for each arm of a chunk, but for whole chunks that were `seen`."""
    wanted = bench.config.evaluate
    request = bench.request(ds, baselines=wanted.baselines)
    seed = derive(bench.config.seed, "privacy", k)
    task = prepare(request, test=bench.test, train=url, whole_epochs=1, seed=seed, device=bench.device)
    counts = _members(task.shared)
    target = Target(shared=task.shared, updates=tuple(app.updates), batch=app.batch, members=counts)
    several = len({cell.net for cell in task.cells}) > 1
    first, alone = title == sized(bench.config.methods)[0], len(bench.config.methods) == 1
    beside = {of: "" if alone or (of == "whole" and first) else f", beside {title}" for of in REAL}
    found = []
    for cell in task.cells:
        if cell.augment != app.augment and task.protocol.both:
            continue
        items = [replace(item, augment=app.augment) for item in cell.items(wanted.repeats, 1)]
        shared = target if cell.of == "distilled" else replace(target, shared=_without_set(task.shared, cell.of))
        if cell.of == "whole":
            # Of several methods most train on it alike; it counts once.
            mark = digest(plain([shared, items]))
            if mark in seen:
                continue
            seen.add(mark)
        name = title if cell.of == "distilled" else REAL[cell.of] + beside[cell.of]
        name += f", {items[0].net_text}" if several else ""
        found.append((name, task.sizes[cell.of][0], bench.map(attacked, items, shared)))
    return found


def _without_set(shared: Shared, of: str) -> Shared:
    """Return the same without the distilled images and other draws: what real images give does not depend on them."""
    draws = {name: counts for name, counts in shared.draws.items() if name == of}
    none = np.zeros(0, dtype=np.int64)
    return replace(shared, images=shared.images[:0], labels=none, learned={}, others={}, draws=draws)


def _members(shared: Shared) -> tuple[int, ...]:
    """Return how many members of each class are attacked: all, but no more than there are test images."""
    pairs = zip(shared.real().counts, shared.judges("test").counts, strict=True)
    return tuple(min(pair) for pair in pairs)


def attacked(target: Target, item: Item) -> list[dict[str, Any]]:
    """Train a network and attack it at every look.

    Returns:
        For each look the area under the curve of every attacker, `own` (that of the loss on the real images that it was
        trained on, against all test images; None for distilled ones) and `accuracy` on all test images, in percent.
    """
    shared, device = target.shared, torch.device(target.shared.device)
    protocol, preprocessing = shared.protocol_of(item), shared.preprocessing().to(device)
    module = build(read_net(item.net), shared.images.shape[1:], len(shared.classes))
    seed = item.seed(shared, item.repeats[0])
    x, labels = _trained_on(shared, item, seed, preprocessing, device)
    y = protocol.targets(labels, len(shared.classes)).to(device)
    state = initialise(module, generator(seed, "net"), device, law=protocol.init).channels_last()
    own = None if item.of == "distilled" else (x, labels)
    looks: list[dict[str, Any]] = []

    def look(updates: int, state: NetState) -> None:
        if updates in target.updates:
            says = _Says(module, state, protocol, preprocessing, device)
            looks.append(_look(target, says, own, derive(seed, "attack", updates)))

    recipe = protocol.steady(len(x), target.updates[-1], target.batch)
    augment = protocol.augment(handwritten=shared.handwritten)
    train(module, state, x, y, recipe, seed=seed, augment=augment, look=look)
    return looks


def _trained_on(
    shared: Shared, item: Item, seed: int, preprocessing: Transform, device: torch.device
) -> tuple[Tensor, Tensor]:
    if item.of != "whole":
        return images_of(shared, item, seed, preprocessing, device)
    real = shared.real()
    return preprocessing(real.images(torch.arange(len(real))).to(device)), real.labels


@dataclass(frozen=True, slots=True)
class _Says:
    """What a network says of images."""

    module: nn.Module
    state: NetState
    protocol: Protocol
    preprocessing: Transform
    device: torch.device

    @torch.no_grad()
    def __call__(self, x: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return logits, losses and labels of images, uint8 or normalised."""
        parts = [self.preprocessing(p.to(self.device)) if p.dtype == torch.uint8 else p for p in x.split(SCORE_BATCH)]
        logits = torch.cat([apply(self.module, self.state.params, self.state.buffers, part) for part in parts]).cpu()
        return logits.numpy(), losses(self.protocol, logits, labels).numpy(), labels.numpy()


def losses(protocol: Protocol, logits: Tensor, labels: Tensor) -> Tensor:
    """Return each image's loss for its hard label, `(n,)`: the cross entropy, or FRePo's squared error, as in training."""
    if protocol.training.loss == "mse":
        return 0.5 * (logits - centred_labels(labels, logits.shape[1])).square().sum(1)
    return nn.functional.cross_entropy(logits, labels, reduction="none")


def _look(target: Target, says: _Says, own: tuple[Tensor, Tensor] | None, seed: int) -> dict[str, Any]:
    real, test = target.shared.real(), target.shared.judges("test")
    everything = says(test.images(torch.arange(len(test))), test.labels)
    # The same images at every look and for every network of a chunk.
    chosen = _ids(test.by_class, target, "non-members").numpy()
    others = tuple(part[chosen] for part in everything)
    ids = _ids(real.by_class, target, "members")
    found: dict[str, Any] = {**attack(says(real.images(ids), real.labels[ids]), others, seed)}  # type: ignore[arg-type]
    found["own"] = None if own is None else _by_loss(says(*own)[1], everything[1])
    found["accuracy"] = 100.0 * float((everything[0].argmax(1) == everything[2]).mean())
    return found


def _by_loss(members: np.ndarray, others: np.ndarray) -> float:
    return float(roc_auc_score(np.repeat([1, 0], [len(members), len(others)]), -np.concatenate([members, others])))


def _ids(by_class: Sequence[Tensor], target: Target, purpose: str) -> Tensor:
    """Draw as many images of each class as are attacked."""
    seed = target.shared.seed
    return torch.cat(
        [class_batch(ids, target.members[c], generator(seed, purpose, c)) for c, ids in enumerate(by_class)]
    )


def _told(chunks: Sequence[str]) -> str:
    """Return how many chunks there are and of how many images, in words."""
    counts = [int(load_index(Folder(url)).counts.sum()) for url in chunks]
    least, most = min(counts), max(counts)
    size = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    return f"{len(chunks)} chunk{'s' if len(chunks) > 1 else ''} of {size} images"


def _findings(
    bench: Bench, app: PrivacySection, arms: Sequence[Arm], sets: dict[int, DistilledSet], members: str
) -> Findings:
    last, looks = len(app.updates) - 1, range(len(app.updates))
    rows = [
        (arm.name, arm.images, *(arm.numbers(key, last) for key in ATTACKERS), arm.numbers("own", last)) for arm in arms
    ]
    accuracy = [(arm.name, *(arm.numbers("accuracy", place) for place in looks)) for arm in arms]
    networks = (
        f"{bench.config.evaluate.repeats} network{'s' if bench.config.evaluate.repeats > 1 else ''} a row and chunk"
    )
    return Findings(
        title=f"{bench.config.name}: membership inference",
        lead=f"{members}, {networks}. Five attackers tell the chunk's images from test images by what a network says of them.",
        grids=(
            Grid(
                title=f"Attackers after {app.updates[-1]:,} updates",
                columns=("Trained on", "images", *ATTACKERS, "loss on its own images"),
                rows=tuple(rows),
                digits=3,
                note="Area under the curve: 0.5 is chance, 1 tells all. Mean and deviation over chunks and networks. "
                "The last column: the loss on those real images that the network was trained on, against all test images.",
            ),
            Grid(
                title="Accuracy",
                columns=("Trained on", *(f"{updates:,} updates" for updates in app.updates)),
                rows=tuple(accuracy),
                note="Percent of all test images.",
            ),
        ),
        figures=_figures(app, arms),
        sheets=(_sheet(bench, sets),),
        notes=tuple(part.replace("\n", " ").strip() for part in (__doc__ or "").split("\n\n")[1:]),
        values={"updates": app.updates, "arms": {arm.name: _values(arm, looks) for arm in arms}},
    )


def _figures(app: PrivacySection, arms: Sequence[Arm]) -> tuple[Figure, ...]:
    def figure(key: str, title: str, ylabel: str) -> Figure:
        lines = []
        for arm in arms:
            points = [arm.numbers(key, place) or (0.0, 0.0) for place in range(len(app.updates))]
            y, spread = (tuple(column) for column in zip(*points, strict=True))
            lines.append(Line(name=arm.name, x=tuple(app.updates), y=y, spread=spread))
        return Figure(title=title, lines=tuple(lines), xlabel="updates", ylabel=ylabel)

    attackers = [figure(key, f"Attacked by {key}", "area under the curve") for key in ATTACKERS]
    return (*attackers, figure("accuracy", "Accuracy over updates", "accuracy, %"))


def _values(arm: Arm, looks: range) -> dict[str, Any]:
    """Return pairs of mean and deviation at every look."""
    return {key: [arm.numbers(key, place) for place in looks] for key in (*ATTACKERS, "own", "accuracy")}


def _sheet(bench: Bench, sets: dict[int, DistilledSet]) -> Sheet:
    titles = sized(bench.config.methods)
    rows = tuple((f"{titles[i]}, chunk 0", ds.pixels().numpy()) for i, ds in sets.items())
    return Sheet(title="The distilled images", rows=rows, note="What the networks of the distilled arm are trained on.")
