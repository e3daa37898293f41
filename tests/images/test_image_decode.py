"""Every picture a user may have looks as in a viewer; every file that is none is refused for the right reason."""

from __future__ import annotations

import io
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
from pictures import Unusual, encode, exif_with, png, scene, turned, unusual_pictures
from PIL import Image, ImageFile
from rubbish import Rubbish, compressed_text_bomb, damaged_pictures, photo, rubbish

from mmsearch.errors import UnreadableFile
from mmsearch.images import DecodeLimits, decode_image
from mmsearch.types import Preprocess, Reason

PREPROCESS = Preprocess(64, 96)
GREY = 128


def pixels_of(image: Image.Image, preprocess: Preprocess = PREPROCESS) -> np.ndarray:
    """The oracle: what training does to an upright RGB picture."""
    resized = image.convert("RGB").resize((preprocess.width, preprocess.height), Image.Resampling.BICUBIC)
    return np.asarray(resized).transpose(2, 0, 1)


def mean_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found.astype(np.int16) - expected.astype(np.int16)).mean())


@pytest.mark.parametrize("case", unusual_pictures(), ids=lambda case: case.name)
def test_unusual_picture_looks_like_its_plain_twin(case: Unusual) -> None:
    decoded = decode_image(case.data, PREPROCESS)
    assert decoded.status == "ok"
    assert decoded.pixels.dtype == np.uint8
    assert decoded.pixels.shape == (3, 64, 96)
    assert mean_error(decoded.pixels, pixels_of(case.twin)) <= case.error


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "TIFF", "WEBP", "HEIF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_size_is_that_of_the_upright_picture(format_name: str, orientation: int) -> None:
    decoded = decode_image(turned(scene(), orientation, format_name), PREPROCESS)
    assert (decoded.width, decoded.height) == (96, 64)


def test_turned_lossless_picture_equals_its_upright_twin_exactly() -> None:
    upright = decode_image(turned(photo(), 1, "PNG"), PREPROCESS).pixels
    for orientation in range(2, 9):
        assert np.array_equal(decode_image(turned(photo(), orientation, "PNG"), PREPROCESS).pixels, upright)


def test_heic_that_says_its_orientation_twice_is_turned_once() -> None:
    data = turned(scene(), 6, "HEIF")
    assert b"irot" in data and exif_with(6).tobytes()[6:] in data
    assert mean_error(decode_image(data, PREPROCESS).pixels, pixels_of(scene())) < 3


@pytest.mark.parametrize("case", rubbish(), ids=lambda case: case.name)
def test_rubbish_is_refused_with_its_reason(case: Rubbish) -> None:
    with pytest.raises(UnreadableFile) as refusal:
        decode_image(case.data, PREPROCESS, extension=Path(case.name).suffix)
    assert refusal.value.reason == case.reason
    assert refusal.value.detail and "\n" not in refusal.value.detail


@pytest.mark.parametrize(("name", "data"), damaged_pictures().items(), ids=damaged_pictures())
def test_damaged_picture_keeps_what_is_there_and_is_grey_elsewhere(name: str, data: bytes) -> None:
    decoded = decode_image(data, PREPROCESS)
    assert decoded.status == "partial"
    assert (decoded.width, decoded.height) == (480, 320)
    expected = pixels_of(photo())
    assert mean_error(decoded.pixels[:, :24], expected[:, :24]) < 6
    if "progressive" not in name:  # whose every scan covers the whole picture
        assert np.abs(decoded.pixels[:, -16:].astype(int) - GREY).max() <= 1


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_jpeg_that_lacks_only_its_end_marker_keeps_every_row(subsampling: str) -> None:
    data = encode(photo(), "JPEG", subsampling=subsampling)
    for lacking in (1, 2):
        decoded = decode_image(data[:-lacking], Preprocess(320, 480))
        assert np.array_equal(decoded.pixels, decode_image(data, Preprocess(320, 480)).pixels)


@pytest.mark.parametrize("cut", [10, 2000, 20_000, 50_000])
def test_every_row_that_is_kept_of_a_cut_jpeg_is_right(cut: int) -> None:
    data = encode(photo(), "JPEG", subsampling="4:2:0")
    exact = Preprocess(320, 480)
    found, whole = (decode_image(each, exact).pixels for each in (data[:-cut], data))
    grey = (found == GREY).all(axis=(0, 2))
    assert np.array_equal(found[:, ~grey], whole[:, ~grey])
    assert grey.sum() < 320 * cut / len(data) + 24


def test_damaged_picture_is_turned_like_a_sound_one() -> None:
    data = turned(photo(), 3, "JPEG")
    decoded = decode_image(data[: len(data) // 2], PREPROCESS)
    assert decoded.status == "partial"
    assert mean_error(decoded.pixels[:, -24:], pixels_of(photo())[:, -24:]) < 6
    assert np.abs(decoded.pixels[:, :16].astype(int) - GREY).max() <= 1


@pytest.mark.parametrize("progressive", [False, True])
def test_a_quarter_of_the_pixels_is_the_least(progressive: bool) -> None:
    data = encode(photo(), "JPEG", progressive=progressive)
    header = data.index(b"\xff\xda") + 40
    with pytest.raises(UnreadableFile) as refusal:
        decode_image(data[:header], PREPROCESS)
    assert refusal.value.reason is Reason.TRUNCATED


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "HEIF", "AVIF"])
def test_flipped_and_cut_bytes_give_a_picture_or_a_reason(format_name: str) -> None:
    sound = encode(scene(), format_name)
    rng = random.Random(format_name)
    for _ in range(60):
        data = bytearray(sound[: rng.randrange(1, len(sound) + 1)])
        for _ in range(rng.randrange(1, 5)):
            data[rng.randrange(min(len(data), 200 if rng.random() < 0.5 else len(data)))] = rng.randrange(256)
        try:
            decoded = decode_image(bytes(data), PREPROCESS, limits=DecodeLimits(max_pixels=10**6))
        except UnreadableFile:
            continue
        assert decoded.pixels.shape == (3, 64, 96)


def test_plain_jpeg_is_decoded_as_in_training() -> None:
    for size in ((224, 224), (500, 375), (96, 64), (375, 500)):
        for options in ({}, {"progressive": True}, {"subsampling": "4:2:0", "quality": 60}):
            data = encode(photo().resize(size), "JPEG", **options)
            with Image.open(io.BytesIO(data)) as image:
                for preprocess in (PREPROCESS, Preprocess(224, 224), Preprocess(256, 192)):
                    if min(size) < 4 * max(preprocess.height, preprocess.width):
                        expected = pixels_of(image, preprocess)
                        assert np.array_equal(decode_image(data, preprocess).pixels, expected)


def test_grey_jpeg_is_decoded_as_in_training() -> None:
    data = encode(photo().convert("L"), "JPEG", subsampling=-1)
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(decode_image(data, PREPROCESS).pixels, pixels_of(image))


@pytest.mark.parametrize("orientation", [1, 6])
def test_large_jpeg_decoded_at_a_fraction_looks_the_same(orientation: int) -> None:
    large = photo().resize((2400, 1600), Image.Resampling.BICUBIC)
    decoded = decode_image(turned(large, orientation, "JPEG"), PREPROCESS)
    assert (decoded.width, decoded.height) == (2400, 1600)
    assert mean_error(decoded.pixels, pixels_of(large)) < 1


def test_honest_large_jpeg_passes_where_a_png_of_its_size_is_refused() -> None:
    large = scene(2000, 1500)
    limits = DecodeLimits(max_pixels=1_000_000)
    assert decode_image(encode(large, "JPEG"), PREPROCESS, limits=limits).status == "ok"
    with pytest.raises(UnreadableFile, match=r"2000 x 1500 pixels, expected at most 1000000"):
        decode_image(encode(large, "PNG"), PREPROCESS, limits=limits)


def test_jpeg_that_is_large_even_at_the_fraction_it_is_needed_at_is_refused() -> None:
    with pytest.raises(UnreadableFile, match=r"2000 x 1500 pixels, expected at most 1000000"):
        decode_image(encode(scene(2000, 1500), "JPEG"), Preprocess(512, 512), limits=DecodeLimits(max_pixels=1_000_000))


def test_file_over_the_byte_limit_is_too_large() -> None:
    with pytest.raises(UnreadableFile) as refusal:
        decode_image(encode(scene(), "PNG"), PREPROCESS, limits=DecodeLimits(max_bytes=100))
    assert refusal.value.reason is Reason.TOO_LARGE


def test_png_with_text_that_unpacks_to_200_megabytes_is_a_picture_still() -> None:
    assert np.array_equal(decode_image(compressed_text_bomb(), PREPROCESS).pixels, pixels_of(scene()))


def test_dark_16_bit_png_stays_dark_but_a_12_bit_tiff_is_scaled_by_its_range() -> None:
    ramp = np.linspace(0, 4095, 64 * 96).astype(np.uint16).reshape(64, 96)
    assert decode_image(png(ramp, 0), PREPROCESS).pixels.max() <= 17
    assert decode_image(encode(Image.fromarray(ramp), "TIFF"), PREPROCESS).pixels.max() >= 254


def test_float_tiff_with_holes_and_negative_values_keeps_its_range() -> None:
    values = np.linspace(-2, 2, 64 * 96).reshape(64, 96).astype(np.float32)
    values[0, 0], values[0, 1] = np.nan, np.inf
    grey = decode_image(encode(Image.fromarray(values), "TIFF"), PREPROCESS).pixels
    assert grey[0, 63, 95] == 255
    assert abs(int(grey[0, 32, 0]) - GREY) <= 2


def test_note_names_a_file_that_is_something_else() -> None:
    jpeg = encode(scene(), "JPEG")
    assert decode_image(jpeg, PREPROCESS, extension=".HEIC").note == "named .heic, is JPEG"
    assert decode_image(jpeg, PREPROCESS, extension=".JPG").note is None
    assert decode_image(jpeg, PREPROCESS, extension=None).note is None
    assert decode_image(encode(scene(), "MPO", save_all=True), PREPROCESS, extension=".jpg").note is None


def test_50000_frames_cost_as_little_as_one() -> None:
    one = encode(scene(32, 32).quantize(16), "GIF")
    body = one.index(b",")
    data = one[:-1] + one[body:-1] * 50_000 + b";"
    assert decode_image(data, PREPROCESS).status == "ok"


def test_switches_of_the_whole_process_stay_as_they_were() -> None:
    most, tolerant, filters = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters)
    for data in (*damaged_pictures().values(), encode(scene(), "HEIF")):
        decode_image(data, PREPROCESS)
    assert (most, tolerant) == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    assert list(warnings.filters) == filters
    assert "HEIF" not in Image.OPEN


@pytest.mark.case("C77", "S35")
def test_postscript_never_runs_an_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trap = tmp_path / "gs"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\n")
    trap.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnreadableFile, match="PostScript"):
        decode_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", PREPROCESS, extension=".jpg")
    assert not (tmp_path / "ran").exists()


def test_product_decodes_flickr8k_as_training_does() -> None:
    folder = Path(__file__).parents[3] / "shared/data/flickr8k/images"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data/flickr8k")
    preprocess = Preprocess(224, 224)
    for path in sorted(folder.glob("*.jpg"))[:40]:
        with Image.open(path) as image:
            assert np.array_equal(decode_image(path.read_bytes(), preprocess).pixels, pixels_of(image, preprocess))
