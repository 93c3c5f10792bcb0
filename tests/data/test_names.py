from __future__ import annotations

import pytest

from raydd.data.arrays import CIFAR10
from raydd.data.names import PARTS, data_name

BIRDS = ("001.Black_footed_Albatross", *(f"{i:03d}.Bird" for i in range(2, 200)), "200.Common_Yellowthroat")


@pytest.mark.parametrize("part", list(PARTS))
def test_parts_of_imagenet_are_known_by_their_classes(part: str) -> None:
    positions, wnids = list(PARTS[part]), list(PARTS[part].values())
    assert len(set(positions)) == len(set(wnids)) == 10
    # Of ImageNet in the config's order, of ImageNet by position, and as class folders of their own.
    assert (
        data_name("imagenet", wnids) == data_name("imagenet", positions) == data_name("folder", sorted(wnids)) == part
    )
    assert data_name("imagenet", wnids[1:]) == data_name("imagenet", [*wnids, "n01443537"]) == "imagenet"


def test_birds_are_known_by_their_folders() -> None:
    assert data_name("folder", BIRDS) == "cub-200"
    assert data_name("folder", BIRDS[:100]) == "folder"
    assert data_name("folder", ("001.Some_bird", *BIRDS[1:])) == "folder"


def test_cifar10_is_known_as_class_folders() -> None:
    assert data_name("folder", reversed(CIFAR10)) == data_name("cifar10", CIFAR10) == "cifar10"
    assert data_name("folder", CIFAR10[:9]) == "folder"


def test_all_else_is_called_as_its_index_says() -> None:
    assert data_name("mnist", "0123456789") == "mnist"
    assert data_name("imagenet", [f"n{i:08d}" for i in range(1000)]) == "imagenet"
    assert data_name("anything", []) == "anything"
