"""What networks trained on a distilled set score, beside random real images and the whole set."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeVar

from pydantic import TypeAdapter, ValidationError

from raydd.config import DataFacts, NetConfig
from raydd.data.index import Index, load_index
from raydd.distilled import DistilledSet
from raydd.errors import ConfigError, DataError
from raydd.evaluate.items import Item, Shared, accuracy, class_counts, real_data
from raydd.evaluate.protocols import PROTOCOLS
from raydd.evaluate.steps import FIXED, STEP_SIZES
from raydd.store import Folder

BASELINES = ("random", "whole")
WHOLE_REPEATS = 2
SHOWN = ("width", "depth", "norm")  # of a network, whether default or not

S = TypeVar("S")
I = TypeVar("I")  # noqa: E741
R = TypeVar("R")
Progress = Callable[[int, int], None]


class MapFunction(Protocol):
    """Applies a function to items, wherever and in whatever order, and returns the results in the order of the items.

    `function` is a module-level function, `shared` and the items are picklable plain data with numpy arrays.
    `on_result` is called in the calling process with (done, total) whenever an item is done.
    """

    def __call__(
        self, function: Callable[[S, I], R], items: Sequence[I], shared: S, on_result: Progress | None = None
    ) -> list[R]:
        """Return `[function(shared, item) for item in items]`."""
        ...


def sequential(
    function: Callable[[S, I], R], items: Sequence[I], shared: S, on_result: Progress | None = None
) -> list[R]:
    """Apply a function to items one after the other in this process; see `MapFunction`."""
    results = []
    for item in items:
        results.append(function(shared, item))
        if on_result is not None:
            on_result(len(results), len(items))
    return results


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """What networks of one kind score after training on one kind of set.

    Attributes:
        of: `distilled`, `random` (real images at the same count per class, a new draw each repeat; beside an addressed
            memory as many as it takes the storage of) or `whole`.
        protocol: Name of the protocol.
        net: The network that was trained, as text that a config reads back.
        mean: Percent, over repeats.
        std: Sample deviation in percent; 0 for a single repeat.
        repeats: Networks trained.
        each: Percent of each repeat.
        images: Images trained on.
        storage_bytes: Bytes of those images and their labels: all that was learned for a distilled set, uint8 pixels
            and int64 labels for real images.
    """

    of: str
    protocol: str
    net: str
    mean: float
    std: float
    repeats: int
    each: list[float]
    images: int
    storage_bytes: int

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Any) -> Accuracy:
        """Read it back.

        Raises:
            DataError: When it is something else.
        """
        try:
            return TypeAdapter(cls).validate_python(raw)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the record"
            raise DataError(f"expected an accuracy, got {where}: {first['msg']}; evaluate again") from None


def net_text(net: NetConfig) -> str:
    """Return a network as short text that a config reads back, such as `convnet:width=32,depth=3,norm=none`."""
    extra = net.model_dump(exclude={"name", *SHOWN}, exclude_defaults=True)
    options = {key: getattr(net, key) for key in SHOWN if hasattr(net, key)} | extra
    return ":".join([net.name, ",".join(f"{key}={value}" for key, value in options.items())]).removesuffix(":")


def evaluate(
    ds: DistilledSet,
    *,
    test: str,
    train: str | None = None,
    protocol: str | None = None,
    nets: Sequence[NetConfig | str] | None = None,
    repeats: int = 5,
    baselines: Sequence[str] = (),
    whole_epochs: int = 20,
    seed: int = 0,
    map: MapFunction = sequential,
    on_result: Progress | None = None,
) -> list[Accuracy]:
    """Train networks from scratch on a distilled set and score them on the test set.

    Every network is named by (seed, what it is trained on, protocol, network, repeat), and so are its initial weights,
    the order of its batches and their augmentation: the numbers are the same however `map` spreads them. The test
    images are read for scoring only; nothing is chosen by them.

    Args:
        ds: The set.
        test: URL of packed test shards; their classes are matched to the set's by name.
        train: URL of packed training shards, for baselines.
        protocol: Name of a protocol; the set's own where it is None.
        nets: Networks, as configs or text such as `convnet:width=64`; the one that the set was distilled with where
            None.
        repeats: Networks trained for each result; 0 for no evaluation.
        baselines: Out of `random` and `whole`. The whole set is trained on at most twice.
        whole_epochs: Epochs of that.
        seed: Root of all draws.
        map: Spreads the trainings; in this process and one by one by default.
        on_result: Told (done, total) after each training.

    Returns:
        For each network the distilled set's accuracy, then each baseline's.

    Raises:
        ConfigError: For an unknown protocol, network or baseline, a baseline without training shards, or a protocol that
            needs what the set does not have.
        DataError: When the shards lack classes of the set or hold images of another shape.
    """
    protocol = ds.recipe.protocol if protocol is None else protocol
    _check_request(ds, protocol, baselines, train)
    if repeats < 1:
        return []
    index = load_index(Folder(test))
    _check_index(ds, index, test, "test")
    if baselines and train is not None:
        _check_index(ds, load_index(Folder(train)), train, "training")
    facts = _facts(ds, index)
    shared = _shared(ds, protocol, train, test, whole_epochs, seed, facts)
    scored = [PROTOCOLS[protocol].net(net).resolved(facts) for net in _nets(ds, nets)]
    # The longest trainings come first, so that none is left running alone at the end.
    sets = [of for of in ("whole", "random") if of in baselines]
    items = [
        Item(of=of, net=net.model_dump(), net_text=net_text(net), repeat=repeat)
        for of in [*sets, "distilled"]
        for net in scored
        for repeat in range(min(repeats, WHOLE_REPEATS) if of == "whole" else repeats)
    ]
    try:
        done = map(accuracy, items, shared, on_result)
        sizes = {of: _size(ds, shared, of) for of in [*sets, "distilled"]}
    finally:
        # What this process read for it is not kept beyond it.
        real_data.cache_clear()
    each: dict[tuple[str, str], list[float]] = {}
    for item, percent in zip(items, done, strict=True):
        each.setdefault((item.net_text, item.of), []).append(percent)
    order = [(net_text(net), of) for net in scored for of in ("distilled", *BASELINES)]
    return [_accuracy(of, protocol, net, each[net, of], sizes[of]) for net, of in order if (net, of) in each]


def _check_request(ds: DistilledSet, protocol: str, baselines: Sequence[str], train: str | None) -> None:
    if protocol not in PROTOCOLS:
        raise ConfigError(
            f"the protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r} (see `raydd protocols`)"
        )
    if PROTOCOLS[protocol].learned_steps and STEP_SIZES not in ds.extras:
        raise ConfigError(
            f"the protocol {protocol} applies step sizes that were learned with the set, got a set of method "
            f"{ds.recipe.method} without any; choose another of {', '.join(PROTOCOLS)}"
        )
    unknown = next((of for of in baselines if of not in BASELINES), None)
    if unknown is not None:
        raise ConfigError(f"baselines must be out of {', '.join(BASELINES)}, got {unknown!r}")
    if baselines and train is None:
        raise ConfigError(f"baselines ({', '.join(baselines)}) need the training shards, got none; give their URL")


def _check_index(ds: DistilledSet, index: Index, url: str, what: str) -> None:
    missing = [name for name in ds.classes if name not in index.classes]
    if missing:
        named = ", ".join(map(repr, missing[:3])) + (", ..." if len(missing) > 3 else "")
        raise DataError(
            f"expected {what} images of the set's {len(ds.classes)} classes in {url}, "
            f"got none of {len(missing)} ({named}); pack a split of the same data set"
        )
    shape, got = tuple(ds.images.shape[1:]), (index.channels, index.size, index.size)
    if shape != got:
        expected, found = ("x".join(map(str, dims)) for dims in (shape, got))
        raise DataError(
            f"expected {what} images of {expected} (channels x height x width) as in the set, got {found} in {url}; "
            f"pack it with --size {shape[-1]} from the same kind of images"
        )


def _facts(ds: DistilledSet, index: Index) -> DataFacts:
    counts = [int(index.counts[index.classes.index(name)]) for name in ds.classes]
    return DataFacts(
        name=index.name,
        channels=index.channels,
        size=index.size,
        num_classes=len(ds.classes),
        smallest_class=min(counts),
    )


def _nets(ds: DistilledSet, nets: Sequence[NetConfig | str] | None) -> list[NetConfig]:
    asked = [ds.recipe.config.get("net")] if nets is None else nets
    try:
        return [TypeAdapter(NetConfig).validate_python(net) for net in asked]
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(["net", *(str(part) for part in first["loc"])])
        message = str(first["msg"]).removeprefix("Value error, ")
        raise ConfigError(f"{where}: {message}, got {first.get('input')!r}") from None


def _shared(
    ds: DistilledSet, protocol: str, train: str | None, test: str, whole_epochs: int, seed: int, facts: DataFacts
) -> Shared:
    # Sets that were not made by a run of raydd have no split of their own.
    data = ds.recipe.config.get("data", {})
    return Shared(
        seed=seed,
        protocol=protocol,
        images=ds.images.numpy(),
        labels=ds.labels.numpy(),
        classes=ds.classes,
        transform=ds.preprocessing.to_json(),
        transform_tensors={key: value.numpy() for key, value in ds.preprocessing.to_tensors().items()},
        data=facts.name,
        handwritten=facts.handwritten,
        train=train,
        test=test,
        val_fraction=float(data.get("val_fraction", 0.0)),
        split_seed=int(ds.recipe.config.get("seed", 0)),
        whole_epochs=whole_epochs,
        random_counts=_random_counts(ds),
        learned={
            name: value.numpy()
            for name, value in ds.extras.items()
            if PROTOCOLS[protocol].learned_steps and (name == STEP_SIZES or name.startswith(FIXED))
        },
    )


def _random_counts(ds: DistilledSet) -> tuple[int, ...]:
    """Return how many real images of each class a set is fairly compared with: its own, but an addressed memory's budget."""
    counts = class_counts(ds.labels.numpy(), len(ds.classes))
    ipc = ds.recipe.config.get("method", {}).get("ipc") if ds.is_memory else None
    return tuple(counts) if ipc is None else (int(ipc),) * len(counts)


def _size(ds: DistilledSet, shared: Shared, of: str) -> tuple[int, int]:
    """Return the number of images and the bytes of what networks were trained on."""
    if of == "distilled":
        return len(ds), ds.storage_bytes
    counts = [int(count) for count in shared.real().counts]
    if of == "random":
        counts = [min(pair) for pair in zip(counts, shared.random_counts, strict=True)]
    return sum(counts), sum(counts) * (ds.images[0].numel() + 8)


def _accuracy(of: str, protocol: str, net: str, each: list[float], size: tuple[int, int]) -> Accuracy:
    return Accuracy(
        of=of,
        protocol=protocol,
        net=net,
        mean=statistics.fmean(each),
        std=statistics.stdev(each) if len(each) > 1 else 0.0,
        repeats=len(each),
        each=each,
        images=size[0],
        storage_bytes=size[1],
    )
