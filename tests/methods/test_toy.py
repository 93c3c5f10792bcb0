"""The battery's own instruments must be able to fail."""

from __future__ import annotations

import pytest
import torch

from raydd.nets import NetState
from tests.methods import toy
from tests.tape import most_held


def test_pure_notices_a_changed_argument() -> None:
    state = {"net": NetState({"w": torch.zeros(2)}, {})}
    assert toy.pure(lambda s: s["net"].params["w"] + 1, state).tolist() == [1, 1]
    with pytest.raises(AssertionError, match="changed a tensor that it was given"):
        toy.pure(lambda s: s["net"].params["w"].add_(1), state)
    with pytest.raises(AssertionError, match="on a tape"):
        toy.pure(lambda s: s["net"].params["w"].requires_grad_(), state)


def test_same_bits_looks_into_trees() -> None:
    one = {"b": [torch.ones(2)], "a": NetState({"w": torch.zeros(1)}, {})}
    assert toy.same_bits(one, {"a": NetState({"w": torch.zeros(1)}, {}), "b": [torch.ones(2)]})
    assert not toy.same_bits(one, {**one, "b": [torch.ones(2) + 1e-7]})
    assert not toy.same_bits(one, toy.double(one))


def test_data_are_what_they_claim() -> None:
    data = toy.data((2, 3))
    assert data.facts.smallest_class == 2
    assert [len(ids) for ids in data.by_class] == [2, 3]
    assert data.labels[data.by_class[1]].tolist() == [1, 1, 1]


def test_most_held_counts_what_is_alive_together() -> None:
    x = torch.ones(10, requires_grad=True)
    assert most_held(lambda: [x.exp().sum().backward() for _ in range(3)]) == 10
    assert most_held(lambda: x.exp().exp().sum().backward()) == 20
    with torch.no_grad():
        assert most_held(lambda: x.exp()) == 0


def test_third_parties_say_what_is_small() -> None:
    data = toy.data()
    assert toy.make("toy_pull", data).config.ipc == 2
    assert (toy.make("toy_pull_all", data).config.ipc, toy.make("toy_pull_all", data).config.rounds) == (3, 12)
