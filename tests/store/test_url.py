from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from raydd.config import load_config
from raydd.errors import ConfigError, StoreError
from raydd.store import Folder


@pytest.mark.parametrize("url", ["runs", "./runs/", "runs//", "x/../runs"])
def test_local_paths_become_absolute(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Folder(url)
    assert folder.is_local
    assert folder.url == str(tmp_path / "runs")
    assert folder.local_path == tmp_path / "runs"
    assert (folder.name, folder.parent.url) == ("runs", str(tmp_path))


def test_file_urls_and_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Folder(f"file://{tmp_path}/").url == str(tmp_path)
    assert Folder(tmp_path).url == str(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Folder("~/runs").url == str(tmp_path / "runs")
    assert Folder(str(tmp_path / "a:b")).name == "a:b"
    assert Folder("/").folder("x").url == "/x"


def test_remote_urls() -> None:
    folder = Folder("S3://Bucket/some/prefix//")
    assert (folder.url, folder.is_local, folder.name) == ("s3://Bucket/some/prefix", False, "prefix")
    assert folder.parent.parent.url == "s3://Bucket"
    assert folder.parent.parent.name == "Bucket"
    with pytest.raises(StoreError, match="has no folder above it"):
        _ = Folder("s3://Bucket").parent
    with pytest.raises(StoreError, match="expected a local folder, got s3://Bucket"):
        _ = Folder("s3://Bucket").local_path


@pytest.mark.parametrize(
    "url",
    [
        "",
        "pipe:cat /etc/passwd",
        "pipe://cat",
        "mnist:data",
        "nosuch://bucket/x",
        "file:relative",
        "file://host/x",
        "simplecache::s3://b/x",
        "zip://a.zip::s3://b",
        "zip://a.zip",
        "reference://x",
        "github://org:repo@main/x",
        "git://repo/x",
        "dask://x/y",
        "jupyter://host/x",
        "asynclocal:///etc",
        "s3://",
        "s3:///x",
        "s3://b/../c",
        "s3://b//c",
        "s3://b/a\nb",
        "memory://",
    ],
)
def test_what_is_no_folder_is_refused(url: str) -> None:
    with pytest.raises(StoreError) as caught:
        Folder(url)
    assert "\n" not in str(caught.value)
    assert "expected" in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["s3://key:hunter2@bucket/x", "s3://KEY:hun/ter2@bucket/x", "s3://key:hunter2@bucket//x", "s3://:hunter2@b"]
    + [
        "sftp://me:hunter2@host/x",
        "s3://key:hunter2@bucket::x",
        "simplecache::s3://k:hunter2@b/x",
        "nosuch://key:hunter2@x",
        "S3://a:hunter2@b/x",
    ]
    + ["https://host/x?X-Amz-Signature=hunter2", "http://host/x#hunter2", "file://a:hunter2@host/x"]
    + ["abfs://c@account.dfs.core.windows.net/x?sig=hunter2"],
)
def test_a_secret_in_a_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(StoreError, match=r"expected no (password|query) in a .*:// URL.*, got one; give") as caught:
        Folder(url)
    assert "ter2" not in str(caught.value)
    with pytest.raises(ConfigError) as told:
        load_config(f"{url}/c.yaml")
    assert "ter2" not in str(told.value)


@pytest.mark.parametrize(
    "url",
    ["sftp://me@host:22/x", "abfs://box@account.dfs.core.windows.net/x", "s3://arn:aws:s3:us-west-2:1:accesspoint/x"],
)
def test_users_ports_and_access_points_are_no_secrets(url: str) -> None:
    assert Folder(url).url == url


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_an_endpoint_with_a_password_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "http://key:hunter2@127.0.0.1:9")
    with pytest.raises(StoreError, match=f"{name} must be an address without a user or password") as caught:
        Folder("s3://bucket").exists("x")
    assert "hunter2" not in str(caught.value)


def test_a_scheme_that_cannot_be_opened_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args: object, **kwargs: object) -> None:
        raise ImportError("Please install gcsfs\nto access Google Storage")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(
        StoreError, match="cannot use gs:// URLs: Please install gcsfs to access Google Storage; install"
    ):
        Folder("gs://a/b").read("x")


def test_local_work_loads_no_client_torch_or_ray() -> None:
    code = (
        "import sys; from raydd.store import Folder; Folder(sys.argv[1]).size('x');"
        "print([m for m in ('torch', 'ray', 's3fs', 'botocore', 'fsspec', 'aiohttp') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code, "."], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
