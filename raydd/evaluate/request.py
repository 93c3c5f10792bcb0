"""What is to be scored by what: a request, checked and made into a task that travels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from raydd.config import BASELINES, DataFacts, NetConfig
from raydd.data.index import Index, load_index
from raydd.data.names import data_name
from raydd.distilled import DistilledSet
from raydd.errors import ConfigError, DataError
from raydd.evaluate.grid import Grid, expand
from raydd.evaluate.items import Item, Part, Predictor, Shared, class_counts, groups, real_data
from raydd.evaluate.protocols import PROTOCOLS, Protocol
from raydd.evaluate.steps import FIXED, STEP_SIZES, is_fixed
from raydd.nets import build
from raydd.store import Folder

DRAWN = ("random", "random@bytes")
MEANS = ("kmeans", "average")  # coresets whose images are no real ones
PREDICTORS: tuple[Predictor, ...] = ("train", "krr", "knn")
WHOLE_REPEATS = 2
VAL_FRACTION = 0.1
SHOWN = ("width", "depth", "norm")  # of a network, whether default or not
LABEL_BYTES = 8
FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One set, and what it is to be scored by.

    Attributes:
        ds: The set.
        name: What results call it; None for nothing.
        protocol: Name of a protocol; the set's own where it is None.
        nets: Networks, as configs, plain data or text such as `convnet:width=64`; where None the protocol's, or else the
            one that the set was distilled with.
        grid: Options that are varied in every network, with their values; each network then keeps its own norm, which
            protocols otherwise replace.
        baselines: Names out of `raydd.config.BASELINES`. The whole set is trained on at most twice.
        coresets: The sets of those baselines that are chosen beforehand, by their names.
        predictors: Out of `train`, `krr` and `knn`; the whole set answers by `train` only.
        seed: Root of all draws; None for the evaluation's.
    """

    ds: DistilledSet
    name: str | None = None
    protocol: str | None = None
    nets: Sequence[NetConfig | Mapping[str, Any] | str] | None = None
    grid: Grid = field(default_factory=dict)
    baselines: Sequence[str] = ()
    coresets: Mapping[str, DistilledSet] = field(default_factory=dict)
    predictors: Sequence[str] = ("train",)
    seed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What becomes an accuracy for each predictor: networks that differ in their draws only.

    Attributes:
        of: `distilled`, or a baseline.
        net: None where nothing is trained.
        predictors: See `Item`; a rate that is open is chosen by the first.
        augment: See `Item`.
        lr: The rate that was chosen, or None.
    """

    of: str
    net: NetConfig | None
    predictors: tuple[Predictor, ...] = ("train",)
    augment: bool = True
    lr: float | None = None

    def items(self, repeats: int, size: int, part: Part = "test") -> list[Item]:
        """Return the networks of the cell in groups of `size`."""
        net = {} if self.net is None else self.net.model_dump()
        text = "" if self.net is None else net_text(self.net)
        return [
            Item(
                of=self.of,
                net=net,
                net_text=text,
                repeats=group,
                predictors=self.predictors,
                lr=self.lr,
                augment=self.augment,
                part=part,
            )
            # The whole set fills a device with one network.
            for group in groups(repeats, 1 if self.of == "whole" else size)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A request that was checked against the data.

    Attributes:
        name: See `Request`.
        shared: What travels with every item.
        cells: What is asked for, in the order of results.
        sizes: Images and bytes of what is trained on, by its name.
        seen: Whether the set may have seen the images that choices are made on.
        foreign: Whether the network is the set's own where the protocol's authors train another.
        fixed: Those networks, as text, of which a set that was learned for one initial network has that one: there is
            nothing to repeat.
    """

    name: str | None
    shared: Shared
    cells: tuple[Cell, ...]
    sizes: dict[str, tuple[int, int]]
    seen: bool
    foreign: bool = False
    fixed: frozenset[str] = frozenset()

    @property
    def protocol(self) -> Protocol:
        """The protocol, as it is on the task's data set."""
        return PROTOCOLS[self.shared.protocol].on(self.shared.data)

    def is_open(self, cell: Cell) -> bool:
        """Whether a learning rate is still to be chosen for a cell."""
        return bool(self.protocol.rates) and cell.of != "whole" and cell.net is not None and cell.lr is None

    def repeats(self, cell: Cell, asked: int) -> int:
        """Return how many repeats a cell has where `asked` are asked for."""
        if cell.net is None:
            return asked if cell.of in DRAWN else 1
        if cell.of == "distilled" and net_text(cell.net) in self.fixed:
            return 1
        return min(asked, WHOLE_REPEATS) if cell.of == "whole" else asked


def net_text(net: NetConfig) -> str:
    """Return a network as short text that a config reads back, such as `convnet:width=32,depth=3,norm=none`."""
    extra = net.model_dump(exclude={"name", *SHOWN}, exclude_defaults=True)
    options = {key: getattr(net, key) for key in SHOWN if hasattr(net, key)} | extra
    return ":".join([net.name, ",".join(f"{key}={value}" for key, value in options.items())]).removesuffix(":")


def prepare(request: Request, *, test: str, train: str | None, whole_epochs: int, seed: int, device: str) -> Task:
    """Check a request against the data and make it a task; reads indexes and no image.

    Args:
        request: What is asked for.
        test: URL of packed test shards.
        train: URL of packed training shards, or None.
        whole_epochs: Epochs of the training on the whole set.
        seed: Root of all draws, unless the request has its own.
        device: Where networks are trained.

    Raises:
        ConfigError: For an unknown protocol, network, baseline or predictor, for a network that is impossible for such
            images, for training shards that are needed and were not given, or for a protocol that needs what the set does
            not have.
        DataError: When the shards lack classes of the set or hold images of another shape.
    """
    ds = request.ds
    name = ds.recipe.protocol if request.protocol is None else request.protocol
    _check(request, name, train)
    shape = (ds.images.shape[1], ds.images.shape[2], ds.images.shape[3])
    index = load_index(Folder(test))
    check_index(index, test, "test", ds.classes, shape)
    facts = _facts(ds, index)
    counts: list[int] = []
    own = False
    if train is not None and (request.baselines or PROTOCOLS[name].rates):
        known = load_index(Folder(train))
        check_index(known, train, "training", ds.classes, shape)
        own = own_val_fraction(ds) > 0 and known.hash == ds.recipe.index_hash
        real = real_data(train, ds.classes, val_fraction(ds, name), split_seed(ds))
        counts = [int(count) for count in real.counts]
    shared = Shared(
        protocol=name,
        data=facts.name,
        handwritten=facts.handwritten,
        train=train,
        test=test,
        val_fraction=val_fraction(ds, name),
        split_seed=split_seed(ds),
        whole_epochs=whole_epochs,
        seed=seed if request.seed is None else request.seed,
        device=device,
        draws={of: draws(ds, of, counts) for of in DRAWN if of in request.baselines},
        others={of: _alike(ds, core) for of, core in request.coresets.items()},
        **_numbers(ds, PROTOCOLS[name]),
    )
    cells = _cells(request, PROTOCOLS[name], facts)
    nets = {net_text(cell.net): cell.net for cell in cells if cell.net is not None}
    modules = {text: build(net, shape, len(ds.classes)) for text, net in nets.items()}
    sizes = {cell.of: _size(request, shared, counts, cell.of) for cell in cells}
    # Only of its own training split did the set's run keep a part.
    seen = bool(PROTOCOLS[name].rates) and not own
    usual = PROTOCOLS[name].usual_net
    asked = request.nets is not None or ds.recipe.protocol == name
    foreign = not asked and usual is not None and any(net.name != usual for net in nets.values())
    fixed = frozenset(text for text, module in modules.items() if is_fixed(module, shared.learned))
    return Task(name=request.name, shared=shared, cells=cells, sizes=sizes, seen=seen, foreign=foreign, fixed=fixed)


def _numbers(ds: DistilledSet, protocol: Protocol) -> dict[str, Any]:
    """Return the parts of `Shared` that hold a set's own numbers."""
    learned = ds.extras.items() if protocol.learned_steps else ()
    return {
        "images": ds.images.numpy(),
        "labels": ds.labels.numpy(),
        "classes": ds.classes,
        "transform": ds.preprocessing.to_json(),
        "transform_tensors": {key: value.numpy() for key, value in ds.preprocessing.to_tensors().items()},
        "learned": {key: value.numpy() for key, value in learned if key == STEP_SIZES or key.startswith(FIXED)},
    }


def own_val_fraction(ds: DistilledSet) -> float:
    """Return the share of the training split that the run which made a set kept for selection."""
    # Sets that were not made by a run of raydd have no split of their own.
    return float(ds.recipe.config.get("data", {}).get("val_fraction", 0.0))


def val_fraction(ds: DistilledSet, protocol: str) -> float:
    """Return the share of the training split that choices are made on and that no baseline sees.

    A tenth where a protocol must choose and the set's run kept nothing: the set may have seen it then.
    """
    own = own_val_fraction(ds)
    return VAL_FRACTION if own == 0 and PROTOCOLS[protocol].rates else own


def split_seed(ds: DistilledSet) -> int:
    """Return what that part of the training split is keyed by."""
    return int(ds.recipe.config.get("seed", 0))


def per_class(ds: DistilledSet) -> tuple[int, ...]:
    """Return how many real images of each class a set is fairly compared with: its own, but an addressed memory's budget."""
    counts = class_counts(ds.labels.numpy(), len(ds.classes))
    ipc = ds.recipe.config.get("method", {}).get("ipc") if ds.is_memory else None
    return tuple(counts) if ipc is None else (int(ipc),) * len(counts)


def draws(ds: DistilledSet, of: str, counts: Sequence[int]) -> tuple[int, ...]:
    """Return how many real images of each class a baseline draws, no more than there are (`counts`)."""
    wanted = per_class(ds)
    if of == "random@bytes":
        each = real_bytes(ds.images.shape[1:])
        whole, rest = divmod(ds.storage_bytes // each, len(ds.classes))
        wanted = tuple(whole + (c < rest) for c in range(len(ds.classes)))
        if whole == 0:
            raise ConfigError(
                f"random@bytes takes at least a real image a class, which is {each * len(ds.classes)} bytes, got "
                f"a set of {ds.storage_bytes}; leave it out"
            )
    return tuple(min(pair) for pair in zip(wanted, counts, strict=True))


def real_bytes(shape: Sequence[int]) -> int:
    """Return the bytes of a real image, at a byte a pixel, with its label."""
    return math.prod(shape) + LABEL_BYTES


def float_bytes(shape: Sequence[int]) -> int:
    """Return the bytes of a float32 image with its label: what a stored image per class is counted in."""
    return FLOAT_BYTES * math.prod(shape) + LABEL_BYTES


def _alike(ds: DistilledSet, core: DistilledSet) -> tuple[np.ndarray, np.ndarray]:
    """Return a coreset's images, normalised as those of the set that it is compared with, and its labels."""
    return ds.preprocessing(core.preprocessing.inverse(core.images)).numpy(), core.labels.numpy()


def _size(request: Request, shared: Shared, counts: Sequence[int], of: str) -> tuple[int, int]:
    """Return the number of images and the bytes of what networks are trained on."""
    ds = request.ds
    if of == "distilled":
        return len(ds), ds.storage_bytes
    if of in MEANS:
        return len(request.coresets[of]), request.coresets[of].storage_bytes
    images = len(request.coresets[of]) if of in request.coresets else sum(shared.draws.get(of, counts))
    return images, images * real_bytes(ds.images.shape[1:])


def _cells(request: Request, protocol: Protocol, facts: DataFacts) -> tuple[Cell, ...]:
    """Return what is asked for, network by network; nearest neighbours, which need none, come last."""
    sets = ["distilled", *(of for of in BASELINES if of in request.baselines)]
    trained: tuple[Predictor, ...] = tuple(
        predictor for predictor in PREDICTORS if predictor in request.predictors and predictor != "knn"
    )
    # A kernel of the whole set would not fit, nor its pixels.
    whole: tuple[Predictor, ...] = tuple(predictor for predictor in trained if predictor == "train")
    cells = [
        Cell(of=of, net=net, predictors=whole if of == "whole" else trained, augment=augment)
        for net in _nets(request, protocol, facts)
        for of in sets
        if (whole if of == "whole" else trained)
        for augment in ((True, False) if protocol.both else (True,))
    ]
    if "knn" in request.predictors:
        cells += [Cell(of=of, net=None, predictors=("knn",)) for of in sets if of != "whole"]
    return tuple(cells)


def _nets(request: Request, protocol: Protocol, facts: DataFacts) -> list[NetConfig]:
    """Return the networks that are trained, each once: with the protocol's norms two that are asked for may be the same."""
    asked: Sequence[Any] = request.nets or [protocol.net_name or request.ds.recipe.config.get("net")]
    try:
        nets = [TypeAdapter(NetConfig).validate_python(net) for net in asked]
        if request.grid:
            nets = [varied for net in nets for varied in expand(net, request.grid)]
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(["net", *(str(part) for part in first["loc"])])
        message = str(first["msg"]).removeprefix("Value error, ")
        raise ConfigError(f"{where}: {message}, got {first.get('input')!r}") from None
    nets = [(net if request.grid else protocol.net(net)).resolved(facts) for net in nets]
    return list({net_text(net): net for net in nets}.values())


def check_protocol(ds: DistilledSet, protocol: str) -> None:
    """Check that there is such a protocol, and that it may be applied to a set.

    Raises:
        ConfigError: When not.
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(
            f"the protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r} (see `raydd protocols`)"
        )
    # What is a baseline elsewhere is trained on as one.
    stepless = STEP_SIZES not in ds.extras and ds.recipe.method not in BASELINES
    if PROTOCOLS[protocol].learned_steps and stepless:
        raise ConfigError(
            f"the protocol {protocol} applies step sizes that were learned with the set, got a set of method "
            f"{ds.recipe.method} without any; choose another of {', '.join(PROTOCOLS)}"
        )


def _check(request: Request, protocol: str, train: str | None) -> None:
    check_protocol(request.ds, protocol)
    _check_names("baselines", request.baselines, BASELINES)
    _check_names("predictors", request.predictors, PREDICTORS)
    if not request.predictors:
        raise ConfigError(f"predictors must be some of {', '.join(PREDICTORS)}, got none")
    if request.baselines and train is None:
        named = ", ".join(request.baselines)
        raise ConfigError(f"baselines ({named}) need the training shards, got none; give their URL")
    lacking = [of for of in request.baselines if of not in (*DRAWN, *request.coresets, "whole")]
    if lacking:
        raise ConfigError(f"the baseline {lacking[0]} is a set of its own, got none; give it in `coresets`")
    if PROTOCOLS[protocol].rates and train is None:
        raise ConfigError(
            f"the protocol {protocol} chooses learning rates on the training split, got no training shards; give their URL"
        )


def _check_names(what: str, asked: Sequence[str], known: Sequence[str]) -> None:
    unknown = next((name for name in asked if name not in known), None)
    if unknown is not None:
        raise ConfigError(f"{what} must be out of {', '.join(known)}, got {unknown!r}")


def check_index(index: Index, url: str, what: str, classes: Sequence[str], shape: tuple[int, int, int]) -> None:
    """Check that packed shards fit a set.

    Args:
        index: Theirs.
        url: Theirs, for the message.
        what: `test` or `training`, likewise.
        classes: The set's.
        shape: Channels, height and width of its images.

    Raises:
        DataError: When they lack a class, or their images have another shape.
    """
    missing = [name for name in classes if name not in index.classes]
    if missing:
        named = ", ".join(map(repr, missing[:3])) + (", ..." if len(missing) > 3 else "")
        raise DataError(
            f"expected {what} images of the set's {len(classes)} classes in {url}, "
            f"got none of {len(missing)} ({named}); pack a split of the same data set"
        )
    got = (index.channels, index.size, index.size)
    if shape != got:
        expected, found = ("x".join(map(str, dims)) for dims in (shape, got))
        raise DataError(
            f"expected {what} images of {expected} (channels x height x width) as in the set, got {found} in {url}; "
            f"pack it with --size {shape[-1]} from the same kind of images"
        )


def check_apart(train: str, test: str, where: str) -> None:
    """Check, given the hashes of two indexes, that baselines and choices are not made of test images.

    Raises:
        ConfigError: When both are the same.
    """
    if train == test:
        raise ConfigError(
            f"training and test shards must be two splits, got the same images in {where}; pack another split of the data set"
        )


def _facts(ds: DistilledSet, index: Index) -> DataFacts:
    counts = [int(index.counts[index.classes.index(name)]) for name in ds.classes]
    return DataFacts(
        name=data_name(index.name, ds.classes),
        channels=index.channels,
        size=index.size,
        num_classes=len(ds.classes),
        smallest_class=min(counts),
    )
