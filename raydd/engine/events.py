"""TensorBoard's event files, as far as scalars need them: written as bytes, so that they go to any store.

A file is a row of records: length (uint64), its checksum, data, its checksum (masked CRC-32C), little-endian. The data is a
protocol buffer `Event`: 1 wall_time double, 2 step int64, 3 file_version string, 5 summary, 7 session_log. tensorboardX could
write it, but only to local files, and importing it takes a second.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

VERSION = b"brain.Event:2"


def _table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_TABLE = _table()


def _checksum(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _record(event: bytes) -> bytes:
    length = struct.pack("<Q", len(event))
    return length + _checksum(length) + event + _checksum(event)


def _varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def _bytes(field: int, data: bytes) -> bytes:
    return bytes([field << 3 | 2]) + _varint(len(data)) + data


def _event(time: float, step: int, body: bytes) -> bytes:
    return b"\x09" + struct.pack("<d", time) + b"\x10" + _varint(step) + body


def header(time: float) -> bytes:
    """Return what an event file begins with.

    Args:
        time: Seconds since 1970.
    """
    return _record(b"\x09" + struct.pack("<d", time) + _bytes(3, VERSION))


def restart(time: float, step: int) -> bytes:
    """Return the record that tells a TensorBoard that is looking on to forget what it has seen from `step` on."""
    return _record(_event(time, step, _bytes(7, b"\x08\x01")))


def scalars(time: float, step: int, values: Mapping[str, float]) -> bytes:
    """Return the record of some scalars at a step >= 0."""
    summary = b"".join(
        _bytes(1, _bytes(1, name.encode()) + b"\x15" + struct.pack("<f", value)) for name, value in values.items()
    )
    return _record(_event(time, step, _bytes(5, summary)))


def event_file(time: float, records: Iterable[bytes]) -> bytes:
    """Return a whole file."""
    return header(time) + b"".join(records)
