"""JSON in one spelling, so that equal objects are equal bytes and have equal hashes."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from raydd.errors import IntegrityError


def to_json(obj: Any) -> bytes:
    """Return `obj` as ASCII JSON: sorted keys, indent 1, a newline at the end.

    Raises:
        ValueError: A number is NaN or infinite.
        TypeError: A value or key is nothing that JSON has.
    """
    return (json.dumps(obj, sort_keys=True, indent=1, allow_nan=False) + "\n").encode("ascii")


def from_json(data: bytes, where: str) -> Any:
    """Parse strict JSON (NaN and infinities refused).

    Args:
        data: UTF-8 bytes.
        where: What the bytes are, for the error, such as the file's URL.

    Raises:
        IntegrityError: The bytes are not JSON.
    """

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no JSON number")

    try:
        return json.loads(data.decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{where}: expected JSON, got {len(data)} bytes that are not ({error})") from error
