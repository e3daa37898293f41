"""Encodings that Pillow hands on as the file has them: inverted, keyed transparent, or with a channel nobody filled."""

from __future__ import annotations

import io
import struct

import numpy as np
import numpy.typing as npt
from pictures import png, png_chunk
from PIL import Image

from mmsearch.images import decode_image
from mmsearch.types import Preprocess

WIDTH, HEIGHT = 96, 64
PREPROCESS = Preprocess(HEIGHT, WIDTH)
GREY = np.add.outer(np.arange(HEIGHT), np.arange(WIDTH)).astype(np.uint8)
COLOURS = np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1)


def levels(data: bytes) -> npt.NDArray[np.uint8]:
    """The decoded picture (height, width, 3), which has the size the model takes."""
    return decode_image(data, PREPROCESS).pixels.transpose(1, 2, 0)


def test_16_bit_tiff_in_which_white_is_zero_is_no_negative() -> None:
    pixels = (65535 - GREY.astype("<u2") * 257).tobytes()
    fields = [(256, WIDTH), (257, HEIGHT), (258, 16), (259, 1), (262, 0), (273, 0), (277, 1), (278, HEIGHT)]
    fields.append((279, len(pixels)))
    start = 8 + 2 + 12 * len(fields) + 4
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, start if tag == 273 else value) for tag, value in fields)
    data = b"II*\0" + struct.pack("<IH", 8, len(fields)) + directory + bytes(4) + pixels
    assert np.array_equal(levels(data), np.repeat(GREY[..., np.newaxis], 3, axis=2))


def test_transparent_level_of_a_16_bit_png_is_white() -> None:
    hidden = 12345
    stored = np.where(GREY < 50, hidden, GREY.astype(np.uint16) * 257).astype(np.uint16)

    data = png(stored, 0)
    data = data[:33] + png_chunk(b"tRNS", struct.pack(">H", hidden)) + data[33:]
    assert np.array_equal(levels(data)[..., 0], np.where(GREY < 50, 255, GREY))


def test_transparent_colour_of_a_16_bit_png_is_white() -> None:
    hidden = (12345, 54321, 777)
    stored = COLOURS.astype(np.uint16) * 257
    stored[10:20] = hidden
    data = png(stored, 2)
    data = data[:33] + png_chunk(b"tRNS", struct.pack(">3H", *hidden)) + data[33:]
    expected = COLOURS.copy()
    expected[10:20] = 255
    assert np.array_equal(levels(data), expected)


def bmp(alpha: int) -> bytes:
    """A 32-bit BMP of `COLOURS` whose header announces an alpha channel."""
    pixels = np.dstack([COLOURS[..., ::-1], np.full(GREY.shape, alpha, np.uint8)])[::-1].tobytes()
    header = struct.pack("<IiiHHIIiiII", 108, WIDTH, HEIGHT, 1, 32, 3, len(pixels), 2835, 2835, 0, 0)
    header += struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + bytes(108 - 56)
    return b"BM" + struct.pack("<IHHI", 122 + len(pixels), 0, 0, 122) + header + pixels


def test_bmp_whose_alpha_channel_was_never_filled_is_not_a_white_page() -> None:
    assert np.array_equal(levels(bmp(255)), COLOURS)
    assert np.array_equal(levels(bmp(0)), COLOURS)
    assert levels(bmp(128)).min() >= 127


def test_whole_jpeg_in_front_of_a_trailer_that_ends_in_zeros_is_whole() -> None:
    buffer = io.BytesIO()
    Image.fromarray(COLOURS).save(buffer, "JPEG")
    decoded = decode_image(buffer.getvalue() + b"trailer of a camera" + bytes(100), PREPROCESS)
    assert decoded.status == "ok"
    assert np.array_equal(decoded.pixels.transpose(1, 2, 0), levels(buffer.getvalue()))
