from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from raydd.methods import Method
from raydd.methods.coresets import ForgettingCounter, herd, k_center
from raydd.nets import NetState
from tests.methods import toy

CORESETS = ["random", "herding", "kcenter", "forgetting", "kmeans", "average", "optimised"]
SMALL: dict[str, dict[str, Any]] = {
    "herding": {"epochs": 2, "batch": 7},
    "kcenter": {"epochs": 2, "batch": 7},
    "forgetting": {"epochs": 6, "batch": 7, "lr_net": 0.1},
    "kmeans": {"restarts": 2},
    "average": {"ipc": 1},
    "optimised": {"candidates": 3, "epochs": 4, "batch": 7},
}
DATA = toy.data(counts=(9, 5, 8), channels=3)


def make(name: str, data: toy.Toy = DATA, **changes: Any) -> Method[Any]:
    return toy.make(name, data, **{"ipc": 2, "rounds": 0, **SMALL.get(name, {}), **changes})


def fetch(data: toy.Toy = DATA) -> Callable[[Tensor], Tensor]:
    return lambda ids: data.images[ids]


def ids_of(images: Tensor, data: toy.Toy = DATA) -> list[int]:
    """Return which images of the data these are."""
    return [int((data.images == image).flatten(1).all(1).nonzero().item()) for image in images]


# Rules, by hand

POINTS = torch.tensor([[0.0, 0.0], [4.0, 0.0], [1.0, 0.0], [0.0, 4.0], [2.0, 2.0]])


def test_herding_by_hand() -> None:
    # Mean (1.4, 1.2). Targets: the mean -> 4; (0.8, 0.4) -> 2; (1.2, 1.6) -> 0; (2.6, 2.8) -> 3, 8.2 away against 9.8.
    assert herd(POINTS, 5).tolist() == [4, 2, 0, 3, 1]
    assert herd(POINTS, 2).tolist() == [4, 2]


def test_k_center_by_hand() -> None:
    points = torch.tensor([[0.0, 0.0], [6.0, 0.0], [1.0, 0.0], [0.0, 5.0], [2.0, 2.0]])
    # Mean (1.8, 1.4) -> 4. Squares of distances to 4: 8, 20, 5, 13 -> 1; to both: 8, -, 5, 13 -> 3; then 8 against 5.
    assert k_center(points, 5).tolist() == [4, 1, 3, 0, 2]
    assert k_center(points, 1).tolist() == [4]


@pytest.mark.parametrize("rule", [herd, k_center])
def test_twins_are_chosen_once_each(rule: Callable[[Tensor, int], Tensor]) -> None:
    assert sorted(rule(torch.ones(4, 3), 4).tolist()) == [0, 1, 2, 3]


def test_forgetting_is_right_and_then_wrong() -> None:
    counter = ForgettingCounter(4)
    visits = ["1100", "0110", "1010", "0010", "0001"]  # whether samples 0 to 3 were right
    for visit in visits:
        # Shuffled visits tell the same as ordered ones.
        places = torch.tensor([2, 0, 3, 1])
        counter.visit(places, torch.tensor([visit[p] == "1" for p in places]))
    # 0: 1 0 1 0 0; 1: 1 1 0 0 0; 2: 0 1 1 1 0; 3: 0 0 0 0 1
    assert counter.counts.tolist() == [2, 1, 1, 0]
    counter.visit(torch.tensor([3]), torch.tensor([False]))
    assert counter.counts.tolist() == [2, 1, 1, 1]


# Methods


@pytest.mark.parametrize("name", CORESETS)
def test_a_pure_function_of_the_seed(name: str) -> None:
    make(name).start(fetch())  # imports what it needs, which may draw
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate(), torch.get_num_threads()
    images = DATA.images.clone()
    first, again = (make(name).start(fetch()) for _ in range(2))
    assert toy.same_bits(first, again)
    assert torch.equal(images, DATA.images)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert (random.getstate(), torch.get_num_threads()) == before[2:]


@pytest.mark.parametrize("name", CORESETS)
def test_the_set_is_images_with_labels_class_by_class(name: str) -> None:
    method = make(name)
    result, ipc = method.distilled(method.start(fetch())), method.config.ipc
    assert method.slots_all == ()
    assert result["images"].shape == (3 * ipc, 3, 8, 8)
    assert result["images"].dtype == torch.float32
    assert result["labels"].tolist() == [c for c in range(3) for _ in range(ipc)]


@pytest.mark.parametrize("name", ["random", "herding", "kcenter", "forgetting", "optimised"])
@pytest.mark.parametrize("ipc", [2, 5])
def test_real_images_of_their_class_each_once(name: str, ipc: int) -> None:
    ids = ids_of(make(name, ipc=ipc).start(fetch())["x_syn"])
    assert len(set(ids)) == 3 * ipc
    assert DATA.labels[ids].tolist() == [c for c in range(3) for _ in range(ipc)]


@pytest.mark.parametrize("name", ["random", "herding", "forgetting", "optimised"])
def test_the_seed_decides(name: str) -> None:
    one, other = (ids_of(make(name, seed=seed).start(fetch())["x_syn"]) for seed in (0, 3))
    assert one != other


@pytest.mark.parametrize("name", ["herding", "kcenter", "forgetting", "optimised"])
def test_images_come_in_batches(name: str) -> None:
    """22 images are never asked for at once: a real data set does not fit as floats."""
    asked: list[int] = []

    def spied(ids: Tensor) -> Tensor:
        asked.append(len(ids))
        return DATA.images[ids]

    make(name).start(spied)
    assert max(asked) <= 7


@pytest.mark.parametrize("name", ["herding", "kcenter"])
def test_features_are_those_of_a_network_trained_on_the_whole_set(name: str) -> None:
    method = make(name)
    net = method.trained(fetch())
    before = method.fresh_net()
    assert not torch.equal(net.params["classifier.weight"], before.params["classifier.weight"])
    expected = []
    for ids in method.problem.by_class:
        features = method.run_net(net, DATA.images[ids], features=True)
        expected += ids[{"herding": herd, "kcenter": k_center}[name](features, 2)].tolist()
    assert ids_of(method.start(fetch())["x_syn"]) == expected


def test_the_network_learns_and_sees_every_image_once_an_epoch() -> None:
    method, seen, right = make("forgetting", epochs=12, lr_net=0.05), [], []

    def visit(places: Tensor, correct: Tensor) -> None:
        seen.append(places)
        right.append(correct)

    net = method.trained(fetch(), visit)
    ids = torch.cat(method.problem.by_class)
    counts = torch.cat(seen)[: 12 * 22].bincount(minlength=22)
    assert counts.tolist() == [12] * 22
    assert method.run_net(net, DATA.images[ids]).argmax(1).eq(DATA.labels[ids]).float().mean() > 0.9
    # A visit tells of the network as it was before the step.
    first = method.run_net(method.fresh_net(), DATA.images[ids[seen[0]]]).argmax(1)
    assert torch.equal(right[0], first == DATA.labels[ids[seen[0]]])


def test_forgetting_takes_the_most_forgotten_and_draws_lots_for_ties(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = torch.tensor([0, 0, 3, 0, 0, 0, 1, 0, 2] + [0, 4, 0, 0, 0] + [0] * 8)

    def trained(self: Any, fetch: Any, visit: Callable[[Tensor, Tensor], None]) -> NetState:
        for time in range(int(wanted.max())):
            for correct in (True, False):
                visit(torch.arange(22), (wanted > time) & correct)
        return NetState({}, {})

    method = make("forgetting")
    monkeypatch.setattr(type(method), "trained", trained)
    ids, by_class = method.chosen(fetch()), method.problem.by_class
    assert ids[:2].tolist() == by_class[0][[2, 8]].tolist()
    assert ids[2] == by_class[1][1]
    ties = {tuple(make("forgetting", seed=seed).chosen(fetch())[4:].tolist()) for seed in range(5)}
    assert len(ties) > 1


def blobs() -> toy.Toy:
    """Two classes of two far blobs each, of 3 and 5 images."""
    gen = torch.Generator().manual_seed(0)
    centres = torch.tensor([-9.0, 9.0, -3.0, 3.0]).repeat_interleave(torch.tensor([3, 5, 3, 5]))
    images = centres.view(-1, 1, 1, 1) + 0.1 * torch.randn(16, 1, 4, 4, generator=gen)
    return toy.Toy(images, torch.arange(2).repeat_interleave(8))


def test_k_means_are_the_centroids_of_each_class() -> None:
    data = blobs()
    got = make("kmeans", data).start(fetch(data))["x_syn"]
    expected = [data.images[ids].mean(0) for ids in (slice(0, 3), slice(3, 8), slice(8, 11), slice(11, 16))]
    for pair, means in ((got[:2], expected[:2]), (got[2:], expected[2:])):
        torch.testing.assert_close(pair[pair.mean((1, 2, 3)).argsort()], torch.stack(means))


def test_average_is_the_mean_image() -> None:
    got = make("average").start(fetch())["x_syn"]
    for c, ids in enumerate(DATA.by_class):
        np.testing.assert_allclose(got[c], DATA.images[ids].double().numpy().mean(0), rtol=1e-5, atol=1e-6)


def test_optimised_keeps_the_best_set_and_the_first_of_equals(monkeypatch: pytest.MonkeyPatch) -> None:
    method = make("optimised", candidates=4)
    candidates, judges = method.split()
    assert len({tuple(ids.tolist()) for ids in candidates}) == 4
    # (9 - 2) // 2, (5 - 2) // 2 and (8 - 2) // 2 images of the classes are judges, and are in no candidate.
    assert [len(ids) for ids in judges] == [3, 1, 3]
    assert not set(torch.cat(judges).tolist()) & set(torch.cat(candidates).tolist())
    monkeypatch.setattr(type(method), "_score", lambda self, fetch, i, ids, judges, labels: [3, 5, 5, 4][i])
    assert ids_of(method.start(fetch())["x_syn"]) == candidates[1].tolist()


def test_optimised_counts_the_judges_that_a_trained_network_gets_right() -> None:
    method = make("optimised", epochs=60, lr_net=0.05)
    candidates, judges = method.split()
    truth = torch.arange(3).repeat_interleave(torch.tensor([len(ids) for ids in judges]))
    assert method._score(fetch(), 0, candidates[0], torch.cat(judges), truth) >= 6
    assert method._score(fetch(), 0, candidates[0], torch.cat(judges), (truth + 1) % 3) <= 1


def test_optimised_judges_are_no_more_than_asked_for() -> None:
    assert [len(ids) for ids in make("optimised", judges=4).split()[1]] == [2, 1, 2]
    # Where classes are no larger than the set there is nobody to judge, and nothing to choose.
    small = toy.data(counts=(2, 2), channels=1)
    assert sorted(ids_of(make("optimised", small).start(fetch(small))["x_syn"], small)) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("name", "changes"), [("average", {"ipc": 2}), ("random", {"rounds": 1}), ("kmeans", {"ipc": 0})]
)
def test_the_impossible_is_refused(name: str, changes: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match=next(iter(changes))):
        make(name, **changes)


# MMD


def test_mmd_by_hand() -> None:
    """Means of classes are 3 and 2, those of the synthetic pairs 1 and 5: 16 pixels * (4 + 9), over two classes."""
    data = toy.Toy(torch.tensor([1.0, 5.0, 2.0, 2.0]).view(4, 1, 1, 1).expand(4, 1, 4, 4), torch.tensor([0, 0, 1, 1]))
    method = toy.make("mmd", data, ipc=2, classes_per_slot=2, augment=None)
    x_syn = torch.tensor([0.0, 2.0, 4.0, 6.0]).view(4, 1, 1, 1).expand(4, 1, 4, 4).contiguous()
    (slot,) = method.slots(0)
    given = toy.contribute(method, data, 0, slot, {"x_syn": x_syn}, {}, method.shared_state(0))
    assert given.metrics["loss"] == pytest.approx(16 * (4 + 9) / 2)
    # d/dx of (m - mean x)^2 is 2 (mean x - m) / ipc for every pixel.
    expected = torch.tensor([-2.0, -2.0, 3.0, 3.0]).view(4, 1, 1, 1).expand(4, 1, 4, 4)
    torch.testing.assert_close(given.gradients["x_syn"], expected.contiguous())


def test_mmd_reaches_the_class_means() -> None:
    method = toy.make("mmd", DATA, ipc=1, classes_per_slot="all", augment=None, real_batch=9)
    state = toy.run(lambda: method, DATA, 60)
    expected = torch.stack([DATA.images[ids].mean(0) for ids in DATA.by_class])
    torch.testing.assert_close(state.variables["x_syn"], expected, atol=1e-3, rtol=0)
