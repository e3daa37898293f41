"""Files that are not, or not wholly, the picture that their name promises, each with what must become of it."""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from pictures import encode, png, png_chunk, scene
from PIL import Image

from mmsearch.types import Reason


@dataclass(frozen=True, slots=True)
class Rubbish:
    """A file `name` with content `data` that must be refused for `reason`."""

    name: str
    data: bytes
    reason: Reason


def rubbish() -> list[Rubbish]:
    """Return every file that costs itself and nothing else."""
    return [*_not_pictures(), *_foreign_kinds(), *_broken(), *_bombs()]


def damaged_pictures() -> dict[str, bytes]:
    """Return, by name, pictures of `photo()` that are readable in part: more than a quarter, less than all."""
    jpeg = encode(photo(), "JPEG")
    half = len(jpeg) // 2
    progressive = encode(photo(), "JPEG", progressive=True)
    picture = encode(photo(), "PNG")
    tif = encode(photo(), "TIFF")
    return {
        "half.jpg": jpeg[:half],
        "half_progressive.jpg": progressive[: len(progressive) // 2],
        "zeros_in_second_half.jpg": jpeg[:half] + bytes(len(jpeg) - half),
        "noise_in_second_half.jpg": jpeg[:half] + np.random.default_rng(1).bytes(half),
        "half.png": picture[: len(picture) // 2],
        "half.tif": tif[: len(tif) // 2],
    }


def photo() -> Image.Image:
    """Return a noisy picture, large enough that a cut falls inside its pixels and not inside its header."""
    smooth = np.asarray(scene(480, 320), dtype=np.int16)
    noise = np.random.default_rng(0).integers(-20, 20, smooth.shape)
    return Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8))


def _not_pictures() -> list[Rubbish]:
    return [
        Rubbish("empty.jpg", b"", Reason.EMPTY),
        Rubbish("one_byte.jpg", b"\xff", Reason.UNIDENTIFIED),
        Rubbish("html.jpg", b"<!DOCTYPE html><html><body>404 Not Found</body></html>", Reason.UNIDENTIFIED),
        Rubbish("zeros.jpg", bytes(100_000), Reason.UNIDENTIFIED),
        Rubbish("noise.png", np.random.default_rng(2).bytes(10_000), Reason.UNIDENTIFIED),
        Rubbish("text.bmp", b"BMW is a maker of cars, and this is a sentence about it.", Reason.UNIDENTIFIED),
    ]


def _foreign_kinds() -> list[Rubbish]:
    svg = b'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg><text>&x;</text></svg>'
    foreign = {
        "eps.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        "svg.png": svg,
        "pdf.jpg": b"%PDF-1.7\n",
        "icon.png": b"\x00\x00\x01\x00\x01\x00" + bytes(64),
        "photoshop.jpg": b"8BPS\x00\x01" + bytes(64),
        "gzip.jpg": gzip.compress(b"hello", mtime=0),
        "film.heic": b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom" + bytes(64),
        "xl.jpg": b"\x00\x00\x00\x0cJXL \r\n\x87\n" + bytes(64),
    }
    return [Rubbish(name, data, Reason.UNSUPPORTED_INSIDE) for name, data in foreign.items()]


def _broken() -> list[Rubbish]:
    jpeg, picture, webp = (encode(photo(), name) for name in ("JPEG", "PNG", "WEBP"))
    bad_header = bytearray(picture)
    bad_header[29] ^= 0xFF  # the checksum of IHDR
    heic, avif = encode(photo(), "HEIF"), encode(photo(), "AVIF")
    cyclic = b"II*\x00\x08\x00\x00\x00" + struct.pack("<HHHIII", 1, 256, 3, 1, 10, 8)
    broken = {
        "start_marker.jpg": b"\xff\xd8\xff",
        "cut_at_5_percent.jpg": jpeg[: len(jpeg) // 20],
        "bad_header_checksum.png": bytes(bad_header),
        "cut.webp": webp[: len(webp) // 2],
        "cut.heic": heic[: len(heic) // 2],
        "cut.avif": avif[: len(avif) // 2],
        "cyclic.tif": cyclic,
        "wrong_size.bmp": b"BM" + bytes(12) + struct.pack("<IiiHH", 40, -5, 0, 1, 24),
    }
    return [Rubbish(name, data, Reason.TRUNCATED) for name, data in broken.items()]


def _bombs() -> list[Rubbish]:
    one_row = np.zeros((1, 1), dtype=np.uint8)
    webp = bytearray(encode(Image.new("RGB", (8, 8)), "WEBP", lossless=True))
    webp[21:25] = (0x0FFFFFFF).to_bytes(4, "little")  # width - 1 and height - 1, 14 bits each
    frame = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0) + b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0)
    return [
        Rubbish("header_15000x15000.png", png(one_row, 0, (15000, 15000)), Reason.TOO_LARGE),
        Rubbish("header_13000x13000.png", png(one_row, 0, (13000, 13000)), Reason.TOO_LARGE),
        Rubbish("canvas_16384x16384.webp", bytes(webp), Reason.TOO_LARGE),
        Rubbish("frame_larger_than_screen.gif", frame + b"\x02\x02L\x01\x00;", Reason.TOO_LARGE),
    ]


def compressed_text_bomb() -> bytes:
    """Return a small sound PNG with a text chunk that unpacks to 200 MB."""
    picture = encode(scene(), "PNG")
    text = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(200_000_000), 9))
    return picture[:33] + text + picture[33:]
