"""A HEIC whose picture is a grid that shows one tile again and again, written box by box."""

from __future__ import annotations

import struct

from pictures import encode, scene


def grid_heic(rows: int, columns: int, *, side: int = 64) -> bytes:
    """Return a HEIC of `rows` x `columns` tiles, at most 255 each, which are all the same `side` x `side` pixels."""
    source = encode(scene(side, side), "HEIF")
    decoder, tile = _box_in(source, b"hvcC"), _content_of(source, b"mdat")
    size = (columns * side, rows * side)
    grid = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, *size)
    properties = _box(b"ipco", decoder + _extent(side, side) + _extent(*size))
    associations = _full(b"ipma", struct.pack(">I HBB HBBB", 2, 1, 1, 0x83, 2, 2, 0x81, 0x02))
    meta = [
        _full(b"hdlr", bytes(4) + b"pict" + bytes(13)),
        _full(b"pitm", struct.pack(">H", 1)),
        _full(b"iinf", struct.pack(">H", 2) + _item(1, b"grid") + _item(2, b"hvc1")),
        _full(b"iref", _box(b"dimg", struct.pack(">HH", 1, rows * columns) + struct.pack(">H", 2) * (rows * columns))),
        _box(b"iprp", properties + associations),
        _box(b"idat", grid),
    ]
    kind = _box(b"ftyp", b"heic" + bytes(4) + b"mif1heic")
    before = len(kind) + 12 + sum(map(len, meta)) + len(_places(0, len(tile), len(grid))) + 8
    meta.append(_places(before, len(tile), len(grid)))
    return kind + _full(b"meta", b"".join(meta)) + _box(b"mdat", tile)


def _places(start: int, length: int, grid_length: int) -> bytes:
    in_idat = struct.pack(">HHHHII", 1, 1, 0, 1, 0, grid_length)
    in_file = struct.pack(">HHHHII", 2, 0, 0, 1, start, length)
    return _full(b"iloc", b"\x44\x00" + struct.pack(">H", 2) + in_idat + in_file, version=1)


def _item(number: int, kind: bytes) -> bytes:
    return _full(b"infe", struct.pack(">HH", number, 0) + kind + b"\0", version=2)


def _extent(width: int, height: int) -> bytes:
    return _full(b"ispe", struct.pack(">II", width, height))


def _box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", 8 + len(body)) + kind + body


def _full(kind: bytes, body: bytes, *, version: int = 0) -> bytes:
    return _box(kind, struct.pack(">I", version << 24) + body)


def _box_in(data: bytes, kind: bytes) -> bytes:
    start = data.index(kind) - 4
    return data[start : start + int.from_bytes(data[start : start + 4], "big")]


def _content_of(data: bytes, kind: bytes) -> bytes:
    return _box_in(data, kind)[8:]
