"""What claims or has an absurd size costs one line, and no memory."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from raydd.config import load_config
from raydd.distilled import DistilledSet
from raydd.errors import ConfigError, DataError, IntegrityError
from raydd.store import Entry, Folder, Manifest, commit, limits, load_manifest, read_verified
from raydd.store.canonical import to_json
from raydd.store.manifest import _encode
from tests.sets import make_set


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "set") if request.param == "disk" else f"memory://{secrets.token_hex(6)}/set")


def test_a_record_that_is_too_large_is_not_read(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydd.store.folder.MOST_RECORD", 1000)
    commit(folder, {"a": b"a"}, meta={"much": "x" * 1000})
    with pytest.raises(IntegrityError, match=r"/manifest\.json: expected at most 1000 bytes, got more; it was altered"):
        load_manifest(folder)


@pytest.mark.parametrize("claimed", [10**12, 10**15, 2**70])
def test_a_claim_beyond_the_memory_is_refused_before_anything_is_read(folder: Folder, claimed: int) -> None:
    make_set().save(folder)
    manifest = load_manifest(folder)
    files = {**manifest.files, "data.safetensors": Entry(claimed, "0" * 64)}
    folder.write("manifest.json", _encode(Manifest(files, manifest.meta)))
    with pytest.raises(
        DataError, match=r"/data\.safetensors: expected at most [\d.]+ GiB, the memory that is free here"
    ):
        DistilledSet.load(folder.url)


def test_a_file_that_is_larger_than_its_claim_is_not_read_to_its_end(folder: Folder) -> None:
    manifest = commit(folder, {"a": b"1234"}, meta={})
    folder.write("a", b"x" * 10_000)
    with pytest.raises(IntegrityError, match="expected 4 bytes, got more"):
        read_verified(folder, manifest, "a")


def test_memory_is_that_of_machine_and_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_MEMINFO", "_CGROUP", "_OLD_CGROUP"):
        monkeypatch.setattr(limits, name, tmp_path / "none")
    assert limits.free_memory() is None
    limits.check_fits("x", 1 << 60)
    meminfo, group, old = tmp_path / "meminfo", tmp_path / "group", tmp_path / "old"
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable:  8 kB\n")
    monkeypatch.setattr(limits, "_MEMINFO", meminfo)
    monkeypatch.setattr(limits, "_CGROUP", group)
    monkeypatch.setattr(limits, "_OLD_CGROUP", old)
    assert limits.free_memory() == 8192
    old.mkdir()
    (old / "memory.limit_in_bytes").write_text("7000\n")
    (old / "memory.usage_in_bytes").write_text("2000\n")
    (old / "memory.stat").write_text("total_inactive_file 500\n")
    assert limits.free_memory() == 5500
    group.mkdir()
    for name, text in (
        ("memory.max", "6000"),
        ("memory.current", "5900"),
        ("memory.stat", "file 3\ninactive_file 100"),
    ):
        (group / name).write_text(text + "\n")
    assert limits.free_memory() == 200
    (group / "memory.max").write_text("max\n")
    (old / "memory.limit_in_bytes").unlink()
    assert limits.free_memory() == 8192


def test_a_config_that_is_too_large_or_stands_for_too_much(tmp_path: Path) -> None:
    bomb = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
    bomb += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
    for text, told in (
        ("#" * (1 << 20) + "\nname: a\n", "expected a config of at most 1048576 bytes"),
        (bomb, "expected a config of at most 100000 values, got aliases that stand for more"),
    ):
        (tmp_path / "c.yaml").write_text(text)
        with pytest.raises(ConfigError, match=told):
            load_config(str(tmp_path / "c.yaml"))
    (tmp_path / "c.yaml").write_bytes(to_json({"data": {"train": "x"}, "name": "a", "method": {"name": "dm"}}))
    assert load_config(f"file://{tmp_path}/c.yaml").name == "a"
