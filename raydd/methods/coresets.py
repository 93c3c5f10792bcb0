"""Coresets: sets of real images, or means of them, chosen rather than learned. They have no rounds.

The baselines of Zhao, Mopuri & Bilen, "Dataset Condensation with Gradient Matching", ICLR 2021, Table 1 (random, herding,
k-center, forgetting), and of Wang et al., "Dataset Distillation", 2018 (random, optimised, k-means, average).

    random      `ipc` images a class, without replacement
    herding     again and again the image whose feature is nearest to (i + 1) * mean - sum of the chosen (Welling, ICML 2009;
                the rule of iCaRL, Rebuffi et al., CVPR 2017)
    kcenter     the image nearest to the class's centre, then again and again the one farthest from all chosen (greedy max-min;
                Sener & Savarese, ICLR 2018)
    forgetting  the images most often forgotten: right at one visit, wrong at the next (Toneva et al., ICLR 2019)
    kmeans      the centroids of a class's pixels
    average     the mean of a class's pixels
    optimised   the random set that trains the best network

Distances are L2. The features of herding and k-center are the classifier's input of a network trained on the whole set; its
training, and every pass over the images, is streamed in batches.

Deviations:

1. Papers do not tell how long the network on the whole set is trained; here `epochs` passes of SGD, cosine to zero.
2. Forgetting: an image that was never learned counts no forgetting (Toneva et al. put it first). Ties are broken by lot.
3. Optimised: the DD paper reports the mean of the top fifth of its sets; here the top one is the set. Sets are scored on
   training images that are in none of them, all from the same initial weights.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from raydd import nets
from raydd.config.methods.coresets import (
    AverageConfig,
    CoresetConfig,
    ForgettingConfig,
    HerdingConfig,
    KCenterConfig,
    KMeansConfig,
    OptimisedConfig,
    RandomConfig,
    TrainedCoresetConfig,
)
from raydd.data.plan import EpochPlan, class_batch
from raydd.functional.recipe import TrainRecipe
from raydd.functional.train import init_optimiser, train, train_step
from raydd.methods.base import Contribution, Method, Slot, Tensors
from raydd.nets import NetState
from raydd.seeding import derive

# Shapes: n images of a class, D features or pixels.

Fetch = Callable[[Tensor], Tensor]
Visit = Callable[[Tensor, Tensor], None]
Config = TypeVar("Config", bound=CoresetConfig)
Trained = TypeVar("Trained", bound=TrainedCoresetConfig)

CHUNK = 1000  # images that are fetched at once where no network sees them


def herd(features: Tensor, count: int) -> Tensor:
    """Return the places, int64 `(count,)`, of the samples that herding picks, in its order.

    Args:
        features: float `(n, D)` of one class.
        count: How many, at most n.
    """
    mean, total = features.mean(0), torch.zeros_like(features[0])
    chosen: list[int] = []
    for i in range(count):
        distance = (features - ((i + 1) * mean - total)).square().sum(1)
        distance[chosen] = torch.inf
        chosen.append(int(distance.argmin()))
        total = total + features[chosen[-1]]
    return torch.tensor(chosen)


def k_center(features: Tensor, count: int) -> Tensor:
    """Return the places, int64 `(count,)`, of the samples that greedy k-center picks, in its order.

    Args:
        features: float `(n, D)` of one class.
        count: How many, at most n.
    """
    chosen = [int((features - features.mean(0)).square().sum(1).argmin())]
    nearest = torch.full((len(features),), torch.inf, dtype=features.dtype)
    while len(chosen) < count:
        nearest = nearest.minimum((features - features[chosen[-1]]).square().sum(1))
        nearest[chosen] = -1.0  # twins of a chosen one may still come, it itself may not
        chosen.append(int(nearest.argmax()))
    return torch.tensor(chosen)


class ForgettingCounter:
    """Counts, for each of `n` samples, how often it was right at one visit and wrong at the next."""

    def __init__(self, n: int) -> None:
        self.counts = torch.zeros(n, dtype=torch.int64)
        self._right = torch.zeros(n, dtype=torch.bool)

    def visit(self, places: Tensor, right: Tensor) -> None:
        """Take note of a visit to the samples at `places` int64 `(b,)`: whether each was `right`, bool `(b,)`."""
        self.counts[places] += self._right[places] & ~right
        self._right[places] = right


class Coreset(Method[Config]):
    """What all coresets have in common: no slots, no optimiser, and labels class by class."""

    def all_slots(self) -> tuple[Slot, ...]:
        """Return no slot: nothing is learned."""
        return ()

    def real_ids(self, round: int, slot: Slot) -> Tensor:
        """Fail: there is no slot."""
        raise NotImplementedError("a coreset has no rounds")

    def init(self, x_real: Tensor) -> Tensors:
        """Return the chosen images; see the base class."""
        return {"x_syn": x_real.clone()}

    def optimiser(self, variables: Tensors) -> Tensors:
        """Return nothing: there is no optimiser."""
        return {}

    def contribution(
        self, round: int, slot: Slot, variables: Tensors, state: Tensors, shared: Any, x_real: Tensor, y_real: Tensor
    ) -> Contribution:
        """Fail: there is no slot."""
        raise NotImplementedError("a coreset has no rounds")

    def reduce(self, variables: Tensors, contributions: Sequence[Contribution]) -> Tensors:
        """Return nothing to change."""
        return {}

    def update(self, round: int, variables: Tensors, optimiser: Tensors, gradients: Tensors) -> tuple[Tensors, Tensors]:
        """Return the variables as they are."""
        return variables, optimiser

    def distilled(self, variables: Tensors) -> Tensors:
        """Return the images with their labels, class by class."""
        labels = torch.arange(self.problem.facts.num_classes).repeat_interleave(self.config.ipc)
        return {"images": variables["x_syn"], "labels": labels}

    def fresh_net(self) -> NetState:
        """Return the initial weights of the network that chooses, from their key."""
        gen = self.problem.generator("coreset-net")
        return nets.initialise(self.net, gen, self.problem.device).channels_last()

    @torch.no_grad()
    def run_net(self, net: NetState, x: Tensor, *, features: bool = False) -> Tensor:
        """Return logits, or features, of images; on the CPU."""
        return nets.apply(self.net, net.params, net.buffers, x.to(self.problem.device), features=features).cpu()


class Random(Coreset[RandomConfig]):
    """Random real images: those that every method with real initialisation starts from."""


class TrainedCoreset(Coreset[Trained]):
    """A coreset that a network trained on the whole set chooses."""

    def start(self, fetch: Fetch) -> Tensors:
        """Choose the images; see the base class."""
        return self.init(fetch(self.chosen(fetch)))

    @abstractmethod
    def chosen(self, fetch: Fetch) -> Tensor:
        """Return the ids of the chosen images, int64, `ipc` a class, in the order of classes."""

    def trained(self, fetch: Fetch, visit: Visit | None = None) -> NetState:
        """Train a network on the whole set, a batch at a time.

        Args:
            fetch: See `Method.start`.
            visit: Called before every step with the batch's places in the joined `by_class` and with whether the network got
                each image right.
        """
        problem, config = self.problem, self.config
        ids = torch.cat(problem.by_class)
        sizes = torch.tensor([len(of_class) for of_class in problem.by_class])
        labels = torch.arange(len(sizes)).repeat_interleave(sizes)
        batch = min(config.batch, len(ids))
        recipe = TrainRecipe(
            optimiser="sgd",
            lr=config.lr_net,
            updates=-(-len(ids) * config.epochs // batch),
            batch=batch,
            momentum=0.9,
            weight_decay=5e-4,
            schedule="cosine",
            final=0.0,
        )
        plan = EpochPlan(derive(problem.seed, "coreset"), len(ids), batch)
        net = self.fresh_net()
        optim = init_optimiser(net, recipe)
        for step in range(recipe.num_updates(len(ids))):
            places = plan.batch(step)
            x, y = fetch(ids[places]).to(problem.device), labels[places]
            if visit is not None:
                visit(places, self.run_net(net, x).argmax(1) == y)
            lr = recipe.lr_at(step, len(ids))
            net, optim, _ = train_step(self.net, net, optim, x, y.to(problem.device), recipe, lr)
        return net

    def features(self, fetch: Fetch, net: NetState, ids: Tensor) -> Tensor:
        """Return the network's features of images, float32 `(n, D)`, on the CPU."""
        return torch.cat([self.run_net(net, fetch(part), features=True) for part in ids.split(self.config.batch)])


class Herding(TrainedCoreset[HerdingConfig]):
    """The images that herding picks in feature space."""

    def chosen(self, fetch: Fetch) -> Tensor:
        """Herd each class; see the base class."""
        net = self.trained(fetch)
        return torch.cat([ids[herd(self.features(fetch, net, ids), self.config.ipc)] for ids in self.problem.by_class])


class KCenter(TrainedCoreset[KCenterConfig]):
    """The images that cover their class in feature space."""

    def chosen(self, fetch: Fetch) -> Tensor:
        """Cover each class; see the base class."""
        net = self.trained(fetch)
        return torch.cat(
            [ids[k_center(self.features(fetch, net, ids), self.config.ipc)] for ids in self.problem.by_class]
        )


class Forgetting(TrainedCoreset[ForgettingConfig]):
    """The images most often forgotten."""

    def chosen(self, fetch: Fetch) -> Tensor:
        """Rank each class by forgetting; see the base class."""
        by_class = self.problem.by_class
        counter = ForgettingCounter(sum(len(ids) for ids in by_class))
        self.trained(fetch, counter.visit)
        counts = counter.counts.split([len(ids) for ids in by_class])
        return torch.cat([ids[self._most(c, counts[c])] for c, ids in enumerate(by_class)])

    def _most(self, label: int, counts: Tensor) -> Tensor:
        lot = torch.randperm(len(counts), generator=self.problem.generator("tie", label))
        order = counts[lot].argsort(descending=True, stable=True)
        return lot[order[: self.config.ipc]]


class KMeans(Coreset[KMeansConfig]):
    """The centroids of each class's pixels, a class in memory at a time."""

    def start(self, fetch: Fetch) -> Tensors:
        """Return the centroids; see the base class."""
        centroids = [self._centroids(c, fetch(ids)) for c, ids in enumerate(self.problem.by_class)]
        return self.init(torch.cat(centroids))

    def _centroids(self, label: int, x: Tensor) -> Tensor:
        # Late, because scikit-learn takes a second to import.
        from sklearn.cluster import KMeans as Clustering
        from threadpoolctl import threadpool_limits

        seed = derive(self.problem.seed, "kmeans", label) % 2**32
        clustering = Clustering(self.config.ipc, n_init=self.config.restarts, random_state=seed)
        # The threads of k-means add up in the order in which they come to an end.
        with threadpool_limits(1):
            clustering.fit(x.flatten(1).cpu().numpy())
        return torch.from_numpy(clustering.cluster_centers_).to(torch.float32).view(-1, *x.shape[1:])


class Average(Coreset[AverageConfig]):
    """The mean of each class's pixels."""

    def start(self, fetch: Fetch) -> Tensors:
        """Return the means; see the base class."""
        return self.init(torch.stack([self._mean(fetch, ids) for ids in self.problem.by_class]))

    def _mean(self, fetch: Fetch, ids: Tensor) -> Tensor:
        total = torch.stack([fetch(part).double().sum(0) for part in ids.split(CHUNK)]).sum(0)
        return (total / len(ids)).float()


class Optimised(Coreset[OptimisedConfig]):
    """The random set that trains the best network."""

    def start(self, fetch: Fetch) -> Tensors:
        """Train on every candidate and keep the best, the first of equals; see the base class."""
        candidates, judges = self.split()
        labels = torch.arange(len(judges)).repeat_interleave(torch.tensor([len(ids) for ids in judges]))
        scores = [self._score(fetch, i, ids, torch.cat(judges), labels) for i, ids in enumerate(candidates)]
        return self.init(fetch(candidates[scores.index(max(scores))]))

    def split(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return the ids of every random set, and those of each class's images that score them and are in no set."""
        ipc, classes = self.config.ipc, self.problem.facts.num_classes
        judges, rest = [], []
        for c, ids in enumerate(self.problem.by_class):
            order = ids[torch.randperm(len(ids), generator=self.problem.generator("judges", c))]
            count = min(-(-self.config.judges // classes), (len(ids) - ipc) // 2)
            judges.append(order[:count])
            rest.append(order[count:])
        candidates = [
            torch.cat([class_batch(ids, ipc, self.problem.generator("candidate", i, c)) for c, ids in enumerate(rest)])
            for i in range(self.config.candidates)
        ]
        return candidates, judges

    def _score(self, fetch: Fetch, index: int, ids: Tensor, judges: Tensor, labels: Tensor) -> int:
        """Return how many of the judges a network trained on a set gets right."""
        config, device = self.config, self.problem.device
        y = torch.arange(self.problem.facts.num_classes).repeat_interleave(config.ipc)
        recipe = TrainRecipe(
            optimiser="sgd", lr=config.lr_net, epochs=config.epochs, batch=config.batch, momentum=0.9, weight_decay=5e-4
        )
        seed, x = derive(self.problem.seed, "optimised"), fetch(ids).to(device)
        net = train(self.net, self.fresh_net(), x, y.to(device), recipe, seed=seed, indices=(index,))
        parts = zip(judges.split(config.batch), labels.split(config.batch), strict=True)
        return sum(int((self.run_net(net, fetch(part)).argmax(1) == truth).sum()) for part, truth in parts)
