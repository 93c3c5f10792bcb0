"""The battery that every iterative method passes, a third party's by being registered.

That is by an entry point in the group `raydd.methods` of a package installed beside this checkout. Where its defaults are not
quick, or do not fit five classes of 4 to 9 colour images of 8 pixels, its `MethodSpec.small` says options that are and do.
"""

from __future__ import annotations

import random
from functools import cache, partial

import numpy as np
import pytest
import torch

from raydd.nets import compute_in
from raydd.seeding import generator
from tests.methods import toy
from tests.methods.toy import State, same_bits
from tests.tape import most_held

ROUNDS = 5
DATA = toy.data(channels=3)
MANY = toy.data((200,) * 5, channels=3)

pytestmark = pytest.mark.parametrize("name", toy.ITERATIVE)


@cache
def undisturbed(name: str) -> State:
    return toy.run(partial(toy.make, name, DATA), DATA, ROUNDS)


def equal(one: State, other: State) -> bool:
    return one.losses == other.losses and same_bits(one, other)


def test_two_runs_give_the_same_bits(name: str) -> None:
    again = toy.run(partial(toy.make, name, DATA), DATA, ROUNDS)
    assert equal(again, undisturbed(name))


def test_another_seed_gives_another_result(name: str) -> None:
    other = toy.run(partial(toy.make, name, DATA, seed=1), DATA, 2)
    assert not same_bits(other.variables, toy.run(partial(toy.make, name, DATA), DATA, 2).variables)


def test_the_battery_has_several_slots_that_workers_do_not_divide(name: str) -> None:
    if name not in toy.CONFIGS:
        pytest.skip("a third party's method has the slots that it has")
    slots = len(toy.make(name, DATA).slots_all)
    assert slots > 3
    assert slots % 2
    assert slots % 3


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_workers_gives_the_same_bits(name: str, workers: int) -> None:
    assert equal(toy.run(partial(toy.make, name, DATA), DATA, ROUNDS, workers=workers), undisturbed(name))


def test_slots_may_be_done_in_any_order(name: str) -> None:
    assert equal(toy.run(partial(toy.make, name, DATA), DATA, ROUNDS, backwards=True), undisturbed(name))


def test_state_comes_back_from_a_checkpoint(name: str) -> None:
    state = undisturbed(name)
    stored = state.stored()
    assert equal(stored, state)
    assert stored.units.keys() == state.units.keys()
    assert all(stored.units[unit].keys() == state.units[unit].keys() for unit in state.units)
    assert stored.variables.keys() == state.variables.keys()
    assert stored.optimiser.keys() == state.optimiser.keys()


@pytest.mark.parametrize("stop", range(1, ROUNDS))
def test_resumed_in_the_middle_gives_the_same_bits(name: str, stop: int) -> None:
    build = partial(toy.make, name, DATA)
    stopped = toy.run(build, DATA, stop)
    assert equal(toy.run(build, DATA, ROUNDS, state=stopped.stored(), workers=2), undisturbed(name))


def test_a_round_can_be_done_again(name: str) -> None:
    """As after the loss of a worker: the same method goes back to an earlier round."""
    method = toy.make(name, DATA)
    toy.run(lambda: method, DATA, ROUNDS)
    assert equal(toy.run(lambda: method, DATA, ROUNDS), undisturbed(name))


def test_no_global_generator_is_touched(name: str) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    toy.run(partial(toy.make, name, DATA), DATA, 2)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert random.getstate() == before[2]


def test_slots_are_in_order_and_units_are_neighbours(name: str) -> None:
    method = toy.make(name, DATA)
    assert [slot.index for slot in method.slots_all] == list(range(len(method.slots_all)))
    units = [slot.unit for slot in method.slots_all if slot.unit is not None]
    assert units == sorted(units)
    for round in range(10):
        slots = method.slots(round)
        assert slots
        assert list(slots) == sorted(slots, key=lambda slot: slot.index)
        assert all(slot == method.slots_all[slot.index] for slot in slots)


def test_real_ids_name_images_of_the_slots_classes(name: str) -> None:
    method = toy.make(name, DATA)
    for slot in method.slots(3):
        ids = method.real_ids(3, slot)
        assert ids.dtype == torch.int64
        assert torch.equal(ids, toy.make(name, DATA).real_ids(3, slot))
        if slot.classes:
            assert set(DATA.labels[ids].tolist()) <= set(slot.classes)


def test_gradients_are_contiguous_and_fit_the_variables(name: str) -> None:
    method = toy.make(name, DATA)
    state = undisturbed(name)
    shared = method.shared_state(ROUNDS)
    given = [
        toy.contribute(method, DATA, ROUNDS, s, state.variables, state.units, shared) for s in method.slots(ROUNDS)
    ]
    assert all(g.is_contiguous() for c in given for g in c.gradients.values())
    assert all(isinstance(value, float) for c in given for value in c.metrics.values())
    gradients = method.reduce(state.variables, given)
    assert {n: (g.shape, g.dtype) for n, g in gradients.items()} == {
        n: (v.shape, v.dtype) for n, v in state.variables.items()
    }


@pytest.mark.parametrize("changes", [{}, {"outer_loop": 1, "nets_per_round": 1}])
def test_rows_a_slot_owns_depend_on_no_others(name: str, changes: dict[str, int]) -> None:
    """Workers that own their rows change them without asking anybody."""
    known = type(toy.make(name, DATA).config).model_fields
    method = toy.make(name, DATA, **{key: value for key, value in changes.items() if key in known})
    owned = [method.own_rows(slot) for slot in method.slots_all]
    assert owned.count(None) in (0, len(owned))
    if None in owned:
        return
    state = toy.start(method, DATA)
    edges = [0] + [rows.stop for rows in owned]
    assert [rows.start for rows in owned] == edges[:-1]
    assert all(len(value) == edges[-1] for value in state.variables.values())
    shared = method.shared_state(0)
    given = [toy.contribute(method, DATA, 0, s, state.variables, state.units, shared) for s in method.slots(0)]
    whole, _ = method.update(0, state.variables, state.optimiser, method.reduce(state.variables, given))
    slot, rows = method.slots_all[-1], slice(owned[-1].start, owned[-1].stop)
    others = {key: torch.full_like(value, 7.0) for key, value in state.variables.items()}
    for key, value in state.variables.items():
        others[key][rows] = value[rows]
    alone = [toy.contribute(method, DATA, 0, slot, others, state.units, shared)]
    part = {key: value[rows] for key, value in others.items()}
    after, _ = method.update(0, part, method.optimiser(part), method.reduce(part, alone))
    assert same_bits(after, {key: value[rows] for key, value in whole.items()})
    assert slot.unit is None or same_bits(
        *(method.after_update(0, slot.unit, state.units[slot.unit], v) for v in (others, whole))
    )


def test_gradient_by_finite_differences(name: str) -> None:
    """Central differences in float64, along random directions of each variable."""
    method, state = toy.make(name, DATA), undisturbed(name)
    gen = generator(3, "perturbation")
    variables = {n: v.double() + 0.05 * torch.randn(v.shape, generator=gen) for n, v in state.variables.items()}
    _, gradients = toy.objective(method, DATA, ROUNDS, variables, state)

    def difference(chosen: str, change: torch.Tensor) -> float:
        ends = ({**variables, chosen: variables[chosen] + sign * change} for sign in (1, -1))
        ahead, behind = (toy.objective(method, DATA, ROUNDS, end, state)[0] for end in ends)
        return (ahead - behind) / 2

    slopes = []
    for chosen in variables:
        for _ in range(2):
            direction = torch.randn(variables[chosen].shape, generator=gen, dtype=torch.float64)
            slopes.append((gradients[chosen] * direction).sum().item())
            # Nothing depends on a bias before a norm that takes it away again.
            still = abs(slopes[-1]) < 1e-9
            assert still or abs(slopes[-1]) > 1e-6, f"{chosen} has no gradient to speak of"
            expected = pytest.approx(slopes[-1], rel=1e-5, abs=1e-7 if still else 0)
            # Where a network is trained, a step over the kink of a ReLU is one over an edge; a tenth of it is not.
            assert any(difference(chosen, step * direction) / step == expected for step in (1e-7, 1e-8)), chosen
    assert max(map(abs, slopes)) > 1e-6, "no variable has a gradient"


def test_memory_is_bounded_as_stated(name: str) -> None:
    """Once there is much of it, as much again is not kept for the backward pass."""
    stated = toy.make(name, DATA).bounded_in

    def held(option: str, value: int) -> int:
        method = toy.make(name, MANY, **{option: value})
        state, slot, shared = toy.start(method, MANY), method.slots(0)[0], method.shared_state(0)
        return most_held(lambda: toy.contribute(method, MANY, 0, slot, state.variables, state.units, shared))

    for option in stated:
        many = (12 if option == "real_batch" else 3) * getattr(toy.make(name, DATA).config, option)
        grown = held(option, 2 * many) - held(option, many)
        assert grown < many * MANY.images[0].numel(), option


def test_loss_falls(name: str) -> None:
    """By the measure of round 0, whose networks and real images are the same for both sets."""
    method = toy.make(name, DATA)
    first = toy.start(method, DATA)
    last = toy.run(lambda: method, DATA, method.config.rounds)
    before, after = (toy.objective(method, DATA, 0, state.variables, first)[0] for state in (first, last))
    assert after < before


def test_distilled_set_is_what_the_labels_say(name: str) -> None:
    method, state = toy.make(name, DATA), undisturbed(name)
    result, classes = method.distilled(state.variables), DATA.facts.num_classes
    images, labels = result["images"], result["labels"]
    assert images.dtype == torch.float32
    assert images.shape[1:] == method.problem.shape
    assert images.isfinite().all()
    assert len(labels) == len(images)
    if method.labels.kind == "hard":
        assert labels.dtype == torch.int64
        assert labels.shape == (len(images),)
        hard = labels
    else:
        assert method.labels.kind == "soft"
        assert labels.dtype == torch.float32
        assert labels.shape == (len(images), classes)
        hard = labels.argmax(1)
    assert hard.unique().tolist() == list(range(classes))


def test_half_precision_is_near_single_and_repeats(name: str) -> None:
    before = compute_in(torch.bfloat16)
    try:
        half, again = (toy.run(partial(toy.make, name, DATA), DATA, 2) for _ in range(2))
    finally:
        compute_in(before)
    method, asked = toy.make(name, DATA), []
    method.net.register_forward_pre_hook(lambda *_: asked.append(True))
    single = toy.run(lambda: method, DATA, 2)
    assert equal(half, again)
    assert equal(half, single) == (not asked), "what looks at pixels only has no half precision, all else has"
    assert all(value.dtype == torch.float32 for value in half.variables.values())
    assert half.losses == pytest.approx(single.losses, rel=0.1)
