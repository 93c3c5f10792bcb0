from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from raydd.errors import IntegrityError, StoreError
from raydd.store import Entry, Folder, Manifest, commit, digest, load_manifest, read_verified, to_json, verify

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
FILES = {"variables.bin": b"abc", "slots/0.bin": b"", "slots/1.bin": b"x" * 3_000_000}


def test_digest() -> None:
    assert digest(b"abc") == Entry(3, ABC)


def test_commit_and_read_back(folder: Folder) -> None:
    with pytest.raises(FileNotFoundError):
        load_manifest(folder)
    manifest = commit(folder, FILES, meta={"round": 7, "note": None})
    assert load_manifest(folder) == manifest == Manifest({k: digest(v) for k, v in FILES.items()}, manifest.meta)
    assert manifest.meta == {"round": 7, "note": None}
    assert {name: read_verified(folder, manifest, name) for name in manifest.files} == FILES
    assert verify(folder, manifest) == []
    assert folder.list() == ["manifest.json", "slots/0.bin", "slots/1.bin", "variables.bin"]


def test_the_file_is_as_specified(folder: Folder) -> None:
    commit(folder, {"a": b"abc"}, meta={"round": 1}, name="index.json")
    body = json.loads(folder.read("index.json"))
    claimed = body.pop("sha256")
    assert body == {"files": {"a": {"sha256": ABC, "size": 3}}, "format": "raydd-manifest-1", "meta": {"round": 1}}
    # The hash, by a JSON writer of its own.
    text = (
        '{\n "files": {\n  "a": {\n   "sha256": "HEX",\n   "size": 3\n  }\n },\n'
        ' "format": "raydd-manifest-1",\n "meta": {\n  "round": 1\n }\n}\n'
    ).replace("HEX", ABC)
    assert claimed == hashlib.sha256(text.encode()).hexdigest()


def test_files_of_others_are_listed_once_they_are_there(folder: Folder) -> None:
    theirs = {"slot-1": digest(b"theirs")}
    with pytest.raises(IntegrityError, match=r"slot-1: expected 6 bytes, got no file"):
        commit(folder, {"mine": b"1"}, entries=theirs, meta={})
    folder.write("slot-1", b"half")
    with pytest.raises(IntegrityError, match=r"slot-1: expected 6 bytes, got 4"):
        commit(folder, {"mine": b"1"}, entries=theirs, meta={})
    assert folder.list() == ["slot-1"]
    folder.write("slot-1", b"theirs")
    manifest = commit(folder, {"mine": b"1"}, entries=theirs, meta={})
    assert sorted(manifest.files) == ["mine", "slot-1"]
    assert verify(folder, manifest) == []


@pytest.mark.parametrize(
    ("files", "entries", "meta", "error"),
    [
        ({"a": b""}, {"a": digest(b"")}, {}, StoreError),
        ({"manifest.json": b""}, {}, {}, StoreError),
        ({"../a": b""}, {}, {}, StoreError),
        ({"a": b""}, {}, {"loss": float("nan")}, ValueError),
        ({"a": b""}, {}, {"what": object()}, TypeError),
    ],
)
def test_what_cannot_be_committed_writes_nothing(
    folder: Folder, files: dict[str, bytes], entries: dict[str, Entry], meta: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        commit(folder, files, entries=entries, meta=meta)
    assert folder.list() == []


@pytest.mark.parametrize("broken", range(8))
def test_no_manifest_when_any_operation_fails(folder: Folder, broken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit makes six store operations; each fails in turn, the last numbers being no failure at all."""
    folder.write("slot", b"theirs")
    count = [0]

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*args: Any, **kwargs: Any) -> Any:
            count[0] += 1
            if count[0] == broken + 1:
                raise StoreError("made to fail")
            return real(*args, **kwargs)

        return operation

    for name in ("write", "size", "read", "delete"):
        monkeypatch.setattr(Folder, name, counted(getattr(Folder, name)))
    if broken < 6:
        with pytest.raises(StoreError, match="made to fail"):
            commit(folder, FILES, entries={"slot": digest(b"theirs")}, meta={})
        monkeypatch.undo()
        with pytest.raises(FileNotFoundError):
            load_manifest(folder)
    else:
        commit(folder, FILES, entries={"slot": digest(b"theirs")}, meta={})
        assert count == [6]


def test_writing_the_same_again_keeps_the_manifest_throughout(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(folder, {"a": b"1", "b": b"2"}, meta={"generation": 1})
    write = Folder.write

    def watched(self: Folder, name: str, data: bytes) -> None:
        assert load_manifest(self).meta == {"generation": 1}
        write(self, name, data)

    monkeypatch.setattr(Folder, "write", watched)
    commit(folder, {"a": b"1", "b": b"2"}, meta={"generation": 2})
    assert load_manifest(folder).meta == {"generation": 2}


@pytest.mark.parametrize("damage", [None, b"{}"])
def test_writing_other_contents_withdraws_the_manifest_first(
    folder: Folder, damage: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(folder, {"a": b"1", "b": b"2"}, meta={})
    if damage:
        folder.write("manifest.json", damage)
    write = Folder.write

    def fails_on_b(self: Folder, name: str, data: bytes) -> None:
        assert not self.exists("manifest.json")
        if name == "b":
            raise StoreError("made to fail")
        write(self, name, data)

    monkeypatch.setattr(Folder, "write", fails_on_b)
    with pytest.raises(StoreError, match="made to fail"):
        commit(folder, {"a": b"one", "b": b"two"}, meta={})
    with pytest.raises(FileNotFoundError):
        load_manifest(folder)


def test_damage_is_named(folder: Folder) -> None:
    manifest = commit(folder, {"a": b"abc", "b": b"abc", "c": b"abc", "d": b"abc", "e": b""}, meta={})
    folder.write("a", b"ab")
    folder.write("b", b"abcd")
    folder.write("c", b"xyz")
    folder.delete("d")
    other = hashlib.sha256(b"xyz").hexdigest()
    assert verify(folder, manifest) == [
        f"{folder.url}/a: expected 3 bytes, got 2: truncated",
        f"{folder.url}/b: expected 3 bytes, got more",
        f"{folder.url}/c: altered, expected sha256 {ABC}, got {other}",
        f"{folder.url}/d: missing, expected 3 bytes",
    ]
    for name, text in {
        "a": "a: expected 3 bytes, got 2: truncated",
        "b": "b: expected 3 bytes, got more",
        "c": f"c: expected sha256 {ABC}, got {other}: the file has been altered",
        "d": "d: expected 3 bytes, got no file",
        "f": "f: expected a file that the manifest lists",
    }.items():
        with pytest.raises(IntegrityError, match=f"{folder.url}/{text}"):
            read_verified(folder, manifest, name)
    assert read_verified(folder, manifest, "e") == b""


def test_any_flipped_byte_of_a_manifest_is_found(tmp_path: Any) -> None:
    folder = Folder(tmp_path)
    commit(folder, {"a": b"abc"}, meta={"round": 1})
    good = folder.read("manifest.json")
    accepted, texts = [], []
    for place in range(len(good)):
        bad = bytearray(good)
        bad[place] ^= 1
        (tmp_path / "manifest.json").write_bytes(bad)
        try:
            load_manifest(folder)
            accepted.append(place)
        except IntegrityError as error:
            texts.append(str(error))
    assert all(text.startswith(f"{folder.url}/manifest.json: expected") for text in texts)
    # White space between tokens is no content: a flip of it alone may pass.
    assert all(good[place : place + 1].isspace() for place in accepted)
    (tmp_path / "manifest.json").write_bytes(good[:-9])
    with pytest.raises(IntegrityError, match="expected JSON"):
        load_manifest(folder)


def signed(**changes: Any) -> bytes:
    """A manifest with a right hash over wrong contents."""
    body = {"format": "raydd-manifest-1", "files": {"a": {"size": 3, "sha256": ABC}}, "meta": {}}
    body = {key: value for key, value in {**body, **changes}.items() if value is not ...}
    return to_json({**body, "sha256": hashlib.sha256(to_json(body)).hexdigest()})


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"[]", "expected a manifest of format raydd-manifest-1"),
        (b'{"files": {}}', "expected a manifest of format raydd-manifest-1"),
        (signed(format="raydd-manifest-2"), "expected a manifest of format raydd-manifest-1"),
        (signed(meta=...), "expected the fields files, format, meta and sha256"),
        (signed(meta=[]), "expected the fields"),
        (signed(files=[]), "expected the fields"),
        (signed(extra=1), "expected the fields"),
        (signed(files={"../a": {"size": 3, "sha256": ABC}}), "expected a relative file name"),
        (signed(files={"/etc/passwd": {"size": 3, "sha256": ABC}}), "expected a relative file name"),
        (signed(files={"a": [3, ABC]}), "expected size and sha256 for a"),
        (signed(files={"a": {"size": 3}}), "expected size and sha256 for a"),
        (signed(files={"a": {"size": -1, "sha256": ABC}}), "expected a size >= 0 for a, got -1"),
        (signed(files={"a": {"size": 3.0, "sha256": ABC}}), "expected a size >= 0"),
        (signed(files={"a": {"size": True, "sha256": ABC}}), "expected a size >= 0"),
        (signed(files={"a": {"size": 3, "sha256": ABC.upper()}}), "expected 64 hex digits"),
        (signed(files={"a": {"size": 3, "sha256": None}}), "expected 64 hex digits"),
    ],
)
def test_hostile_manifests_are_refused(tmp_path: Any, data: bytes, text: str) -> None:
    folder = Folder(tmp_path)
    folder.write("manifest.json", data)
    with pytest.raises(IntegrityError, match=f"^{folder.url}/manifest.json: {text}"):
        load_manifest(folder)
