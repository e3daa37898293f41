"""When and where a picture was taken; and that broken metadata costs the metadata alone."""

from __future__ import annotations

import re
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_exif import (
    BROKEN_EXIF,
    DATE_TIME,
    DIGITIZED,
    ODD_EXIF,
    OFFSET_ORIGINAL,
    ORIGINAL,
    entity_bomb,
    file_with,
    jpeg_with,
)
from pictures import encode, scene
from PIL import Image

from mmsearch.image_metadata import Metadata, orientation, read_metadata
from mmsearch.images import decode_image
from mmsearch.types import Preprocess

PREPROCESS = Preprocess(8, 12)
NOON_UTC = 1_719_835_200  # 2024-07-01 12:00:00


def taken_at(**tags: Any) -> int | None:
    return decode_image(jpeg_with(tags.get("base"), tags.get("details")), PREPROCESS).taken_at


def test_original_time_comes_first_and_is_utc_without_an_offset() -> None:
    details = {ORIGINAL: "2024:07:01 12:00:00", DIGITIZED: "2001:01:01 00:00:00"}
    assert taken_at(details=details, base={DATE_TIME: "2002:02:02 02:02:02"}) == NOON_UTC


def test_offset_is_taken_off() -> None:
    for offset, hours in (("+02:00", -2), ("-05:30", 5.5), ("+99:00", 0), ("rubbish", 0), ("", 0)):
        details = {ORIGINAL: "2024:07:01 12:00:00", OFFSET_ORIGINAL: offset}
        assert taken_at(details=details) == NOON_UTC + hours * 3600


def test_later_stamps_stand_in_for_a_broken_original() -> None:
    assert taken_at(details={ORIGINAL: "0000:00:00 00:00:00", DIGITIZED: "2024:07:01 12:00:00"}) == NOON_UTC
    assert taken_at(details={ORIGINAL: "    :  :     :  :  "}, base={DATE_TIME: "2024-07-01 12:00:00"}) == NOON_UTC


@pytest.mark.parametrize(
    "stamp",
    ["0000:00:00 00:00:00", "9999:12:31 23:59:59", "1969:12:31 23:59:59", "2024:13:01 12:00:00", "2024:02:30 12:00:00",
     "2024:07:01 25:00:00", "2024:07:01", "", "soon", "2024:07:01 12:00:60"],
)  # fmt: skip
def test_absurd_dates_are_no_dates(stamp: str) -> None:
    assert taken_at(details={ORIGINAL: stamp}) is None


def place(gps: dict[int, Any]) -> tuple[float | None, float | None]:
    decoded = decode_image(jpeg_with(gps=gps), PREPROCESS)
    return decoded.latitude, decoded.longitude


def test_place_in_degrees_north_and_east_positive() -> None:
    assert place({1: "S", 2: (33.0, 51.0, 24.9), 3: "E", 4: (151.0, 12.0, 36.0)}) == pytest.approx((-33.856917, 151.21))
    assert place({1: "N", 2: (40.5, 0.0, 0.0), 3: "W", 4: (74.0, 30.0, 0.0)}) == pytest.approx((40.5, -74.5))


@pytest.mark.parametrize(
    "gps",
    [
        {1: "N", 2: (91.0, 0.0, 0.0), 3: "E", 4: (1.0, 0.0, 0.0)},
        {1: "N", 2: (1.0, 0.0, 0.0), 3: "E", 4: (181.0, 0.0, 0.0)},
        {1: "N", 2: (1.0, 0.0, 0.0)},
        {1: "X", 2: (1.0, 0.0, 0.0), 3: "E", 4: (1.0, 0.0, 0.0)},
        {2: (1.0, 0.0, 0.0), 4: (1.0, 0.0, 0.0)},
        {1: "N", 2: (1.0, 0.0), 3: "E", 4: (1.0, 0.0, 0.0)},
        {1: 7, 2: 7, 3: 7, 4: 7},
    ],
)
def test_half_or_absurd_places_are_no_places(gps: dict[int, Any]) -> None:
    assert place(gps) == (None, None)


@pytest.mark.parametrize("fraction", [(33, 0), (0, 0), (0xFFFFFFFF, 0), (0xFFFFFFFF, 1)])
def test_fractions_that_are_no_numbers_are_no_places(fraction: tuple[int, int]) -> None:
    sound = jpeg_with(gps={1: "N", 2: (33.0, 51.0, 24.0), 3: "E", 4: (1.0, 0.0, 0.0)})
    broken = sound.replace(struct.pack(">II", 33, 1), struct.pack(">II", *fraction))
    assert broken != sound
    decoded = decode_image(broken, PREPROCESS)
    assert (decoded.latitude, decoded.longitude) == (None, None)


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("exif", BROKEN_EXIF.values(), ids=BROKEN_EXIF)
def test_broken_exif_leaves_the_picture_as_it_is(exif: bytes, format_name: str) -> None:
    decoded = decode_image(file_with(exif, format_name), PREPROCESS)
    assert (decoded.status, decoded.width, decoded.height) == ("ok", 96, 64)
    assert (decoded.taken_at, decoded.latitude, decoded.longitude) == (None, None, None)


@pytest.mark.parametrize("exif", BROKEN_EXIF.values(), ids=BROKEN_EXIF)
def test_each_question_alone_survives_broken_exif(exif: bytes) -> None:
    for answer, upright in ((orientation, 1), (read_metadata, Metadata())):
        image = Image.new("RGB", (4, 4))
        image.info["exif"] = exif
        assert answer(image) == upright


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("exif", ODD_EXIF.values(), ids=ODD_EXIF)
def test_odd_exif_does_not_hide_the_orientation(exif: bytes, format_name: str) -> None:
    decoded = decode_image(file_with(exif, format_name), PREPROCESS)
    assert (decoded.status, decoded.width, decoded.height) == ("ok", 64, 96)


@pytest.mark.parametrize("exif", [*BROKEN_EXIF.values(), *ODD_EXIF.values()], ids=[*BROKEN_EXIF, *ODD_EXIF])
def test_heif_survives_any_exif(exif: bytes) -> None:
    assert decode_image(file_with(exif, "HEIF"), PREPROCESS).status == "ok"


def test_avif_survives_exif_that_libavif_refuses() -> None:
    exif = Image.Exif()
    exif[0x010F] = "maker" * 20
    sound = encode(scene(), "AVIF", exif=exif)
    start = sound.rindex(b"MM\0*", 0, sound.index(b"makermaker"))
    broken = sound[:start] + b"XXXX" + sound[start + 4 :]
    assert re.search(rb"infe.{8}Exif", broken, re.DOTALL)
    assert np.array_equal(decode_image(broken, PREPROCESS).pixels, decode_image(sound, PREPROCESS).pixels)


@given(noise=st.binary(min_size=1, max_size=400), at=st.integers(0, 300))
@settings(max_examples=150, deadline=None)
def test_no_exif_raises(noise: bytes, at: int) -> None:
    gps = {1: "S", 2: (33.0, 51.0, 24.9), 3: "E", 4: (151.0, 12.0, 36.0)}
    data = bytearray(jpeg_with({DATE_TIME: "2024:07:01 12:00:00"}, {ORIGINAL: "2024:07:01 12:00:00"}, gps))
    start = data.index(b"Exif\0\0") + 6 + at
    end = min(start + len(noise), data.index(b"\xff\xdb"))
    data[start:end] = noise[: max(0, end - start)]
    decoded = decode_image(bytes(data), PREPROCESS)
    assert decoded.status == "ok"
    assert decoded.latitude is None or -90 <= decoded.latitude <= 90


@pytest.mark.case("C70")
def test_xmp_with_an_entity_bomb_expands_nothing() -> None:
    xmp = entity_bomb()
    assert decode_image(encode(scene(), "WEBP", xmp=xmp), PREPROCESS).status == "ok"
    assert decode_image(encode(scene(), "JPEG", xmp=xmp), PREPROCESS).status == "ok"
