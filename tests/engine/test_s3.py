"""Shards, runs and artifacts in S3: the same bits as on a local disk, and read from there by anybody."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
import torch

import raydd
from raydd.catalogue import problems, show
from raydd.data.pack import pack
from raydd.pulling import pull
from raydd.store import Folder
from tests.engine.toys import bits, toy

pytestmark = pytest.mark.s3


@pytest.mark.ray
def test_from_shards_to_set_in_s3(
    method: str, undisturbed: dict[str, bytes], s3_url: str, ray_address: str, tmp_path: Path
) -> None:
    base = f"{s3_url}/{secrets.token_hex(4)}"
    pack("digits", f"{base}/shards/train")
    run = raydd.distill(toy(method, f"{base}/shards/train", f"{base}/runs", workers=2))
    assert bits(run.url) == undisturbed[method]
    assert problems(run.url) == []
    assert show(run.url)["state"] == "finished"
    ds = raydd.load(run.url)
    pull(run.url, str(tmp_path / "pulled"))
    assert torch.equal(raydd.load(str(tmp_path / "pulled")).images, ds.images)
    # Three lines of an ordinary training loop.
    (images, labels) = next(iter(ds.loader(batch_size=4)))
    assert images.shape == (4, 1, 8, 8)
    assert len(labels) == 4


def test_altered_set_in_s3_is_refused_by_name(
    digits: str, s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = f"{s3_url}/{secrets.token_hex(4)}"
    run = raydd.distill(toy("random", digits, store))
    artifact = Folder(run.artifact)
    data = bytearray(artifact.read("data.safetensors"))
    data[-1] ^= 1
    artifact.write("data.safetensors", bytes(data))
    # On a machine that has not read it before; this one has it from when it was whole.
    monkeypatch.setenv("RAYDD_CACHE", str(tmp_path))
    with pytest.raises(raydd.errors.IntegrityError, match=r"data\.safetensors"):
        raydd.load(run.url)
