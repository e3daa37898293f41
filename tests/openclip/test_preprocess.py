"""Pixels are open_clip's own, one by one, from a transform that needs no torch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from open_clip import image_transform
from PIL import Image

from mmsearch.images import array_to_pixels, to_pixels
from mmsearch.types import Preprocess

OURS = {"squash": "squash", "shortest": "crop", "longest": "longest"}


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(width * 7919 + height).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values).convert(mode)


def theirs(picture: Image.Image, size: tuple[int, int], mode: str, interpolation: str, fill: int) -> NDArray[np.uint8]:
    transform = image_transform(size, False, (0, 0, 0), (1, 1, 1), mode, interpolation, fill)
    return np.asarray((transform(picture) * 255).round().numpy(), np.uint8)


def ours(size: tuple[int, int], mode: str, interpolation: str, fill: int) -> Preprocess:
    return Preprocess(*size, OURS[mode], interpolation, fill)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", OURS)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@settings(max_examples=40)
@given(width=st.integers(1, 400), height=st.integers(1, 400), side=st.sampled_from((32, 33, 64)), fill=st.just(7))
@example(width=224, height=224, side=224, fill=0)
@example(width=1, height=1, side=33, fill=255)
@example(width=640, height=427, side=224, fill=0)
@example(width=333, height=500, side=224, fill=0)
@example(width=20, height=1, side=32, fill=1)
def test_pixels_are_those_of_open_clip(
    mode: str, interpolation: str, width: int, height: int, side: int, fill: int
) -> None:
    if max(width, height) > 20 * min(width, height):
        return  # of such a strip only the centre is looked at
    picture, size = noise(width, height), (side, side)
    np.testing.assert_array_equal(
        to_pixels(picture, ours(size, mode, interpolation, fill)), theirs(picture, size, mode, interpolation, fill)
    )


@pytest.mark.parametrize("mode", OURS)
@pytest.mark.parametrize("size", [(48, 32), (32, 48), (33, 64)])
@pytest.mark.parametrize("shape", [(101, 67), (67, 101), (32, 48), (50, 50), (7, 90)])
def test_pixels_of_models_that_are_no_square(mode: str, size: tuple[int, int], shape: tuple[int, int]) -> None:
    picture = noise(*shape)
    np.testing.assert_array_equal(
        to_pixels(picture, ours(size, mode, "bicubic", 9)), theirs(picture, size, mode, "bicubic", 9)
    )


@pytest.mark.parametrize("mode", OURS)
def test_a_grey_picture_is_resized_before_it_becomes_rgb_too(mode: str) -> None:
    picture = noise(90, 61, "L")
    np.testing.assert_array_equal(
        to_pixels(picture, ours((32, 32), mode, "bicubic", 5)), theirs(picture, (32, 32), mode, "bicubic", 5)
    )


def test_the_whole_of_a_strip_is_seen_with_longest_and_its_margins_are_filled() -> None:
    strip = np.full((3, 3000, 3), 200, np.uint8)
    pixels = array_to_pixels(strip, Preprocess(16, 16, "longest", "bilinear", 11))
    assert (pixels[:, 7, :] == 200).all()
    assert (np.delete(pixels, 7, axis=1) == 11).all()


def test_a_strip_is_never_scaled_to_something_enormous() -> None:
    strip = np.zeros((2, 60_000, 3), np.uint8)
    assert array_to_pixels(strip, Preprocess(224, 224, "crop")).shape == (3, 224, 224)
