"""The battery's own instruments must be able to fail."""

from __future__ import annotations

import pytest
import torch

from raydd.nets import NetState
from tests.methods import toy


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
