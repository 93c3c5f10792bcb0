"""What a URL may be: a plain path or one store's address, without a password, a command or a second URL in it."""

from __future__ import annotations

import os
import re

from raydd.errors import StoreError

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*):")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# `file` and `local` are handled apart. The others read inside a file or wrap a store, which one plain URL cannot say; or have
# another program do it (dask, dvc, git, jupyter, a browser); or are no stores for what raydd writes.
_NO_STORES = frozenset(
    ("asynclocal", "asyncwrapper", "async_wrapper", "blockcache", "cached", "dask", "data", "dir", "dvc", "file")
    + ("filecache", "generic", "gist", "git", "github", "jlab", "jupyter", "libarchive", "local", "pyscript")
    + ("reference", "simplecache", "tar", "wandb", "zip")
)
TMP_PREFIX = ".raydd-tmp-"


def check_name(name: str) -> str:
    """Return `name` if it is safe below a folder: relative, no empty, `.` or `..` part, no control character.

    Raises:
        StoreError: It is not.
    """
    parts = name.split("/")
    if any(part in ("", ".", "..") or part.startswith(TMP_PREFIX) for part in parts) or _CONTROL.search(name):
        raise StoreError(f"expected a relative file name without empty, '.' or '..' parts, got {name!r}")
    return name


def parse_url(url: str) -> tuple[str, str]:
    """Return (scheme, URL without trailing `/`); the scheme is empty and the URL an absolute path where local.

    Raises:
        StoreError: It is malformed, of a scheme that is no store's, chained (`::`), or carries a password or a key; what may be
            a secret is not repeated.
    """
    if not url or _CONTROL.search(url):
        raise StoreError(f"expected a path or URL such as runs or s3://bucket/prefix, got {url!r}")
    match = _SCHEME.match(url)
    scheme, rest = (match[1].lower(), url[match.end() :]) if match else ("", url)
    without_secrets(url)
    if "::" in url:
        raise StoreError(f"expected one URL, got the chained {url!r}; unpack it first and give the plain folder")
    if match is None:
        return "", os.path.abspath(os.path.expanduser(url))
    if scheme in ("file", "local") and rest.startswith("///"):
        return "", os.path.abspath(rest[2:])
    if not rest.startswith("//") or scheme not in _schemes():
        hint = "put ./ before a local path that has a colon"
        raise StoreError(
            f"expected a path, file:///path, s3://bucket/prefix or another fsspec URL, got {url!r}; {hint}"
        )
    body = rest[2:].rstrip("/")
    try:
        check_name(body)
    except StoreError:
        raise StoreError(f"expected {scheme}://bucket/prefix without empty, '.' or '..' parts, got {url!r}") from None
    return scheme, f"{scheme}://{body}"


def without_secrets(url: str) -> str:
    """Return a URL, or whatever else has URLs in it, if none of them carries a password or a key.

    Raises:
        StoreError: One does; it is not repeated.
    """
    before, *bodies = url.split("://")
    for body in bodies:
        _check_secrets(re.split(r"[:,]", before)[-1].lower(), body)
        before = body
    return url


def _check_secrets(scheme: str, body: str) -> None:
    host = body.partition("/")[0]
    named, _, port = host.rpartition(":")
    # A key may hold a slash, so that the `@` stands behind what looks like the host.
    arn = host.startswith("arn:") and "@" not in body
    if ":" in host.rpartition("@")[0] or (named and not port.isdecimal() and not arn):
        raise StoreError(f"expected no password in a {scheme}:// URL, got one; give credentials by the environment")
    if "?" in body or (scheme in ("http", "https") and "#" in body):
        raise StoreError(
            f"expected no query in a {scheme}:// URL, as it may carry a key, got one; give the plain address"
        )


def check_endpoints() -> None:
    """Refuse an S3 endpoint with a user name or password in it: it is told to workers, and stands in errors.

    Raises:
        StoreError: AWS_ENDPOINT_URL or AWS_ENDPOINT_URL_S3 has one; it is not repeated.
    """
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        if "@" in os.environ.get(name, ""):
            raise StoreError(
                f"{name} must be an address without a user or password, got one with; set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY instead"
            )


def _schemes() -> set[str]:
    import fsspec

    return set(fsspec.available_protocols()) - _NO_STORES
