"""One training, however many share its batches; and the same one whether or not it was interrupted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raydd.data.pack import pack
from raydd.data.plan import EpochPlan
from raydd.data.reader import RealData
from raydd.errors import ConfigError, DataError
from raydd.functional.recipe import TrainRecipe
from raydd.functional.train import train_on
from raydd.nets import NetState
from raydd.training import (
    Alone,
    Group,
    Loop,
    Network,
    Position,
    SetData,
    ShardData,
    open_data,
    open_network,
    open_test,
)
from raydd.training.data import check_batch, facts_of
from tests.sets import make_set
from tests.training.groups import together

RECIPE = TrainRecipe(
    optimiser="sgd", lr=0.05, momentum=0.9, weight_decay=1e-3, updates=9, batch=7, schedule="cosine", final=0
)
ADAM = replace(RECIPE, optimiser="adam", lr=1e-3)
PLAIN, NORMED, DROPPING = "convnet:width=4,depth=1", "convnet:width=4,depth=1,norm=batch", "somebody's"


def loop(group: Group, net: str = PLAIN, recipe: TrainRecipe = RECIPE, augment: str | None = None, **made: Any) -> Loop:
    data = SetData(make_set(**{"soft": False, "ipc": 5, **made}))
    network = somebodys() if net == DROPPING else open_network(net, facts_of(data), 3)
    return Loop(network, data, recipe, seed=3, augmentation=augment, group=group, device=torch.device("cpu"))


def somebodys() -> Network:
    """A network that draws from the global generator."""
    with torch.device("meta"):
        module = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 4))
    state = NetState({"2.weight": torch.linspace(-0.1, 0.1, 768).view(4, 192), "2.bias": torch.zeros(4)}, {})
    return Network(module=module, state=state, foreign=True)


def run(it: Loop, position: Position | None = None, until: int = 9) -> tuple[Position, list[float]]:
    position, losses = position or it.start(), []
    while position.step < until:
        position, loss = it.step(position)
        losses.append(float(loss))
    return position, losses


def bits(position: Position) -> dict[str, Tensor]:
    return position.state.tensors() | {f"optim.{n}": t for n, t in position.optim.tensors().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(t, other[name]) for name, t in one.items())


@pytest.mark.parametrize("recipe", [RECIPE, ADAM], ids=["sgd", "adam"])
def test_alone_it_is_the_one_training_loop(recipe: TrainRecipe) -> None:
    ds, it = make_set(soft=False, ipc=5), loop(Alone(), NORMED, recipe)
    plan = EpochPlan(3, 20, 7)
    state = it.network.state.channels_last()
    expected = train_on(
        it.network.module,
        state,
        lambda step: (ds.images[plan.batch(step)], ds.labels[plan.batch(step)]),
        20,
        recipe,
        seed=3,
    )
    assert equal(run(it)[0].state.tensors(), expected.tensors())


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("recipe", [RECIPE, ADAM], ids=["sgd", "adam"])
def test_shared_it_is_the_same_training_up_to_rounding(size: int, recipe: TrainRecipe) -> None:
    """7 images an update are shared unevenly; sums are those of the whole batch all the same."""
    alone, losses = run(loop(Alone(), recipe=recipe))
    found = together(size, lambda group: run(loop(group, recipe=recipe)))
    again = together(size, lambda group: run(loop(group, recipe=recipe)))
    assert all(equal(bits(found[0][0]), bits(other[0])) for other in [*found[1:], *again])
    assert found[0][1] == pytest.approx(losses, abs=1e-5)
    # Adam divides by the gradient's size, which tells the smallest of them from zero.
    loose = 1e-3 if recipe is ADAM else 1e-5
    for name, tensor in alone.state.params.items():
        assert torch.allclose(found[0][0].state.params[name], tensor, atol=loose), name


def test_running_statistics_are_the_mean_over_the_shares() -> None:
    """After one update from zero mean, by hand: 0.1 times the mean over the whole batch of what the norm sees."""
    found = together(2, lambda group: run(loop(group, NORMED), until=1)[0])
    assert equal(bits(found[0]), bits(found[1]))
    it = loop(Alone(), NORMED)
    (name,) = [name for name in found[0].state.buffers if name.endswith("running_mean")]
    x, _ = it.data.batch(EpochPlan(3, 20, 7).batch(0))
    weight, bias = (it.network.state.params[f"blocks.0.{leaf}"] for leaf in ("weight", "bias"))
    seen = torch.nn.functional.conv2d(x, weight, bias, padding=1).mean((0, 2, 3))
    assert torch.allclose(found[0].state.buffers[name], 0.1 * seen, atol=1e-6)
    assert int(found[0].state.buffers[name.replace("running_mean", "num_batches_tracked")]) == 1


@pytest.mark.parametrize(
    ("net", "recipe", "augment"),
    [(NORMED, RECIPE, "dsa:crop_flip"), (PLAIN, ADAM, None), (DROPPING, RECIPE, None)],
    ids=["batch norm", "adam", "dropout"],
)
def test_gone_on_with_it_is_the_same(net: str, recipe: TrainRecipe, augment: str | None) -> None:
    it = loop(Alone(), net, recipe, augment)
    expected, losses = run(it)
    before = torch.get_rng_state()
    half, _ = run(it, until=4)
    kept = it.tensors(half)
    # What was copied is not what goes on.
    run(it, half, until=6)
    fresh = loop(Alone(), net, recipe, augment)
    found, rest = run(fresh, fresh.restore(4, *(dict(sorted(tensors.items())) for tensors in kept)))
    assert equal(bits(found), bits(expected))
    assert rest == losses[4:]
    assert torch.equal(torch.get_rng_state(), before)
    assert net != DROPPING or losses != run(replace_seed(loop(Alone(), net, recipe), 4))[1]


def replace_seed(it: Loop, seed: int) -> Loop:
    it.seed = seed
    return it


def test_shared_and_gone_on_with_it_is_the_same() -> None:
    def halves(group: Group) -> Position:
        it = loop(group, NORMED, augment="dsa:crop_flip")
        kept = it.tensors(run(it, until=5)[0])
        it = loop(group, NORMED, augment="dsa:crop_flip")
        return run(it, it.restore(5, *kept))[0]

    whole = together(3, lambda group: run(loop(group, NORMED, augment="dsa:crop_flip"))[0])
    assert all(equal(bits(position), bits(whole[0])) for position in together(3, halves))


def test_members_augment_each_in_its_own_way() -> None:
    seen: list[list[Tensor]] = together(2, lambda group: _augmented(loop(group, augment="dsa:color")))
    assert not torch.equal(seen[0][0], seen[1][0])
    assert not torch.equal(seen[0][0], seen[0][1])


def _augmented(it: Loop) -> list[Tensor]:
    augment, seen = it.augment, []
    assert augment is not None

    def watched(x: Tensor, gen: torch.Generator) -> Tensor:
        seen.append(augment(torch.ones(1, 3, 8, 8), gen))
        return x

    it.augment = watched
    run(it, until=2)
    return seen


def test_labels_decide_the_loss() -> None:
    centred = make_set()
    assert SetData(centred).loss == "mse"
    assert SetData(replace(centred, labels=torch.full((8, 4), 0.25))).loss == "cross_entropy"
    assert SetData(make_set(soft=False)).loss == "cross_entropy"
    assert (SetData(centred).augmentation, SetData(centred).epochs(256)) == ("dsa:color_crop_flip", 1000)
    assert SetData(make_set(ipc=200)).epochs(256) == 320


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("digits")
    for split in ("train", "test"):
        pack("digits", str(root / split), split=split)
    return {split: str(root / split) for split in ("train", "test")}


def test_shards_are_normalised_and_scored_by_all(digits: dict[str, str]) -> None:
    data = open_data(digits["train"])
    assert isinstance(data, ShardData)
    assert (data.name, len(data), data.shape, data.loss) == ("digits-train", 1442, (1, 8, 8), "cross_entropy")
    whole, _ = data.batch(torch.arange(len(data)))
    assert (float(whole.mean()), float(whole.std())) == pytest.approx((0, 1), abs=1e-3)
    recipe = replace(RECIPE, updates=60, batch=64)

    def score(group: Group) -> tuple[Position, float]:
        data = open_data(digits["train"])
        network = open_network(PLAIN, facts_of(data), 3)
        it = Loop(network, data, recipe, seed=3, augmentation=None, group=group, device=torch.device("cpu"))
        position, _ = run(it, until=60)
        return position, it.score(position, open_test(digits["test"], data))

    (position, first), (_, second) = together(2, score)
    assert first == second > 70
    # By hand, one image at a time.
    test, module = RealData(digits["test"]), open_network(PLAIN, facts_of(data), 3).module
    with torch.no_grad():
        logits = torch.func.functional_call(
            module.eval(),
            (position.state.params, position.state.buffers),
            (data.transform(test.images(torch.arange(355))),),
        )
    assert first == pytest.approx(100 * float((logits.argmax(1) == test.labels).double().mean()))


def test_what_does_not_fit_is_refused(digits: dict[str, str]) -> None:
    with pytest.raises(DataError, match=r"expected test images of the 4 classes of made .* got none of 4 \('cat'\)"):
        open_test(digits["test"], SetData(make_set()))
    odd = make_set(classes=2, size=16, channels=1)
    odd = replace(odd, recipe=replace(odd.recipe, classes=("0", "1")))
    with pytest.raises(DataError, match=r"expected test images of 1x16x16, got 1x8x8 .* --size 16"):
        open_test(digits["test"], SetData(odd))
    with pytest.raises(DataError, match="expected a distilled set with images, got made without any"):
        SetData(replace(odd, images=odd.images[:0], labels=odd.labels[:0]))
    data = SetData(make_set())
    assert check_batch(data, 256, 4, least=2) == 8
    with pytest.raises(
        ConfigError, match="an update has 8 images for 5 workers and each wants 2 for BatchNorm; take fewer"
    ):
        check_batch(data, 256, 5, least=2)
    with pytest.raises(ConfigError, match="an update has 3 images for 4 workers and each wants one"):
        check_batch(data, 3, 4, least=1)
