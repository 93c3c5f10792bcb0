"""Addressed memories as users meet them: recall by class, by query, from several memories, after a trip through the store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raydd.data.transforms import Transform
from raydd.distilled import DistilledSet, Recipe
from raydd.errors import DataError, UserError
from raydd.functional.memory import recall
from raydd.memories import join
from raydd.seeding import generator
from raydd.store import Folder

K, R, EDGE = 3, 4, 6


def memory(*classes: str, seed: int = 0) -> DistilledSet:
    gen = generator(seed, "memory")
    bases = torch.randn(K, 1, EDGE // 2, EDGE // 2, generator=gen)
    addresses = torch.randn(len(classes), R, K, generator=gen)
    transform = Transform(torch.tensor([0.1]), torch.tensor([0.3]))
    recipe = Recipe(
        name=f"memory-{seed}",
        method="rtp",
        paper="none",
        config={"method": {"name": "rtp", "ipc": 1}},
        classes=classes,
        label_kind="hard",
        label_convention="as made",
        protocol="rtp",
        augmentation=None,
        transform=transform.to_json(),
        index_hash="0" * 64,
        rounds=1,
        versions={},
    )
    return DistilledSet(
        images=recall(bases, addresses, torch.eye(len(classes)), 2).flatten(0, 1),
        labels=torch.arange(len(classes)).repeat_interleave(R),
        recipe=recipe,
        preprocessing=transform,
        extras={"bases": bases, "addresses": addresses},
    )


def written_out(ds: DistilledSet, query: Tensor) -> Tensor:
    """y^T A_i B of every address, one by one, enlarged by torch's own interpolation."""
    rows = []
    for i in range(R):
        matrix = ds.extras["addresses"][:, i]
        rows.append((query @ matrix @ ds.extras["bases"].flatten(1)).view(1, EDGE // 2, EDGE // 2))
    return F.interpolate(torch.stack(rows), scale_factor=2, mode="bilinear", align_corners=False)


def test_classes_by_name_and_index() -> None:
    ds = memory("cat", "dog", "owl")
    images = ds.recall(["owl", 0])
    assert images.shape == (2, R, 1, EDGE, EDGE)
    assert torch.equal(images[0], ds.images[ds.labels == 2])
    assert torch.equal(images[1], ds.images[ds.labels == 0])


def test_queries_mix_classes() -> None:
    ds = memory("cat", "dog", "owl")
    queries = torch.tensor([[0.5, 0.5, 0.0], [-1.0, 2.0, 0.25]])
    images = ds.recall(queries)
    for query, recalled in zip(queries, images, strict=True):
        assert torch.allclose(recalled, written_out(ds, query), atol=1e-5)
    halves = (ds.images[ds.labels == 0] + ds.images[ds.labels == 1]) / 2
    assert torch.allclose(images[0], halves, atol=1e-6)


def test_a_memory_may_be_addressed_by_vectors_that_are_no_classes() -> None:
    """Seven features a query: the addresses then have seven rows each, whatever the classes are."""
    ds = memory("cat", "dog", "owl")
    addresses = torch.randn(7, R, K, generator=generator(1, "features"))
    ds = replace(ds, extras={**ds.extras, "addresses": addresses})
    query = torch.randn(7, generator=generator(2, "features"))
    assert torch.allclose(ds.recall(query[None])[0], written_out(ds, query), atol=1e-5)
    with pytest.raises(DataError, match=r"query vectors of shape \(m, 7\), got torch.float32 \(1, 3\)"):
        ds.recall(torch.ones(1, 3))
    with pytest.raises(DataError, match="got classes; this memory is not addressed by them"):
        ds.recall(["cat"])


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        (["cow"], "expected one of the set's 3 classes by name or index, got 'cow'"),
        ([3], "got 3"),
        ([-1], "got -1"),
        (torch.ones(3), r"query vectors of shape \(m, 3\), got torch.float32 \(3,\)"),
        (torch.tensor([[0, 1, 0]]), r"query vectors .* got torch.int64 \(1, 3\)"),
    ],
)
def test_what_is_no_query_is_refused(queries: list[str | int] | Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        memory("cat", "dog", "owl").recall(queries)


def test_a_set_of_images_is_no_memory() -> None:
    ds = replace(memory("cat", "dog"), extras={})
    with pytest.raises(UserError, match="recall needs an addressed memory"):
        ds.recall(["cat"])


def test_a_memory_takes_the_storage_of_its_tables() -> None:
    ds = memory("cat", "dog")
    assert ds.storage_bytes == 4 * (K * 9 + 2 * R * K)
    assert replace(ds, extras={}).storage_bytes == 2 * R * (4 * EDGE * EDGE + 8)


def test_a_memory_survives_the_store(tmp_path: Path) -> None:
    ds = memory("cat", "dog")
    ds.save(Folder(str(tmp_path / "set")))
    back = DistilledSet.load(str(tmp_path / "set"))
    assert back.is_memory
    assert torch.equal(back.recall(["dog"]), ds.recall(["dog"]))


def test_classes_of_several_memories_together() -> None:
    pets, birds = memory("cat", "dog"), memory("owl", "jay", "emu", seed=1)
    both = join([pets, birds], ["emu", "cat"])
    assert both.classes == ("emu", "cat")
    assert both.labels.tolist() == [0] * R + [1] * R
    assert torch.equal(both.images, torch.cat([birds.recall(["emu"])[0], pets.recall(["cat"])[0]]))
    assert not both.is_memory
    whole = join([pets, birds])
    assert whole.classes == ("cat", "dog", "owl", "jay", "emu")
    assert len(whole) == 5 * R


def test_sets_that_do_not_go_together_are_refused() -> None:
    pets, birds = memory("cat", "dog"), memory("owl", "dog", seed=1)
    with pytest.raises(DataError, match="expected every class once, got 'dog' in 2 of 2 sets"):
        join([pets, birds])
    assert join([pets, birds], ["cat", "owl"]).classes == ("cat", "owl")
    with pytest.raises(DataError, match="got 'cow' in 0 of 2 sets"):
        join([pets, birds], ["cow"])
    with pytest.raises(DataError, match="got 'cat' in 1 of 2 sets"):
        join([pets, birds], ["cat", "cat"])
    other = Transform(torch.tensor([0.2]), torch.tensor([0.3]))
    with pytest.raises(DataError, match="one normalisation, got memory-1 unlike memory-0"):
        join([pets, replace(birds, preprocessing=other)], ["cat", "owl"])
    with pytest.raises(DataError, match="hard labels"):
        join([pets, replace(birds, labels=torch.eye(2).repeat_interleave(R, 0))], ["cat", "owl"])
