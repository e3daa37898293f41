"""From an upright picture to the model's pixels: shapes, crops, colours, and the other ways in."""

from __future__ import annotations

import io
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from icc_profiles import cmyk_where_cyan_prints_red, display_p3, srgb_by_another_maker
from pictures import encode, exif_with, scene, turned, unusual_pictures
from PIL import Image, ImageCms
from rubbish import photo

from mmsearch.errors import UnreadableFile, UsageError
from mmsearch.image_color import _Conversion
from mmsearch.image_warnings import quiet_pillow
from mmsearch.images import DecodeLimits, array_to_pixels, decode_image, load_rgb, to_pixels
from mmsearch.types import Preprocess, Reason

CROP = Preprocess(16, 16, resize="crop")


def resized_then_cropped(image: Image.Image, preprocess: Preprocess) -> np.ndarray:
    """Resize and CenterCrop as torchvision defines them, for a square model, built step by step."""
    side = preprocess.width
    width, height = image.size
    if width <= height:
        scaled = image.resize((side, int(side * height / width)), Image.Resampling.BICUBIC)
    else:
        scaled = image.resize((int(side * width / height), side), Image.Resampling.BICUBIC)
    left, top = round((scaled.width - side) / 2.0), round((scaled.height - side) / 2.0)
    return np.asarray(scaled.crop((left, top, left + side, top + side))).transpose(2, 0, 1)


@given(width=st.integers(1, 120), height=st.integers(1, 120))
@settings(max_examples=60, deadline=None)
def test_crop_equals_resizing_the_whole_and_cutting_its_centre(width: int, height: int) -> None:
    image = scene(120, 120).crop((0, 0, width, height))
    found = to_pixels(image, CROP)
    assert np.abs(found.astype(int) - resized_then_cropped(image, CROP).astype(int)).max() <= 1


@pytest.mark.parametrize("preprocess", [CROP, Preprocess(16, 16), Preprocess(8, 32, resize="crop")])
def test_thread_thin_picture_keeps_its_centre(preprocess: Preprocess) -> None:
    strip = Image.new("RGB", (1, 60_000), "red")
    strip.paste((0, 0, 255), (0, 29_000, 1, 31_000))
    for image in (strip, strip.transpose(Image.Transpose.ROTATE_90)):
        pixels = to_pixels(image, preprocess)
        assert pixels.shape == (3, preprocess.height, preprocess.width)
        assert (pixels[2] == 255).all() and (pixels[0] == 0).all()


def test_panorama_within_the_ratio_is_shown_whole() -> None:
    wide = Image.new("RGB", (1900, 100), "white")
    wide.paste((0, 0, 0), (0, 0, 100, 100))
    assert to_pixels(wide, Preprocess(19, 19))[0, :, 0].max() < 40
    limits = DecodeLimits(max_ratio=2)
    cut = decode_image(encode(wide, "PNG"), Preprocess(19, 19), limits=limits)
    assert (cut.pixels == 255).all()
    assert (cut.width, cut.height) == (1900, 100)


def test_bilinear_differs_from_bicubic_as_pillow_does() -> None:
    preprocess = Preprocess(40, 40, interpolation="bilinear")
    expected = np.asarray(photo().resize((40, 40), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.array_equal(to_pixels(photo(), preprocess), expected)


def test_picture_array_and_file_give_the_same_pixels() -> None:
    preprocess = Preprocess(40, 56)
    image = photo()
    expected = decode_image(encode(image, "PNG"), preprocess).pixels
    assert np.array_equal(to_pixels(image, preprocess), expected)
    assert np.array_equal(array_to_pixels(np.asarray(image), preprocess), expected)
    assert np.array_equal(
        array_to_pixels(np.asarray(image)[::-1], preprocess),
        to_pixels(image.transpose(Image.Transpose.FLIP_TOP_BOTTOM), preprocess),
    )


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
def test_picture_opened_by_the_caller_is_turned_once_and_left_alone(format_name: str) -> None:
    preprocess = Preprocess(64, 96)
    data = turned(scene(), 6, format_name)
    with Image.open(io.BytesIO(data)) as image:
        mode = image.mode
        first, second = to_pixels(image, preprocess), to_pixels(image, preprocess)
        assert image.mode == mode
    assert np.array_equal(first, second)
    assert np.array_equal(first, decode_image(data, preprocess).pixels)


def test_picture_that_cannot_be_loaded_says_so() -> None:
    data = encode(photo(), "PNG")
    with Image.open(io.BytesIO(data[: len(data) // 3])) as image, pytest.raises(UnreadableFile) as refusal:
        to_pixels(image, CROP)
    assert refusal.value.reason is Reason.TRUNCATED


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_array_of_another_shape_or_type_is_a_usage_error(array: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"expected uint8 \(height, width, 3\)"):
        array_to_pixels(array, CROP)


def test_cmyk_goes_through_its_profile() -> None:
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    naive = decode_image(encode(cyan, "TIFF"), CROP).pixels
    red = decode_image(encode(cyan, "TIFF", icc_profile=cmyk_where_cyan_prints_red()), CROP).pixels
    assert naive[0].max() < 60 < 200 < naive[2].min()
    assert red[0].min() > 180 and red[2].max() < 60


def test_profile_of_another_colour_space_is_ignored() -> None:
    profile = cmyk_where_cyan_prints_red()
    plain, odd = (
        decode_image(encode(scene(), "PNG", **options), CROP).pixels for options in ({}, {"icc_profile": profile})
    )
    assert np.array_equal(plain, odd)


def test_srgb_by_any_maker_keeps_the_numbers_and_wide_gamut_does_not() -> None:
    whole = Preprocess(64, 96)
    plain = decode_image(encode(scene(), "PNG"), whole).pixels
    conversion = _Conversion(srgb_by_another_maker())
    assert not np.array_equal(np.asarray(conversion.apply(scene())), np.asarray(scene()))
    for profile, same in (
        (ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), True),
        (srgb_by_another_maker(), True),
        (display_p3(), False),
    ):
        assert np.array_equal(decode_image(encode(scene(), "PNG", icc_profile=profile), whole).pixels, plain) == same


def test_grey_picture_with_an_rgb_profile_stays_grey() -> None:
    pixels = decode_image(encode(scene().convert("L"), "PNG", icc_profile=display_p3()), CROP).pixels.astype(int)
    assert np.ptp(pixels, axis=0).max() <= 2


def test_thumbnail_is_upright_small_and_free_of_metadata_effects(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    path.write_bytes(turned(photo(), 6, "JPEG"))
    for source in (path, str(path), path.read_bytes()):
        small = load_rgb(source, max_side=60)
        assert (small.mode, small.size) == ("RGB", (60, 40))
    whole = load_rgb(path)
    assert np.abs(np.asarray(whole).astype(int) - np.asarray(photo()).astype(int)).mean() < 8


def test_every_unusual_picture_has_a_thumbnail() -> None:
    for case in unusual_pictures():
        small = load_rgb(case.data, max_side=48)
        assert small.mode == "RGB" and max(small.size) <= 48


def test_thumbnail_of_nothing_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match=r"gone\.jpg cannot be read"):
        load_rgb(tmp_path / "gone.jpg")
    with pytest.raises(UnreadableFile) as refusal:
        load_rgb(tmp_path)
    assert refusal.value.reason is Reason.PERMISSION


def test_limits_follow_the_memory_of_the_machine() -> None:
    one, many = DecodeLimits.for_machine(1), DecodeLimits.for_machine(1000)
    assert many.max_pixels < one.max_pixels <= DecodeLimits().max_pixels
    assert many.peak_bytes < one.peak_bytes


def test_warnings_are_silent_while_any_thread_decodes_and_heard_again_after() -> None:
    before = list(warnings.filters)
    inside, leave = threading.Barrier(3), threading.Event()

    def decode() -> None:
        with quiet_pillow():
            inside.wait(10)
            leave.wait(10)

    threads = [threading.Thread(target=decode) for _ in range(2)]
    for thread in threads:
        thread.start()
    inside.wait(10)
    with quiet_pillow():  # a third that comes and goes takes nothing away from the others
        pass
    warnings.warn_explicit("odd file", UserWarning, "TiffImagePlugin.py", 1, module="PIL.TiffImagePlugin")
    leave.set()
    for thread in threads:
        thread.join(10)
    assert list(warnings.filters) == before
    with pytest.raises(UserWarning, match="odd file"):
        warnings.warn_explicit("odd file", UserWarning, "TiffImagePlugin.py", 1, module="PIL.TiffImagePlugin")


def test_orientation_of_a_picture_in_memory_is_applied() -> None:
    image = scene().transpose(Image.Transpose.ROTATE_90)
    image.info["exif"] = exif_with(6).tobytes()
    assert np.array_equal(to_pixels(image, Preprocess(64, 96)), to_pixels(scene(), Preprocess(64, 96)))
