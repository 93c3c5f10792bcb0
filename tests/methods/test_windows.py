"""Under a window every method asks for real images that its round sees, and for no others."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from raydd.data.plan import Windows
from tests.methods import toy
from tests.methods.toy import same_bits

DATA = toy.data(channels=3)
COUNTS = [len(ids) for ids in DATA.by_class]
WINDOWS = Windows(0, COUNTS, 4, 2)

pytestmark = pytest.mark.parametrize("name", toy.ITERATIVE)


def seen(round: int) -> set[int]:
    number = round // 2
    return {int(i) for c, ids in enumerate(DATA.by_class) for i in ids[WINDOWS.places(number, c)]}


def test_only_what_a_round_sees(name: str) -> None:
    method, asked = toy.make(name, DATA, windows=WINDOWS), set()
    for round in range(12):
        for slot in method.slots(round):
            ids = set(method.real_ids(round, slot).tolist())
            assert ids <= seen(round)
            asked |= ids
    assert len(asked) > 0.8 * len(DATA.labels), "windows move over the whole set"


def test_initial_images_come_from_the_whole_set(name: str) -> None:
    assert torch.equal(toy.make(name, DATA, windows=WINDOWS).init_ids(), toy.make(name, DATA).init_ids())


def test_two_workers_and_a_run_that_goes_on_in_the_middle_of_a_window_give_the_same_bits(name: str) -> None:
    build = partial(toy.make, name, DATA, windows=WINDOWS)
    middle = toy.run(build, DATA, 1)
    one = toy.run(build, DATA, 3, state=middle)
    other = toy.run(build, DATA, 3, workers=2, state=middle.stored())
    assert one.losses == other.losses
    assert same_bits(one, other)
    assert not same_bits(one.variables, toy.run(partial(toy.make, name, DATA), DATA, 3).variables)
