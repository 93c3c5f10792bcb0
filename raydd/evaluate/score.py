"""What networks trained on distilled sets score, beside real images chosen in other ways and the whole set."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import torch

from raydd.data.index import load_index
from raydd.evaluate.items import Placed, Predictor, placed_accuracies, real_data
from raydd.evaluate.mapping import MapFunction, Progress, sequential
from raydd.evaluate.protocols import PROTOCOLS, Protocol
from raydd.evaluate.request import Cell, Request, Task, check_apart, float_bytes, net_text, prepare
from raydd.evaluate.results import Accuracy, deviation
from raydd.store import Folder

CHOICE_REPEATS = 2
CUDA_GROUP = 20

Key = TypeVar("Key")


def evaluate_all(
    requests: Sequence[Request],
    *,
    test: str,
    train: str | None = None,
    repeats: int = 5,
    whole_epochs: int = 20,
    seed: int = 0,
    device: str | None = None,
    group: int | None = None,
    map: MapFunction = sequential,
    on_result: Progress | None = None,
) -> list[Accuracy]:
    """Train networks from scratch on several sets and score them on one test set.

    Every network is named by (seed, what it is trained on, protocol, network, repeat), and so are its initial weights,
    the order of its batches and their augmentation: the numbers are the same however `map` spreads them. The test
    images are read for scoring only, after whatever a protocol leaves open was chosen for all requests.

    Args:
        requests: The sets, and what each is to be scored by.
        test: URL of packed test shards; their classes are matched to a set's by name.
        train: URL of packed training shards, for baselines and choices.
        repeats: Networks trained for each result; 0 for no evaluation.
        whole_epochs: Epochs of the training on the whole set.
        seed: Root of all draws, but of requests that have their own.
        device: Where networks are trained, as torch names it; by default the GPU where this process sees one.
        group: How many repeats are trained together, which is part of the numerics; by default 1 on the CPU, 20 on a GPU.
        map: Spreads the groups; in this process and one by one by default.
        on_result: Told (done, total) after each group.

    Returns:
        Request by request and network by network the distilled set's accuracies, then each baseline's.

    Raises:
        ConfigError: For an unknown protocol, network, baseline or predictor, for a network that is impossible for such
            images, for training shards that are needed and were not given or are the test shards, or for a protocol that
            needs what a set does not have.
        DataError: When the shards lack classes of a set or hold images of another shape.
    """
    if repeats < 1:
        return []
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    size = group_size(group, device)
    try:
        tasks = [
            prepare(request, test=test, train=train, whole_epochs=whole_epochs, seed=seed, device=device)
            for request in requests
        ]
        if train is not None and any(len(task.sizes) > 1 or task.protocol.rates for task in tasks):
            check_apart(load_index(Folder(train)).hash, load_index(Folder(test)).hash, f"{train} and {test}")
        return _Run(tasks, repeats, size, map, on_result).results()
    finally:
        # What this process read for it is not kept beyond it.
        real_data.cache_clear()


def group_size(group: int | None, device: str) -> int:
    """Return how many repeats are trained together where `group` was asked for, or nothing was."""
    return group or (CUDA_GROUP if device.startswith("cuda") else 1)


class _Run:
    """The items of all tasks, and how far they are."""

    def __init__(
        self, tasks: Sequence[Task], repeats: int, size: int, map: MapFunction, on_result: Progress | None
    ) -> None:
        self.tasks, self.repeats, self.size, self.map, self.on_result = tasks, repeats, size, map, on_result
        self.done = 0
        self.total = len(self._tests([task.cells for task in tasks])) + len(self._trials())

    def results(self) -> list[Accuracy]:
        """Choose what is open, for all tasks, then read the test split."""
        chosen = self._choose()
        each: dict[tuple[int, int, Predictor], list[float]] = {}
        for (which, i), percents in self._spread(self._tests(chosen)):
            predictors = chosen[which][i].predictors
            size = len(percents) // len(predictors)
            for place, predictor in enumerate(predictors):
                each.setdefault((which, i, predictor), []).extend(percents[place * size : (place + 1) * size])
        return [
            _accuracy(task, cell, predictor, each[which, i, predictor])
            for which, (task, cells) in enumerate(zip(self.tasks, chosen, strict=True))
            for i, cell in enumerate(cells)
            for predictor in cell.predictors
        ]

    def _tests(self, cells: Sequence[Sequence[Cell]]) -> list[tuple[tuple[int, int], Placed]]:
        """Return the items of all cells with the places of task and cell; the longest come first, so that none ends alone."""
        found = [
            ((which, i), Placed(which=which, item=item))
            for which, task in enumerate(self.tasks)
            for i, cell in enumerate(cells[which])
            for item in cell.items(task.repeats(cell, self.repeats), self.size)
        ]
        return sorted(found, key=lambda pair: (pair[1].item.of != "whole", pair[1].item.of == "distilled"))

    def _trials(self) -> list[tuple[tuple[int, int, float], Placed]]:
        """Return an item for every open cell and rate, with the places of task and cell and the rate."""
        return [
            ((which, i, rate), Placed(which=which, item=item))
            for which, task in enumerate(self.tasks)
            for i, cell in enumerate(task.cells)
            if task.is_open(cell)
            for rate in task.protocol.rates
            for item in replace(cell, lr=rate, predictors=cell.predictors[:1]).items(CHOICE_REPEATS, self.size, "val")
        ]

    def _choose(self) -> list[list[Cell]]:
        """Return the tasks' cells with the rate of the best mean on validation images, the first of equals, where it is open."""
        scores: dict[tuple[int, int], dict[float, list[float]]] = {}
        for (which, i, rate), each in self._spread(self._trials()):
            scores.setdefault((which, i), {}).setdefault(rate, []).extend(each)
        best = {place: max(rates, key=lambda rate: statistics.fmean(rates[rate])) for place, rates in scores.items()}
        return [
            [replace(cell, lr=best.get((which, i))) for i, cell in enumerate(task.cells)]
            for which, task in enumerate(self.tasks)
        ]

    def _spread(self, keyed: Sequence[tuple[Key, Placed]]) -> list[tuple[Key, list[float]]]:
        """Map over items of all tasks; return what each gives with its key."""
        if not keyed:
            return []
        before = self.done

        def tell(done: int, _: int) -> None:
            self.done = before + done
            if self.on_result is not None:
                self.on_result(self.done, self.total)

        shared = [task.shared for task in self.tasks]
        found = self.map(placed_accuracies, [placed for _, placed in keyed], shared, tell)
        return [(key, each) for (key, _), each in zip(keyed, found, strict=True)]


def _accuracy(task: Task, cell: Cell, predictor: Predictor, each: list[float]) -> Accuracy:
    images, stored = task.sizes[cell.of]
    shared, classes = task.shared, len(task.shared.classes)
    protocol = shared.protocol_of(cell.items(1, 1)[0])
    # Neighbours are not trained, and learned steps have rates of their own.
    trained = cell.net is not None and not (shared.learned and cell.of == "distilled")
    return Accuracy(
        of=cell.of,
        protocol=protocol.name,
        net="" if cell.net is None else net_text(cell.net),
        mean=statistics.fmean(each),
        std=deviation(each),
        repeats=len(each),
        each=each,
        images=images,
        storage_bytes=stored,
        set=task.name,
        predictor=predictor,
        augment=protocol.operations(handwritten=shared.handwritten) if trained else None,
        labels=_labels(task, cell.of, predictor, protocol),
        lr=protocol.training.lr if trained else None,
        images_per_class=images / classes,
        stored_images_per_class=stored / float_bytes(shared.images.shape[1:]) / classes,
        note=_note(task, cell),
    )


def _labels(task: Task, of: str, predictor: Predictor, protocol: Protocol) -> str:
    """Return what kind of labels networks were trained on, or a predictor was given."""
    # Learned steps are taken with the labels that were learned with them.
    own = task.shared.labels_of(of)
    kept = predictor == "krr" or (predictor == "train" and of == "distilled" and task.shared.learned)
    if kept:
        return "soft" if own is not None and own.ndim == 2 else "hard"
    return protocol.labels if predictor == "train" else "hard"


def _note(task: Task, cell: Cell) -> str | None:
    if cell.net is None:
        return None
    if task.foreign:
        name, usual = task.shared.protocol, PROTOCOLS[task.shared.protocol].usual_net
        return f"the network is the set's own; the protocol {name} was published with {usual}"
    if not task.protocol.rates:
        return None
    if cell.of == "whole":
        return "the learning rate is fixed, and the training as long as `whole_epochs` says"
    if task.seen and cell.of == "distilled":
        return (
            f"the learning rate was chosen on {task.shared.val_fraction:.0%} of the training split, which the set may have "
            "seen: its run did not keep it for validation"
        )
    return None
