"""ICC profiles written by hand, because none may be assumed on a test machine."""

from __future__ import annotations

import struct

_Colorants = dict[bytes, tuple[float, float, float]]

# adapted to D50, as published
_P3_COLORANTS: _Colorants = {
    b"rXYZ": (0.51512, 0.24120, -0.00105),
    b"gXYZ": (0.29198, 0.69225, 0.04189),
    b"bXYZ": (0.15710, 0.06657, 0.78407),
}
_SRGB_COLORANTS: _Colorants = {
    b"rXYZ": (0.43607, 0.22249, 0.01392),
    b"gXYZ": (0.38515, 0.71687, 0.09708),
    b"bXYZ": (0.14307, 0.06061, 0.71410),
}
_D50 = (0.96420, 1.0, 0.82491)


def display_p3() -> bytes:
    """Return a matrix profile with the primaries of Display P3 and a plain 2.2 gamma."""
    return _matrix_profile(_P3_COLORANTS, b"curv" + bytes(4) + struct.pack(">IH", 1, round(2.2 * 256)) + bytes(2))


def srgb_by_another_maker() -> bytes:
    """Return sRGB with its curve as a table of 20 steps, which differs from the formula by a level here and there."""
    levels = [step / 19 for step in range(20)]
    linear = [level / 12.92 if level <= 0.04045 else ((level + 0.055) / 1.055) ** 2.4 for level in levels]
    table = struct.pack(">I20H", 20, *(round(value * 65535) for value in linear))
    return _matrix_profile(_SRGB_COLORANTS, b"curv" + bytes(4) + table)


def _matrix_profile(colorants: _Colorants, curve: bytes) -> bytes:
    tags = {name: _xyz(value) for name, value in colorants.items()}
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags | {b"rTRC": curve, b"gTRC": curve, b"bTRC": curve})


def cmyk_where_cyan_prints_red() -> bytes:
    """Return a CMYK profile whose cyan ink looks red, so that a picture shows whether the profile was used."""
    nodes = bytearray()
    for node in range(16):  # one bit an ink, the first ink varies slowest
        cyan, _magenta, _yellow, black = (node >> bit & 1 for bit in (3, 2, 1, 0))
        lightness = 0 if black else (136 if cyan else 255)
        nodes += bytes((lightness, 128 + (80 if cyan and not black else 0), 128 + (67 if cyan and not black else 0)))
    identity = bytes(range(256))
    matrix = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    lut = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + matrix + identity * 4 + bytes(nodes) + identity * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": lut})


def _xyz(values: tuple[float, float, float]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values))


def _profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    description = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(8 + 3 + 67)
    tags = {b"desc": description, b"cprt": b"text" + bytes(4) + b"none\0", b"wtpt": _xyz(_D50), **tags}
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    header = struct.pack(">I4sI4s4s4s", start + len(body), bytes(4), 0x02400000, kind, space, connection)
    header += bytes(12) + b"acsp" + bytes(28) + _xyz(_D50)[8:]
    return header.ljust(128, b"\0") + table + body
