"""EXIF and XMP that is broken, odd or hostile, and pictures that carry it. Nothing of it may cost the picture."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from pictures import encode, exif_with, scene
from PIL import ExifTags, Image

ORIENTATION, DATE_TIME, EXIF_IFD, GPS_IFD = 0x0112, 0x0132, 0x8769, 0x8825
ORIGINAL, DIGITIZED, OFFSET_ORIGINAL = 0x9003, 0x9004, 0x9011


def exif_of(
    base: dict[int, Any] | None = None, details: dict[int, Any] | None = None, gps: dict[int, Any] | None = None
) -> Image.Exif:
    """These tags in the main directory, the EXIF directory and the GPS directory."""
    exif = Image.Exif()
    exif.update(base or {})
    if details:
        exif.get_ifd(ExifTags.IFD.Exif).update(details)
    if gps:
        exif.get_ifd(ExifTags.IFD.GPSInfo).update(gps)
    return exif


def jpeg_with(
    base: dict[int, Any] | None = None, details: dict[int, Any] | None = None, gps: dict[int, Any] | None = None
) -> bytes:
    """A JPEG of `scene()` with these tags."""
    return encode(scene(), "JPEG", exif=exif_of(base, details, gps))


def tiff_block(entries: list[tuple[int, int, int, bytes]], following: int = 0) -> bytes:
    """EXIF written by hand, so that it may be wrong."""
    block = b"MM\0*\0\0\0\x08" + struct.pack(">H", len(entries))
    for tag, kind, count, value in entries:
        block += struct.pack(">HHI", tag, kind, count) + value
    return b"Exif\0\0" + block + struct.pack(">I", following)


UPRIGHT_SIX = (ORIENTATION, 3, 1, b"\0\6\0\0")
_noise = np.random.default_rng(0).bytes
BROKEN_EXIF = {
    "wrong byte order mark": b"Exif\0\0XX\0*" + exif_with(6).tobytes()[10:],
    "noise": b"Exif\0\0" + _noise(5000),
    "noise behind a sound header": b"Exif\0\0MM\0*\0\0\0\x08" + _noise(60_000),
    "nothing": b"Exif\0\0",
    "cut": exif_with(6).tobytes()[:12],
    "orientation in words": tiff_block([(ORIENTATION, 2, 4, b"six\0")]),
    "orientation 99": tiff_block([(ORIENTATION, 3, 1, b"\0\x63\0\0")]),
}
ODD_EXIF = {
    "doubled prefix": b"Exif\0\0" + exif_with(6).tobytes(),
    "cyclic": tiff_block([UPRIGHT_SIX, (EXIF_IFD, 4, 1, b"\0\0\0\x08"), (GPS_IFD, 4, 1, b"\0\0\0\x08")], following=8),
    "text of four gigabytes": tiff_block([(0x010F, 2, 0xFFFFFFFF, b"\0\0\0\0"), UPRIGHT_SIX]),
    "maker note of noise": tiff_block([UPRIGHT_SIX, (0x927C, 7, 60_000, b"\0\0\0\x40")]) + _noise(60_000),
}


class RawExif(Image.Exif):
    """EXIF that is written as it is, whatever it is."""

    def __init__(self, raw: bytes) -> None:
        super().__init__()
        self._raw = raw

    def tobytes(self, offset: int = 8) -> bytes:
        return self._raw


def file_with(exif: bytes, format_name: str) -> bytes:
    """A picture of `scene()` that carries exactly these bytes as its EXIF."""
    return encode(scene(), format_name, exif=RawExif(exif) if format_name == "HEIF" else exif)


def entity_bomb() -> bytes:
    """XMP in which eleven entities, each ten times the one before, would expand to 200 GB."""
    entities = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 12))
    return f'<!DOCTYPE x [<!ENTITY a0 "ha">{entities}]><x:xmpmeta xmlns:x="adobe:ns:meta/">&a11;</x:xmpmeta>'.encode()
