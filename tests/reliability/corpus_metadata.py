"""C55 to C74: sound pictures, and captions, with metadata that is broken, absurd or hostile."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

from corpus_case import CorpusCase, content, photo
from corpus_pixels import unusual_case
from odd_exif import BROKEN_EXIF, GPS_IFD, ODD_EXIF, ORIENTATION, entity_bomb, exif_of, tiff_block
from pictures import TURNED_FORMATS, encode, turned
from PIL import Image, TiffImagePlugin

_NO_DATE: Mapping[str, object] = {"taken_at": None}
_NO_PLACE: Mapping[str, object] = {"latitude": None, "longitude": None}
_ORIGINAL, _X_RESOLUTION, _EXPOSURE_TIME, _BRIGHTNESS = 0x9003, 0x011A, 0x829A, 0x9203
_DATES = {"zeros": "0000:00:00 00:00:00", "year_9999": "9999:12:31 23:59:59", "year_1955": "1955:11:05 06:15:00"}
HOSTILE_CAPTIONS = (
    "escape \x1b[2J\x1b]52;c;aGVsbG8=\x07 sequence",
    "turned \u202e around\u202c",
    "<script>alert(1)</script>",
    "'; DROP TABLE items; --",
    'x" OR "1"="1',
)
_NUL_NOTE = "a NUL in a text is kept as a space; everything else of a caption is stored exactly"


def metadata_cases() -> list[CorpusCase]:
    """The cases of this group."""
    return [*_turned(), *_broken_exif(), *_absurd_fields(), *_captions()]


def _turned() -> list[CorpusCase]:
    cases = [
        unusual_case(f"C{54 + orientation}", f"turned_{orientation}_{name.lower()}{extension}")
        for orientation in range(1, 9)
        for name, extension in TURNED_FORMATS.items()
        if (name, orientation) != ("HEIF", 6)
    ]
    both = CorpusCase("C74", "turned_twice_6.heic", content(lambda: turned(photo(), 6, "HEIF")), twin=photo)
    return [*cases, unusual_case("C63", "turned_99.jpg"), both]


def _case(number: int, name: str, exif: Callable[[], bytes], **facts: Any) -> CorpusCase:
    """A JPEG of the photo with these bytes as its EXIF. `twin` defaults to the photo."""
    make = content(lambda: encode(photo(), "JPEG", exif=exif()))
    return CorpusCase(f"C{number}", name, make, twin=facts.get("twin", photo), row=facts.get("row", {}))


def _broken_exif() -> list[CorpusCase]:
    nothing = {**_NO_DATE, **_NO_PLACE}
    return [
        _case(64, "doubled_prefix.jpg", lambda: ODD_EXIF["doubled prefix"], row=nothing, twin=_turned_by_six),
        _case(65, "wrong_byte_order_mark.jpg", lambda: BROKEN_EXIF["wrong byte order mark"], row=nothing),
        _case(66, "fraction_over_zero.jpg", lambda: _fractions(1, 0), row=_NO_PLACE),
        _case(67, "fraction_minus_one_over_zero.jpg", lambda: _signed_fraction(-1, 0), row=nothing),
        _case(68, "cyclic_exif.jpg", lambda: ODD_EXIF["cyclic"], row=nothing, twin=_turned_by_six),
        _case(69, "maker_note_of_noise.jpg", lambda: ODD_EXIF["maker note of noise"], row=nothing, twin=_turned_by_six),
        _case(69, "noise_as_exif.jpg", lambda: BROKEN_EXIF["noise behind a sound header"], row=nothing),
        CorpusCase("C70", "entity_bomb.jpg", content(lambda: encode(photo(), "JPEG", xmp=entity_bomb())), twin=photo),
        CorpusCase("C70", "entity_bomb.webp", content(lambda: encode(photo(), "WEBP", xmp=entity_bomb())), twin=photo),
    ]


def _absurd_fields() -> list[CorpusCase]:
    numbers = {1: 7, 2: 7.0, 3: 7, 4: 7.0}
    cases = [
        _case(71, "place_of_single_numbers.jpg", lambda: exif_of(gps=numbers).tobytes(), row=_NO_PLACE),
        _case(71, "place_in_words.jpg", _place_in_words, row=_NO_PLACE),
    ]
    for name, stamp in _DATES.items():
        make = lambda stamp=stamp: exif_of(details={_ORIGINAL: stamp}).tobytes()  # noqa: E731
        cases.append(_case(72, f"date_{name}.jpg", make, row=_NO_DATE))
    return cases


def _captions() -> list[CorpusCase]:
    table = "caption\n" + "\n".join('"' + each.replace('"', '""') + '"' for each in HOSTILE_CAPTIONS)
    first = {"text": HOSTILE_CAPTIONS[0]}
    nul = {"text": "before after"}
    return [
        CorpusCase("C73", "captions.csv", content(table.encode), row=first),
        CorpusCase("C73", "nul.csv", content(lambda: b"caption\nbefore\0after\n"), row=nul, note=_NUL_NOTE),
    ]


def _turned_by_six() -> Image.Image:
    return photo().transpose(Image.Transpose.ROTATE_270)


def _fractions(numerator: int, denominator: int) -> bytes:
    third = TiffImagePlugin.IFDRational(numerator, denominator)
    exif = exif_of(base={_X_RESOLUTION: third}, details={_EXPOSURE_TIME: third})
    exif.get_ifd(GPS_IFD).update({1: "N", 2: (third, third, third), 3: "E", 4: (third, third, third)})
    return exif.tobytes()


def _place_in_words() -> bytes:
    place = 8 + 2 + 12 + 4
    fields = [(1, 4, 1, bytes(4)), (2, 2, 4, b"here"), (3, 4, 1, bytes(4)), (4, 2, 4, b"east")]
    directory = struct.pack(">H", 4) + b"".join(struct.pack(">HHI4s", *field) for field in fields) + bytes(4)
    return tiff_block([(GPS_IFD, 4, 1, struct.pack(">I", place))]) + directory


def _signed_fraction(numerator: int, denominator: int) -> bytes:
    place = 8 + 2 + 2 * 12 + 4
    value = numerator.to_bytes(4, "big", signed=True) + denominator.to_bytes(4, "big", signed=True)
    entries = [(ORIENTATION, 3, 1, b"\0\1\0\0"), (_BRIGHTNESS, 10, 1, place.to_bytes(4, "big"))]
    return tiff_block(entries) + value
