"""What a storage fault means, and trying again where that can help.

This is the only layer that retries: the S3 client's own retries are switched off, so that the bound below holds and a
create-if-absent knows whether its first try may have reached the store.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

from raydd.errors import StoreError, StoreFault

T = TypeVar("T")
log = logging.getLogger(__name__)

RETRIES = 5
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
sleep: Callable[[float], None] = time.sleep  # tests put their own here

_TRANSIENT_ERRNO = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.ECONNABORTED,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTUNREACH,
    errno.EINTR,
    errno.ENETDOWN,
    errno.ENETRESET,
    errno.ENETUNREACH,
    errno.EPIPE,
    errno.EREMOTEIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
}
# BadDigest and its like mean that the body was damaged on its way.
_TRANSIENT_CODES = {
    "BadDigest",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "InternalError",
    "OperationAborted",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "XAmzContentSHA256Mismatch",
}
_TRANSIENT_STATUS = {408, 409, 429, 500, 502, 503, 504}
# By name: botocore and aiohttp are only loaded where an object store is used.
_TRANSIENT_CLASSES = {
    "ClientConnectionError",
    "ClientPayloadError",
    "ConnectionError",
    "HTTPClientError",
    "IncompleteRead",
    "IncompleteReadError",
    "ResponseParserError",
    "TimeoutError",
}
_CREDENTIAL_CLASSES = {
    "CredentialRetrievalError",
    "NoAuthTokenError",
    "NoCredentialsError",
    "PartialCredentialsError",
    "ProfileNotFound",
    "SSOError",
    "TokenRetrievalError",
}
_ADVICE_ERRNO = {
    errno.ENOSPC: "free some space and run the same command again",
    errno.EDQUOT: "free some of the quota and run the same command again",
    errno.EFBIG: "raise the limit on the size of files (`ulimit -f`) and run the same command again",
    errno.EROFS: "choose a folder that can be written",
    errno.ENOTDIR: "a file stands where a folder is needed; choose another folder",
    errno.EISDIR: "a folder stands where a file is needed; choose another folder",
}


def answer(error: BaseException | None) -> tuple[str, int]:
    """Return (error code, HTTP status) of the S3 answer behind `error`, ("", 0) where there is none."""
    while error is not None:
        response: Any = getattr(error, "response", None)
        if isinstance(response, dict):
            code = str(response.get("Error", {}).get("Code", ""))
            return code, int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        error = error.__cause__
    return "", 0


def is_absent(error: BaseException) -> bool:
    """Say whether `error` means that this file is not there, in a store that is."""
    return isinstance(error, FileNotFoundError) and answer(error)[0] != "NoSuchBucket"


def is_transient(error: BaseException) -> bool:
    """Say whether the same request may succeed a little later."""
    code, status = answer(error)
    if code or status:
        return code in _TRANSIENT_CODES or status in _TRANSIENT_STATUS
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _TRANSIENT_ERRNO
    return bool(_TRANSIENT_CLASSES & _class_names(error))


def advice(error: BaseException) -> str:
    """Return what the user can do about a fault that trying again does not mend."""
    code, _ = answer(error)
    if code == "NoSuchBucket":
        return "create the bucket first or correct the URL"
    if _CREDENTIAL_CLASSES & _class_names(error):
        return "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give this machine a role"
    if isinstance(error, PermissionError):
        return "check that this user or key may do that here"
    if isinstance(error, OSError) and error.errno in _ADVICE_ERRNO:
        return _ADVICE_ERRNO[error.errno]
    return "check the URL and the store"


def call(operation: Callable[[], T], what: str, faults: tuple[type[Exception], ...]) -> T:
    """Run `operation`, again where the fault may pass: up to 5 more times, 0.5, 1, 2, 4, 8 s apart.

    Args:
        operation: What to do; it must be harmless to do twice.
        what: What it is, for the error, such as `cannot read s3://b/x`.
        faults: The exception classes by which the store's client reports a fault.

    Returns:
        What `operation` returns.

    Raises:
        FileNotFoundError: The file is not there; the message is `what`.
        StoreError: Trying again cannot help.
        StoreFault: All tries are used up.
    """
    retries = _retries()
    for attempt in range(retries + 1):
        try:
            return operation()
        except faults as error:
            if is_absent(error):
                raise FileNotFoundError(f"{what}: no such file") from error
            if not is_transient(error):
                raise StoreError(f"{what}: {_cause(error)}; {advice(error)}") from error
            if attempt == retries:
                hint = "check the network, the store and its endpoint"
                raise StoreFault(f"{what}: {_cause(error)}, {attempt + 1} times; {hint}") from error
            log.debug("%s: %s; trying again", what, _cause(error))
            sleep(min(FIRST_WAIT_S * 2.0**attempt, LONGEST_WAIT_S))
    raise AssertionError("unreachable")


def _retries() -> int:
    text = os.environ.get("RAYDD_STORE_RETRIES", str(RETRIES))
    if not text.isdecimal() or int(text) > 100:
        raise StoreError(f"RAYDD_STORE_RETRIES must be a whole number from 0 to 100, got {text!r}")
    return int(text)


def _class_names(error: BaseException) -> set[str]:
    return {cls.__name__ for cls in type(error).__mro__}


def _cause(error: BaseException) -> str:
    # An OSError of the operating system carries a path that `what` has named already.
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:300].rstrip(".") or type(error).__name__
