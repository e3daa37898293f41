"""What a picture's EXIF says: which way is up, when and where it was taken. Broken metadata is no metadata."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import ExifTags, Image

_UPRIGHT = 1
_EARLIEST_YEAR, _LATEST_YEAR = 1970, 2100  # outside, a camera's clock was never set
_STAMP = re.compile(r"(\d{4})\D(\d\d)\D(\d\d)[ T](\d\d)\D(\d\d)\D(\d\d)")
_OFFSET = re.compile(r"([+-])(\d\d):?(\d\d)")


@dataclass(frozen=True, slots=True)
class Metadata:
    """When (Unix seconds) and where (degrees, north and east positive) a picture was taken; None where unknown."""

    taken_at: int | None = None
    latitude: float | None = None
    longitude: float | None = None


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation (1 to 8) that has not been applied to `image` yet; 1 when it is absent or broken.

    Ask after `load()`: Pillow itself turns a TIFF then and drops the tag, a HEIF comes upright from its decoder, and
    for an AVIF Pillow reports the container's rotation here instead of what EXIF claims.
    """
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, _UPRIGHT)
    except Exception:
        return _UPRIGHT
    return value if isinstance(value, int) and 1 <= value <= 8 else _UPRIGHT


def read_metadata(image: Image.Image) -> Metadata:
    """Return date and place of `image`. Never raises: a field that is broken or absurd is None.

    A time without an offset is read as UTC, so that the answer does not depend on where the program runs.
    """
    try:
        exif = image.getexif()
    except Exception:
        return Metadata()
    latitude, longitude = _place(exif)
    return Metadata(_taken_at(exif), latitude, longitude)


def _taken_at(exif: Image.Exif) -> int | None:
    base = ExifTags.Base
    try:
        details: Mapping[int, Any] = exif.get_ifd(ExifTags.IFD.Exif)
    except Exception:
        details = {}
    for source, stamp, offset in (
        (details, base.DateTimeOriginal, base.OffsetTimeOriginal),
        (details, base.DateTimeDigitized, base.OffsetTimeDigitized),
        (exif, base.DateTime, base.OffsetTime),
    ):
        try:
            seconds = _unix_seconds(source.get(stamp), details.get(offset))
        except Exception:  # a lazily decoded tag may fail in as many ways as EXIF has types
            continue
        if seconds is not None:
            return seconds
    return None


def _unix_seconds(stamp: object, offset: object) -> int | None:
    matched = _STAMP.match(_text(stamp))
    if matched is None:
        return None
    year, month, day, hour, minute, second = (int(group) for group in matched.groups())
    if not _EARLIEST_YEAR <= year <= _LATEST_YEAR:
        return None
    moment = datetime.datetime(year, month, day, hour, minute, second, tzinfo=datetime.UTC)
    return int(moment.timestamp()) - _offset_seconds(_text(offset))


def _offset_seconds(offset: str) -> int:
    matched = _OFFSET.match(offset)
    if matched is None:
        return 0
    sign, hours, minutes = matched.groups()
    seconds = int(hours) * 3600 + int(minutes) * 60
    if seconds > 14 * 3600:  # no place on earth is further from UTC
        return 0
    return seconds if sign == "+" else -seconds


def _text(value: object) -> str:
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    return value.strip("\x00 ") if isinstance(value, str) else ""


def _place(exif: Image.Exif) -> tuple[float | None, float | None]:
    gps = ExifTags.GPS
    try:
        place: Mapping[int, Any] = exif.get_ifd(ExifTags.IFD.GPSInfo)
        latitude = _degrees(place.get(gps.GPSLatitude), place.get(gps.GPSLatitudeRef), "NS", 90.0)
        longitude = _degrees(place.get(gps.GPSLongitude), place.get(gps.GPSLongitudeRef), "EW", 180.0)
    except Exception:
        return None, None
    if latitude is None or longitude is None:  # half a place is none
        return None, None
    return latitude, longitude


def _degrees(parts: Any, reference: object, letters: str, limit: float) -> float | None:
    degrees, minutes, seconds = (float(part) for part in parts)
    value = degrees + minutes / 60 + seconds / 3600
    letter = _text(reference).upper()[:1]
    if min(degrees, minutes, seconds) < 0 or not math.isfinite(value) or value > limit:
        return None
    if not letter or letter not in letters:
        return None
    return -value if letter == letters[1] else value
