"""C21 to C33: small files that ask for much, and one that is honestly large."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from functools import cache, partial

from corpus_case import IGNORED, OK, CorpusCase, Expected, content, error, photo
from grid_heic import grid_heic
from pictures import encode, png_chunk, scene
from PIL import Image
from rubbish import compressed_text_bomb, rubbish

_TEAL = (0, 128, 128)
_ICONS = "unknown extensions are ignored and counted; under the name of a picture it is refused by its content"


def bomb_cases() -> list[CorpusCase]:
    """The cases of this group."""
    return [*_too_large(), *_bounded()]


def _case(number: int, name: str, data: Callable[[], bytes], expected: Expected, note: str = "") -> CorpusCase:
    return CorpusCase(f"C{number}", name, content(data), expected, note=note)


def _too_large() -> list[CorpusCase]:
    return [
        _case(21, "header_15000x15000.png", _rubbish("header_15000x15000.png"), error("too_large")),
        _case(22, "honest_13000x13000.png", _honest_bitmap, error("too_large")),
        _case(26, "frame_larger_than_screen.gif", _rubbish("frame_larger_than_screen.gif"), error("too_large")),
        _case(27, "icon.ico", _rubbish("icon.png"), IGNORED, _ICONS),
        _case(27, "icon.png", _rubbish("icon.png"), error("unsupported_inside"), _ICONS),
        _case(28, "canvas_16383x16383.webp", _webp_canvas, error("too_large")),
        _case(32, "claims_60000x60000.avif", lambda: _claiming_60000("AVIF"), error("too_large", "truncated")),
        _case(32, "claims_60000x60000.heic", lambda: _claiming_60000("HEIF"), error("too_large", "truncated")),
        _case(32, "grid_of_19200x19200.heic", lambda: grid_heic(30, 30, side=640), error("too_large")),
        _case(32, "grid_of_65025_tiles.heic", lambda: grid_heic(255, 255), error("too_large", "truncated")),
    ]


def _bounded() -> list[CorpusCase]:
    cases = [
        _case(25, "text_of_200_megabytes.png", compressed_text_bomb, OK),
        _case(29, "thousand_scans.jpg", _thousand_scans, OK),
        _case(30, "50000_frames.gif", _many_frames, OK),
        _case(31, "two_billion_frames.png", _claimed_frames, OK),
        _case(33, "hundred_megapixels.jpg", _hundred_megapixels, OK),
    ]
    thin = {"C23": ("tall_1x60000.png", (1, 60_000)), "C24": ("wide_60000x1.png", (60_000, 1))}
    for id, (name, size) in thin.items():
        make = content(partial(_teal, size))
        cases.append(CorpusCase(id, name, make, twin=lambda: Image.new("RGB", (8, 8), _TEAL)))
    return cases


def _teal(size: tuple[int, int]) -> bytes:
    return encode(Image.new("RGB", size, _TEAL), "PNG")


@cache
def _all_rubbish() -> dict[str, bytes]:
    return {each.name: each.data for each in rubbish()}


def _rubbish(name: str) -> Callable[[], bytes]:
    return lambda: _all_rubbish()[name]


def _honest_bitmap() -> bytes:
    side = 13_000
    rows = bytes((1 + (side + 7) // 8) * side)
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(name, body) for name, body in chunks)


def _webp_canvas() -> bytes:
    data = bytearray(encode(Image.new("RGB", (8, 8)), "WEBP", lossless=True))
    data[21:25] = (16_382 | 16_382 << 14).to_bytes(4, "little")  # width - 1 and height - 1, 14 bits each
    return bytes(data)


def _claiming_60000(format_name: str) -> bytes:
    told, claimed = (b"ispe" + bytes(4) + struct.pack(">II", *size) for size in ((320, 240), (60_000, 60_000)))
    return encode(photo(), format_name).replace(told, claimed)


def _thousand_scans() -> bytes:
    """A progressive JPEG that says its first scan a thousand times over."""
    data = encode(photo(), "JPEG", progressive=True)
    start = data.index(b"\xff\xda")
    end = min(data.index(marker, start + 2) for marker in (b"\xff\xda", b"\xff\xc4") if marker in data[start + 2 :])
    return data[:end] + data[start:end] * 1000 + data[end:]


def _many_frames() -> bytes:
    one = encode(scene(32, 32).quantize(16), "GIF")
    body = one.index(b",")
    return one[:-1] + one[body:-1] * 50_000 + b";"


def _claimed_frames() -> bytes:
    data = encode(photo(), "PNG")
    return data[:33] + png_chunk(b"acTL", struct.pack(">II", 1 << 31, 0)) + data[33:]


def _hundred_megapixels() -> bytes:
    return encode(photo().convert("L").resize((12_000, 8_400)), "JPEG", quality=60, subsampling=-1)
