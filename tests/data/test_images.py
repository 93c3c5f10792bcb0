from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from raydd.data import images
from raydd.errors import DataError
from tests.data.makers import encoded, pixels


def claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be huge."""
    body = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", body), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    packed = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def test_png_round_trip_is_lossless_and_repeatable() -> None:
    for channels in (1, 3):
        array = pixels(3, 5, 5, channels)
        data = images.encode_png(images.to_image(array))
        assert data == images.encode_png(images.to_image(array))
        np.testing.assert_array_equal(images.decode(data, channels, 5, "x"), array.reshape(5, 5, channels))


def test_grey_becomes_three_equal_channels_but_colour_never_grey() -> None:
    grey = pixels(0, 4, 4, 1)
    got = images.decode(encoded(grey), 3, 4, "x")
    np.testing.assert_array_equal(got, np.repeat(grey[..., None], 3, axis=2))
    with pytest.raises(DataError, match=r"^x: expected a grey image .* got mode RGB"):
        images.decode(encoded(pixels(0, 4, 4, 3)), 1, 4, "x")


@pytest.mark.parametrize("mode", ["1", "P", "RGBA", "LA", "CMYK"])
def test_other_modes_become_rgb(mode: str) -> None:
    image = Image.fromarray(np.full((4, 4, 3), 255, np.uint8)).convert(mode)
    assert images.convert(image, 3, "x").mode == "RGB"
    assert np.asarray(images.convert(image, 3, "x")).min() == 255


def test_sixteen_bits_are_refused() -> None:
    with pytest.raises(DataError, match=r"^x: expected 8 bits a channel, got mode I;16"):
        images.open_image(encoded(np.zeros((4, 4), np.uint16)), "x")


def test_resize_takes_the_central_square() -> None:
    wide = np.zeros((4, 8, 3), np.uint8)
    wide[:, 2:6] = 200
    assert np.asarray(images.resize(Image.fromarray(wide), 4)).min() == 200
    assert np.asarray(images.resize(Image.fromarray(wide.transpose(1, 0, 2)), 4)).min() == 200


def test_resize_by_half_is_the_mean_of_each_area() -> None:
    array = pixels(1, 8, 8, 3)
    means = array.reshape(4, 2, 4, 2, 3).astype(float).mean(axis=(1, 3))
    got = np.asarray(images.resize(Image.fromarray(array), 4)).astype(float)
    assert np.abs(got - means).max() <= 1  # PIL rounds once an axis


def test_exif_orientation_is_ignored() -> None:
    image, exif, buffer = Image.fromarray(pixels(0, 8, 8, 3)), Image.Exif(), io.BytesIO()
    exif[0x0112] = 6  # rotate by 90 degrees
    image.save(buffer, "PNG", exif=exif)
    np.testing.assert_array_equal(images.decode(buffer.getvalue(), 3, 8, "x"), pixels(0, 8, 8, 3))


@pytest.mark.parametrize("size", [(30_000, 30_000), (10_000, 10_000)])
def test_decompression_bombs_are_refused_before_decoding(size: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=r"^x: expected"):
        images.open_image(claims(*size), "x")


def test_size_is_checked_before_decoding() -> None:
    with pytest.raises(DataError, match=r"^x: expected 4x4 pixels, got 9000x9000"):
        images.decode(claims(9000, 9000), 3, 4, "x")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_damaged_images_are_data_errors(format: str) -> None:
    data = encoded(pixels(0, 32, 32, 3), format)
    for end in range(0, len(data) - 30, max(1, len(data) // 40)):
        with pytest.raises(DataError, match=r"^x: expected"):
            images.decode(data[:end], 3, 32, "x")
    with pytest.raises(DataError, match=r"^x: expected an image, got one that does not decode"):
        images.decode(b"not an image", 3, 32, "x")
    with pytest.raises(DataError, match=r"^x: expected an image"):
        images.decode(b"%!PS-Adobe-3.0 EPSF-3.0\n", 3, 32, "x")
