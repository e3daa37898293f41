"""A HEIC is shown by the preview inside it where that is large enough and shows the same; everything else stays."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pillow_heif
import pytest
from icc_profiles import display_p3
from pictures import exif_with, scene
from PIL import Image, ImageFile
from pillow_heif.as_plugin import HeifImageFile

from mmsearch.errors import UnreadableFile
from mmsearch.image_limits import DecodeLimits
from mmsearch.image_open import Picture, load_picture
from mmsearch.image_preview import shows_nothing
from mmsearch.images import decode_image
from mmsearch.types import Preprocess, Reason

pytestmark = pytest.mark.skipif(
    not hasattr(pillow_heif.HeifImage, "get_thumbnail"), reason="this pillow-heif reads no previews; 1.8 does"
)

PREPROCESS = Preprocess(64, 64)
SIDE = 128
SIZE, PREVIEW = (480, 320), (240, 160)
ILOC_HEADER, ILOC_ITEM = 8, 18  # bytes, as libheif writes them


def heic(
    picture: Image.Image | None = None, *, box: int = 240, orientation: int = 1, icc_profile: bytes | None = None
) -> bytes:
    """A HEIC of `SIZE` with a preview whose longer side is `box`, both to be turned by `orientation`."""
    heif = pillow_heif.from_pillow(picture or scene(*SIZE))
    info: dict[str, Any] = heif[0].info
    info["thumbnails"] = [box]
    info["exif"] = exif_with(orientation).tobytes()
    if icc_profile is not None:
        info["icc_profile"] = icc_profile
    buffer = io.BytesIO()
    heif.save(buffer, quality=90, enc_params={"preset": "ultrafast"})
    return buffer.getvalue()


def with_preview_first(data: bytes) -> bytes:
    """The same HEIC as cameras write it: the preview's bytes lie before the picture's."""
    table = data.index(b"iloc") + 4 + ILOC_HEADER
    items = [table + ILOC_ITEM * number for number in range(3)]  # picture, EXIF, preview
    starts = [struct.unpack(">I", data[at + 4 : at + 8])[0] for at in items]
    preview = data[starts[2] :]
    moved = bytearray(data[: starts[0]] + preview + data[starts[0] : starts[2]])
    for at, start in zip(items, (starts[0] + len(preview), starts[1] + len(preview), starts[0]), strict=True):
        moved[at + 4 : at + 8] = struct.pack(">I", start)
    return bytes(moved)


def with_preview_of(data: bytes, other: bytes) -> bytes:
    """The HEIC `data` with the preview of `other`, appended: nothing in its tables tells."""
    entries = [each.index(b"iloc") + 4 + ILOC_HEADER + ILOC_ITEM * 2 for each in (data, other)]
    start, length = (struct.unpack(">I", other[at : at + 4])[0] for at in (entries[1] + 4, entries[1] + 14))
    changed = bytearray(data + other[start : start + length])
    changed[entries[0] + 4 : entries[0] + 8] = struct.pack(">I", len(data))
    changed[entries[0] + 14 : entries[0] + 18] = struct.pack(">I", length)
    return bytes(changed)


def load(data: bytes, side: int | None = SIDE) -> Picture:
    return load_picture(data, DecodeLimits(), side=side)


def mean_error(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(np.int16) - other.astype(np.int16)).mean())


def decoded_in_full(data: bytes, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    with monkeypatch.context() as older:
        older.setattr(HeifImageFile, "draft", ImageFile.ImageFile.draft)
        return decode_image(data, PREPROCESS).pixels


def test_large_preview_is_loaded_and_the_size_told_is_the_pictures() -> None:
    picture = load(heic())
    assert picture.image.size == PREVIEW
    assert (picture.width, picture.height, picture.status) == (*SIZE, "ok")


@pytest.mark.parametrize("side", [None, PREVIEW[1] + 1, PREVIEW[0]])
def test_preview_with_a_side_too_short_is_passed_over(side: int | None) -> None:
    assert load(heic(), side).image.size == SIZE


def test_preview_as_short_as_may_be_is_loaded() -> None:
    assert load(heic(), PREVIEW[1]).image.size == PREVIEW


@pytest.mark.parametrize("orientation", range(1, 9))
def test_preview_is_upright_in_every_orientation(orientation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = heic(orientation=orientation)
    assert sorted(load(data).image.size) == sorted(PREVIEW)
    decoded = decode_image(data, PREPROCESS)
    assert (decoded.width, decoded.height) == (SIZE if orientation < 5 else SIZE[::-1])
    assert mean_error(decoded.pixels, decoded_in_full(data, monkeypatch)) < 1


def test_preview_turned_unlike_its_picture_is_passed_over() -> None:
    data = bytearray(heic(orientation=3))
    links = data.index(b"ipma")
    last = links + struct.unpack(">I", data[links - 4 : links])[0] - 5  # of the preview, which comes last: its turn
    assert load(bytes(data)).image.size == PREVIEW
    data[last] = 0
    assert load(bytes(data)).image.size == SIZE


def test_preview_has_the_colours_of_its_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    data = heic(icc_profile=display_p3())
    assert load(data).image.size == PREVIEW
    shown = decode_image(data, PREPROCESS).pixels
    assert mean_error(shown, decoded_in_full(data, monkeypatch)) < 1
    assert mean_error(shown, decode_image(heic(), PREPROCESS).pixels) > 2


def test_preview_before_its_picture_is_loaded() -> None:
    assert load(with_preview_first(heic())).image.size == PREVIEW


def test_preview_does_not_stand_for_a_picture_that_was_cut_off() -> None:
    data = with_preview_first(heic())
    with pytest.raises(UnreadableFile) as refusal:
        load(data[: len(data) // 2])
    assert refusal.value.reason is Reason.TRUNCATED


def test_preview_does_not_stand_for_a_picture_that_was_not_downloaded_to_its_end() -> None:
    data = with_preview_first(heic())
    half = len(data) // 2
    assert load(data[:half] + bytes(len(data) - half)).image.size == SIZE


def test_cut_off_preview_leaves_the_picture_as_it_was() -> None:
    picture = load(heic()[:-500])
    assert (picture.image.size, picture.status) == (SIZE, "ok")


def test_preview_that_cannot_be_read_leaves_the_picture_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise TypeError("a property of the preview that makes no sense")

    monkeypatch.setattr(HeifImageFile, "draft", fails)
    assert load(heic()).image.size == SIZE


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("level", [0, 200])
def test_preview_of_one_colour_is_not_believed(mode: str, level: int) -> None:
    drawn, flat = scene(*SIZE).convert(mode), Image.new("L", SIZE, level).convert(mode)
    assert load(with_preview_of(heic(flat), heic(drawn))).image.size == PREVIEW
    picture = load(with_preview_of(heic(drawn), heic(flat)))
    assert (picture.image.size, picture.width, picture.height, picture.status) == (SIZE, *SIZE, "ok")


@pytest.mark.parametrize(
    ("mode", "first", "second"), [("RGB", (9, 9, 9), (9, 9, 10)), ("L", 9, 10), ("LA", (9, 9), (9, 8))]
)
def test_preview_of_two_colours_that_are_nearly_the_same_shows_something(mode: str, first: Any, second: Any) -> None:
    preview = Image.new(mode, (8, 8), first)
    assert shows_nothing(preview)
    preview.putpixel((3, 4), second)
    assert not shows_nothing(preview)


def test_older_pillow_heif_decodes_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HeifImageFile, "draft", ImageFile.ImageFile.draft)
    picture = load(heic())
    assert (picture.image.size, picture.width, picture.height) == (SIZE, *SIZE)
