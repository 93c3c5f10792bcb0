"""Encoded images to uint8 arrays and back: one decoder for packing and reading, so that both see the same pixels."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

from raydd.errors import DataError

#: What may be stored in a shard as it is; anything else is stored as PNG.
EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
#: Names that count as images in folders and tars.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff")
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF")
_GREY = ("1", "L", "LA")
_MODES = (*_GREY, "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
_MAX_PIXELS = 89_478_485  # PIL's own limit before it warns of a decompression bomb
_PNG_LEVEL = 6
#: Everything PIL's decoders are known to raise on damaged files.
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


def open_image(data: bytes | memoryview, where: str) -> Image.Image:
    """Open an encoded image without decoding it.

    Args:
        data: The file's bytes.
        where: What to call it in an error.

    Raises:
        DataError: It is no image of a known format, too large, or of a pixel type with more than 8 bits.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except _DECODE_ERRORS as error:
        raise DataError(f"{where}: expected an image, got one that does not decode ({_short(error)})") from error
    if image.width * image.height > _MAX_PIXELS:
        raise DataError(f"{where}: expected at most {_MAX_PIXELS} pixels, got {image.width}x{image.height}")
    if image.mode not in _MODES:
        raise DataError(f"{where}: expected 8 bits a channel, got mode {image.mode}: convert it first")
    return image


def is_grey(image: Image.Image) -> bool:
    """Return whether the image has one channel (alpha aside)."""
    return image.mode in _GREY


def convert(image: Image.Image, channels: int, where: str) -> Image.Image:
    """Return the image as grey (`channels` 1) or RGB (3); alpha is dropped, orientation tags are ignored.

    Raises:
        DataError: It does not decode, or it has colours where grey is expected.
    """
    if channels == 1 and not is_grey(image):
        raise DataError(f"{where}: expected a grey image like the set's first ones, got mode {image.mode}: convert it")
    try:
        if image.mode in ("P", "PA"):
            image = image.convert("RGBA")
        return image.convert("L" if channels == 1 else "RGB")
    except _DECODE_ERRORS as error:
        raise DataError(f"{where}: expected an image, got one that does not decode ({_short(error)})") from error


def decode(data: bytes | memoryview, channels: int, size: int, where: str) -> np.ndarray:
    """Decode a square image of known size.

    Returns:
        uint8 `(size, size, channels)`.

    Raises:
        DataError: It does not decode or has another size; the size is checked before anything is decoded.
    """
    image = open_image(data, where)
    if image.size != (size, size):
        raise DataError(f"{where}: expected {size}x{size} pixels, got {image.width}x{image.height}: give --size")
    return np.asarray(convert(image, channels, where)).reshape(size, size, channels)


def resize(image: Image.Image, size: int) -> Image.Image:
    """Return the central square of the image at `size` x `size` pixels.

    The one rule: the largest centred square is resampled, by PIL's BOX filter (the mean over each pixel's area)
    where it shrinks to half or less, else by BICUBIC. For a square image this is plain resizing; for others it is
    resizing the shorter side and cropping the centre, in one step.
    """
    edge = min(image.size)
    left, top = (image.width - edge) / 2, (image.height - edge) / 2
    method = Image.Resampling.BOX if edge >= 2 * size else Image.Resampling.BICUBIC
    return image.resize((size, size), method, box=(left, top, left + edge, top + edge))


def to_image(pixels: np.ndarray) -> Image.Image:
    """Return a PIL image of uint8 pixels `(H, W)`, `(H, W, 1)` or `(H, W, 3)`."""
    return Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)


def encode_png(image: Image.Image) -> bytes:
    """Return the image as PNG, with fixed settings so that equal pixels give equal bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=_PNG_LEVEL)
    return buffer.getvalue()


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
