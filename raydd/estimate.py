"""`raydd distill --estimate`: what a run will take, without starting it and without writing anything."""

from __future__ import annotations

from raydd.config import Config, DataFacts
from raydd.data.index import JSON_NAME, load_index
from raydd.data.names import data_name
from raydd.data.pack import survey
from raydd.data.reader import choose_classes
from raydd.data.sources import is_source
from raydd.engine.estimate import Estimate
from raydd.engine.estimate import estimate as estimate_load
from raydd.engine.numerics import keep_heap
from raydd.packing import beside, packed_at
from raydd.store import Folder

_MEMBER_BYTES = 2048  # of a shard beside an image's own


def estimate(config: Config, price: float | None = None) -> Estimate:
    """Return what a run of a config will take; of a SOURCE that is not packed yet only the listing is read.

    Args:
        config: As the user wrote it.
        price: Dollars an hour and worker, for the cost.

    Raises:
        UserError: When there are no such shards and no such SOURCE, or the config does not fit them.
    """
    keep_heap()
    data = config.data
    url = packed_at(data.train, beside(config.store), "train", data.size) if is_source(data.train) else data.train
    missing, shards = [], 0
    if not is_source(data.train) or Folder(url).exists(JSON_NAME):
        index = load_index(Folder(url))
        name, classes, channels, edge = index.name, index.classes, index.channels, index.size
        all_counts = index.counts.tolist()
    else:
        found = survey(data.train, size=data.size)
        name, classes, channels, edge = found.name, found.classes, found.channels, found.edge
        all_counts = list(found.counts)
        images = sum(all_counts)
        shards = images * (channels * edge**2 + _MEMBER_BYTES)
        missing.append(f"{data.train} is packed into {url}, {images:,} images")
    chosen = choose_classes(classes, data.classes)
    name = data_name(name, [classes[label] for label in chosen])
    counts = [_training(all_counts[label], data.val_fraction) for label in chosen]
    facts = DataFacts(name=name, channels=channels, size=edge, num_classes=len(counts), smallest_class=min(counts))
    return estimate_load(config, facts, counts, missing=missing, shards=shards, price=price)


def _training(count: int, val_fraction: float) -> int:
    """Return how many images of a class are left for training."""
    return count if not val_fraction else max(1, count - max(1, round(val_fraction * count)))
