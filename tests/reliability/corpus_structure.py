"""C1 to C20: files that are empty, cut, overwritten, lengthened, or something else altogether."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache

import numpy as np
from corpus_case import OK, PARTIAL, CorpusCase, Expected, content, error
from pictures import encode, scene
from rubbish import damaged_pictures, photo, rubbish

_AS_OK = "the checksum of a PNG's pixels alone is not looked at: those inside the compressed data decide"
_AS_PARTIAL = "the design asks for an error; what a quarter or more of the picture is left of is shown, as partial"


def structure_cases() -> list[CorpusCase]:
    """The cases of this group."""
    return [*_cut_and_empty(), *_foreign(), *_other_formats()]


def _case(number: int, name: str, data: Callable[[], bytes], expected: Expected, note: str = "") -> CorpusCase:
    return CorpusCase(f"C{number}", name, content(data), expected, note=note)


def _cut_and_empty() -> list[CorpusCase]:
    return [
        _case(1, "empty.jpg", _rubbish("empty.jpg"), error("empty")),
        _case(2, "one_byte.jpg", _rubbish("one_byte.jpg"), error("unidentified")),
        _case(3, "start_marker.jpg", _rubbish("start_marker.jpg"), error("truncated")),
        _case(4, "half.jpg", _damaged("half.jpg"), PARTIAL),
        _case(4, "half_progressive.jpg", _damaged("half_progressive.jpg"), PARTIAL),
        _case(4, "without_its_end_marker.jpg", lambda: _jpeg()[:-2], PARTIAL),
        _case(5, "cut_at_5_percent.jpg", _rubbish("cut_at_5_percent.jpg"), error("truncated")),
        _case(6, "half.png", _damaged("half.png"), PARTIAL),
        _case(7, "bad_header_checksum.png", _rubbish("bad_header_checksum.png"), error("truncated")),
        _case(8, "bad_data_checksum.png", _bad_data_checksum, OK, _AS_OK),
        _case(8, "bad_data.png", _bad_data, PARTIAL),
        _case(9, "megabyte_behind.jpg", lambda: _jpeg() + np.random.default_rng(4).bytes(1_000_000), OK),
        _case(10, "zeros_in_second_half.jpg", _damaged("zeros_in_second_half.jpg"), PARTIAL, _AS_PARTIAL),
        _case(11, "wrong_restart_marker.jpg", _wrong_restart_marker, OK | PARTIAL),
        _case(11, "bytes_before_restart_marker.jpg", _bytes_before_restart_marker, OK | PARTIAL),
        _case(11, "noise_in_second_half.jpg", _damaged("noise_in_second_half.jpg"), PARTIAL),
    ]


def _foreign() -> list[CorpusCase]:
    return [
        _case(12, "five_megabytes_of_zeros.jpg", lambda: bytes(5_000_000), error("unidentified")),
        _case(13, "noise.png", _rubbish("noise.png"), error("unidentified")),
        _case(14, "html.jpg", _rubbish("html.jpg"), error("unidentified")),
        _case(15, "gzip.jpg", _rubbish("gzip.jpg"), error("unsupported_inside")),
    ]


def _other_formats() -> list[CorpusCase]:
    return [
        _case(16, "riff_size_too_large.webp", lambda: _webp_claiming(0x7FFFFFF0), error("truncated")),
        _case(16, "riff_size_too_small.webp", lambda: _webp_claiming(20), error("truncated")),
        _case(16, "cut.webp", _rubbish("cut.webp"), error("truncated")),
        _case(17, "no_trailer.gif", lambda: encode(scene().quantize(64), "GIF")[:-1], OK),
        _case(18, "wrong_size.bmp", _rubbish("wrong_size.bmp"), error("truncated")),
        _case(18, "unknown_header_size.bmp", _bmp_of_unknown_header, error("unidentified")),
        _case(18, "pixels_behind_the_end.bmp", _bmp_with_pixels_behind_the_end, error("truncated")),
        _case(19, "cyclic.tif", _rubbish("cyclic.tif"), error("truncated")),
        _case(19, "whole_page_then_cyclic.tif", lambda: _tiff_followed_by(b"", 8), OK),
        _case(20, "ten_thousand_directories.tif", _tiff_of_many_directories, OK),
    ]


@cache
def _all_rubbish() -> dict[str, bytes]:
    return {each.name: each.data for each in rubbish()}


@cache
def _all_damaged() -> dict[str, bytes]:
    return damaged_pictures()


@cache
def _jpeg() -> bytes:
    return encode(photo(), "JPEG")


def _rubbish(name: str) -> Callable[[], bytes]:
    return lambda: _all_rubbish()[name]


def _damaged(name: str) -> Callable[[], bytes]:
    return lambda: _all_damaged()[name]


def _bad_data_checksum() -> bytes:
    data = bytearray(encode(photo(), "PNG"))
    last = data.rindex(b"IDAT")
    end = last + 4 + int.from_bytes(data[last - 4 : last], "big")
    data[end] ^= 0xFF
    return bytes(data)


def _bad_data() -> bytes:
    data = bytearray(encode(photo(), "PNG"))
    data[len(data) // 2] ^= 0x10
    return bytes(data)


def _restarting() -> tuple[bytes, int]:
    """A JPEG with a restart marker after every row of blocks, and where one in its middle is."""
    data = encode(photo(), "JPEG", restart_marker_rows=1)
    return data, data.index(b"\xff\xd3", len(data) // 2)


def _wrong_restart_marker() -> bytes:
    data, place = _restarting()
    return data[: place + 1] + b"\xd6" + data[place + 2 :]


def _bytes_before_restart_marker() -> bytes:
    data, place = _restarting()
    return data[:place] + bytes(5) + data[place:]


def _webp_claiming(size: int) -> bytes:
    data = encode(photo(), "WEBP")
    return data[:4] + size.to_bytes(4, "little") + data[8:]


def _bmp_of_unknown_header() -> bytes:
    data = encode(scene(), "BMP")
    return data[:14] + (41).to_bytes(4, "little") + data[18:]


def _bmp_with_pixels_behind_the_end() -> bytes:
    data = encode(scene(), "BMP")
    return data[:10] + (0x7FFFFFF0).to_bytes(4, "little") + data[14:]


def _tiff_followed_by(more: bytes, following: int) -> bytes:
    """A TIFF of one page with `more` behind it, whose directory names `following` as where the next one is."""
    data = bytearray(encode(scene(), "TIFF"))
    directory = int.from_bytes(data[4:8], "little")
    end = directory + 2 + 12 * int.from_bytes(data[directory : directory + 2], "little")
    data[end : end + 4] = struct.pack("<I", following)
    return bytes(data) + more


def _tiff_of_many_directories() -> bytes:
    start = len(encode(scene(), "TIFF"))
    entry = struct.pack("<HHHII", 1, 256, 3, 1, 10)
    size = len(entry) + 4
    chain = b"".join(entry + struct.pack("<I", start + size * number) for number in range(1, 10_000))
    return _tiff_followed_by(chain + entry + bytes(4), start)
