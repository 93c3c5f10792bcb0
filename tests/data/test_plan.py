from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raydd.data.plan import EpochPlan, class_batch, epoch_batch
from raydd.seeding import generator


def test_class_batch_draws_without_replacement_and_repeatably() -> None:
    ids = torch.arange(100, 150)
    got = class_batch(ids, 20, generator(0, "real", 1, 2))
    assert len(set(got.tolist())) == 20
    assert set(got.tolist()) <= set(range(100, 150))
    assert torch.equal(got, class_batch(ids, 20, generator(0, "real", 1, 2)))
    assert not torch.equal(got, class_batch(ids, 20, generator(0, "real", 1, 3)))


@pytest.mark.parametrize("size", [5, 6, 1000])
def test_class_batch_of_a_small_class_is_all_of_it(size: int) -> None:
    assert class_batch(torch.arange(5), size, generator(0, "real")).tolist() == [0, 1, 2, 3, 4]


def test_class_batch_is_uniform() -> None:
    counts = torch.zeros(6)
    for i in range(600):
        counts[class_batch(torch.arange(6), 2, generator(0, "real", i))] += 1
    assert (counts - 200).abs().max() < 60  # over 5 standard deviations


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 12), size=st.integers(1, 30))
def test_batches_laid_end_to_end_are_the_epochs_laid_end_to_end(n: int, size: int) -> None:
    def permutation(epoch: int) -> torch.Tensor:
        return torch.arange(n).roll(epoch) + 100 * epoch

    batches = torch.cat([epoch_batch(n, size, position, permutation) for position in range(7)])
    epochs = torch.cat([permutation(epoch) for epoch in range(7 * size // n + 1)])
    assert batches.tolist() == epochs[: 7 * size].tolist()


def test_epoch_plan_gives_any_batch_at_any_time() -> None:
    plan = EpochPlan(3, 10, 4)
    inorder = [plan.batch(position).tolist() for position in range(20)]
    assert sorted(i for batch in inorder[:5] for i in batch) == sorted(list(range(10)) * 2)
    for position in (19, 0, 7, 2, 12, 2):
        assert plan.batch(position).tolist() == inorder[position]
        assert EpochPlan(3, 10, 4).batch(position).tolist() == inorder[position]
    assert EpochPlan(4, 10, 4).batch(0).tolist() != inorder[0]


def test_epoch_plan_keeps_two_permutations() -> None:
    plan = EpochPlan(0, 10, 4)
    for position in range(50):
        plan.batch(position)
    assert sorted(plan._kept) == [18, 19]


def test_changing_what_a_batch_holds_changes_no_other() -> None:
    plan = EpochPlan(0, 10, 5)
    first = plan.batch(0)
    wanted = first.tolist()
    first.zero_()
    assert plan.batch(0).tolist() == wanted


@pytest.mark.parametrize(("n", "size"), [(0, 1), (1, 0)])
def test_empty_plans_are_refused(n: int, size: int) -> None:
    with pytest.raises(ValueError, match="must be >= 1"):
        EpochPlan(0, n, size)
