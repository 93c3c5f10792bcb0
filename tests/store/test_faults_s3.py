"""S3 behind a proxy that fails: what may pass is tried again, the rest is one clear line, no half object appears."""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from raydd.errors import StoreError
from raydd.store import Folder, remote
from tests.s3 import Fault, Proxy

pytestmark = pytest.mark.s3
BIG = random.Random(1).randbytes((11 << 20) + 1)  # three parts of 5 MiB


def first(count: int, fault: Fault, when: Callable[[str, str], bool]) -> Callable[[str, str], Fault]:
    """Fail the first `count` requests for which `when(method, path)`."""
    left = [count]

    def decide(method: str, path: str) -> Fault:
        if not when(method, path) or left[0] == 0:
            return None
        left[0] -= 1
        return fault

    return decide


@pytest.fixture
def folder(proxy: Proxy, s3_url: str) -> Folder:
    folder = Folder(f"{s3_url}/{secrets.token_hex(6)}")
    folder.write("x", b"old")
    proxy.seen.clear()
    return folder


@pytest.mark.parametrize(
    "fault",
    [
        (503, "SlowDown"),
        (503, "ServiceUnavailable"),
        (500, "InternalError"),
        (502, ""),
        (409, "OperationAborted"),
    ],
)
def test_twice_a_fault_then_good(folder: Folder, proxy: Proxy, waits: list[float], fault: Fault) -> None:
    operations: list[Callable[[], object]] = [
        lambda: folder.write("y", b"new"),
        lambda: folder.read("y"),
        lambda: folder.size("y"),
        folder.list,
        folder.folders,
        lambda: folder.delete("x"),
        lambda: folder.create("lock", b"me"),
    ]
    done = []
    for operation in operations:
        proxy.fault = first(2, fault, lambda method, path: True)
        done.append(operation())
    assert done == [None, b"new", 3, ["x", "y"], [], None, True]
    assert waits == [0.5, 1.0] * len(operations)


def test_twice_a_dropped_connection_then_good(folder: Folder, proxy: Proxy, waits: list[float]) -> None:
    # The HTTP client itself tries once more on a new connection, so that one of our waits is enough.
    for operation, want in ((lambda: folder.read("x"), b"old"), (folder.list, ["x"]), (lambda: folder.size("x"), 3)):
        proxy.fault = first(2, "drop", lambda method, path: True)
        assert operation() == want
    assert set(waits) == {0.5}


def test_a_store_that_stays_broken_is_one_line(folder: Folder, proxy: Proxy, waits: list[float]) -> None:
    proxy.fault = lambda method, path: (503, "SlowDown")
    with pytest.raises(StoreError) as caught:
        folder.write("x", b"new")
    text = f"cannot write {folder.url}/x: made to fail, 6 times; check the network, the store and its endpoint"
    assert str(caught.value) == text
    assert len(proxy.seen) == 6
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0]


@pytest.mark.parametrize(
    ("fault", "advice"),
    [
        ((403, "AccessDenied"), "check that this user or key may do that here"),
        ((403, "InvalidAccessKeyId"), "check that this user or key may do that here"),
        ((404, "NoSuchBucket"), "create the bucket first or correct the URL"),
        ((501, "NotImplemented"), "check the URL and the store"),
    ],
)
def test_what_cannot_pass_fails_at_once(
    folder: Folder, proxy: Proxy, waits: list[float], fault: Fault, advice: str
) -> None:
    proxy.fault = lambda method, path: fault
    operations = {
        "write": lambda: folder.write("x", b"new"),
        "create": lambda: folder.create("y", b"new"),
        "read": lambda: folder.read("x"),
        "list": folder.list,
        "delete": lambda: folder.delete("x"),
    }
    for verb, operation in operations.items():
        with pytest.raises(StoreError, match=rf"^cannot {verb} .*{folder.url}.*: made to fail; {advice}$"):
            operation()
    assert waits == []
    proxy.fault = lambda method, path: None
    assert folder.list() == ["x"]
    assert folder.read("x") == b"old"


def test_no_such_bucket(s3_url: str) -> None:
    folder = Folder("s3://raydd-there-is-no-such-bucket/x")
    operations = (folder.list, folder.folders, lambda: folder.read("x"), lambda: folder.write("x", b""))
    for operation in operations:
        with pytest.raises(StoreError, match="create the bucket first or correct the URL"):
            operation()


def test_no_credentials(s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_") and name != "AWS_ENDPOINT_URL"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StoreError, match="Unable to locate credentials; set AWS_ACCESS_KEY_ID"):
        Folder(s3_url).read("x")


def test_nobody_listens(s3_url: str, waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match=r"Could not connect to the endpoint URL.*, 6 times; check the network"):
        Folder(s3_url).list()
    assert len(waits) == 5


@pytest.mark.parametrize("fault", [(403, "AccessDenied"), (500, "InternalError"), "drop"])
@pytest.mark.parametrize("step", ["uploads", "partNumber=2", "uploadId="])
def test_a_multipart_upload_that_fails_midway(
    folder: Folder, proxy: Proxy, tmp_path: Path, step: str, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "PART_BYTES", 5 << 20)
    monkeypatch.setenv("RAYDD_STORE_RETRIES", "1")
    source = tmp_path / "big"
    source.write_bytes(BIG)
    method = "PUT" if step.startswith("part") else "POST"
    proxy.fault = lambda verb, path: fault if verb == method and step in path else None
    for operation in (lambda: folder.write("x", BIG), lambda: folder.upload("x", source)):
        with pytest.raises(StoreError, match=f"cannot write {folder.url}/x"):
            operation()
        assert folder.read("x") == b"old"
        assert folder.list() == ["x"]


def test_a_multipart_upload_from_a_file(
    folder: Folder, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "PART_BYTES", 5 << 20)
    source = tmp_path / "big"
    source.write_bytes(BIG)
    folder.upload("x", source)
    assert [part for part in (1, 2, 3, 4) if any(f"partNumber={part}" in request for request in proxy.seen)] == [
        1,
        2,
        3,
    ]
    assert folder.read("x") == BIG


def test_a_part_that_fails_once_costs_a_second_try(
    folder: Folder, proxy: Proxy, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "PART_BYTES", 5 << 20)
    proxy.fault = first(1, (500, "InternalError"), lambda method, path: "partNumber=2" in path)
    folder.write("x", BIG)
    assert folder.read("x") == BIG
    assert waits == [0.5]


def test_a_put_whose_answer_is_lost(folder: Folder, proxy: Proxy) -> None:
    proxy.fault = first(1, "drop-answer", lambda method, path: method == "PUT")
    folder.write("x", b"new")
    assert folder.read("x") == b"new"
    for lost in (1, 2, 3):
        # It was ours, though the next try is told that the object exists.
        proxy.fault = first(lost, "drop-answer", lambda method, path: method == "PUT")
        assert folder.create(f"lock{lost}", b"me")
        # It is somebody else's, though it has the same contents.
        proxy.fault = first(lost, "drop-answer", lambda method, path: method == "PUT")
        assert not folder.create(f"lock{lost}", b"me")


def test_a_listing_that_fails_on_its_second_page(
    folder: Folder, proxy: Proxy, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{number}" for number in range(5)] + ["x"]
    for name in names[:-1]:
        folder.write(name, b"")
    fs = remote.filesystem("s3")
    call = fs._call_s3
    # Two keys a page, which the client has no option for.
    monkeypatch.setattr(
        fs, "_call_s3", lambda method, **kw: call(method, **kw, **({"MaxKeys": 2} if "list" in method else {}))
    )
    proxy.fault = lambda method, path: (403, "AccessDenied") if "continuation-token" in path else None
    with pytest.raises(StoreError, match="cannot list"):
        folder.list()
    proxy.fault = first(1, (500, "InternalError"), lambda method, path: "continuation-token" in path)
    assert folder.list() == names
    assert waits == [0.5]


def test_an_answer_that_is_cut_is_read_again(folder: Folder, proxy: Proxy, tmp_path: Path, waits: list[float]) -> None:
    data = BIG[:100_000]
    folder.write("y", data)
    reads: list[Callable[[], bytes]] = [
        lambda: folder.read("y"),
        lambda: folder.read("y", 10, 99_000),
        lambda: folder.read_ranges([("y", 0, 50_000), ("x", 0, 3), ("y", 50_000, 100_000)])[2],
        lambda: folder.open("y").read(),
    ]
    wanted = [data, data[10:99_000], data[50_000:], data]
    for read, want in zip(reads, wanted, strict=True):
        proxy.fault = first(1, "cut-answer", lambda method, path: method == "GET" and path.endswith("/y"))
        assert read() == want
    target = tmp_path / "y"
    proxy.fault = first(1, "cut-answer", lambda method, path: method == "GET" and path.endswith("/y"))
    folder.download("y", target)
    assert target.read_bytes() == data
    assert waits == [0.5] * 5


def test_only_the_ranges_that_failed_are_read_again(folder: Folder, proxy: Proxy) -> None:
    names = [f"n{number}" for number in range(6)]
    for name in names:
        folder.write(name, name.encode())
    proxy.seen.clear()
    proxy.fault = first(1, (503, "SlowDown"), lambda method, path: path.endswith("/n4"))
    assert folder.read_ranges([(name, 1, 2) for name in names]) == [b"0", b"1", b"2", b"3", b"4", b"5"]
    assert len(proxy.seen) == 7


def test_a_download_that_stays_cut_leaves_the_target(
    folder: Folder, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYDD_STORE_RETRIES", "1")
    target = tmp_path / "x"
    target.write_bytes(b"before")
    proxy.fault = lambda method, path: "cut-answer"
    with pytest.raises(StoreError, match="cannot download"):
        folder.download("x", target)
    assert target.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["x"]
