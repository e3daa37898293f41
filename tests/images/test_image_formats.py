"""The first bytes decide."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encode, scene

from mmsearch.image_formats import IMAGE_EXTENSIONS, mismatch_note, sniff_format, webp_canvas, without_metadata

FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "HEIF", "AVIF"]


@pytest.mark.parametrize("name", FORMATS)
def test_64_bytes_are_enough(name: str) -> None:
    assert sniff_format(encode(scene(), name)[:64]) == name


def test_stereo_pair_is_a_jpeg() -> None:
    assert sniff_format(encode(scene(), "MPO", save_all=True, append_images=[scene()])[:64]) == "JPEG"


def test_avif_under_the_brand_of_all_stills_is_an_avif() -> None:
    head = b"\0\0\0\x20ftypmif1\0\0\0\0mif1avifmiaf"
    assert sniff_format(head.ljust(64, b"\0")) == "AVIF"
    assert sniff_format(head.replace(b"avif", b"heic").ljust(64, b"\0")) == "HEIF"


@pytest.mark.parametrize(
    "head", [b"", b"\xff", b"BM is not enough", b"RIFF\0\0\0\0WAVEfmt ", b"\0\0\0\x14ftypqt  \0\0\0\0qt  "]
)
def test_near_misses_are_no_pictures(head: bytes) -> None:
    assert sniff_format(head) is None


@given(st.binary(max_size=80))
@settings(deadline=None)
def test_any_bytes_have_an_answer(head: bytes) -> None:
    assert sniff_format(head) in {None, *FORMATS}


@pytest.mark.parametrize(
    "options", [{"lossless": True}, {"quality": 80}, {"exif": b"Exif\0\0MM\0*"}, {"quality": 80, "xmp": b"<x/>"}]
)
def test_webp_canvas_is_read_from_every_kind_of_header(options: dict[str, object]) -> None:
    assert webp_canvas(encode(scene(123, 45), "WEBP", **options)) == (123, 45)


def test_extensions_are_lower_case_and_each_promises_one_format() -> None:
    assert all(extension == extension.lower() and extension.startswith(".") for extension in IMAGE_EXTENSIONS)
    for extension in IMAGE_EXTENSIONS:
        assert sum(mismatch_note(extension, name) is None for name in FORMATS) == 1


def test_file_without_extension_gets_a_note() -> None:
    assert mismatch_note("", "PNG") == "named without an extension, is PNG"


def test_metadata_is_left_in_formats_that_need_no_help() -> None:
    jpeg = encode(scene(), "JPEG", comment="Exif tEXt")
    assert without_metadata(jpeg, "JPEG") == jpeg


@pytest.mark.parametrize("cut", range(0, 60, 7))
def test_png_cut_anywhere_can_be_stripped(cut: int) -> None:
    png = encode(scene(), "PNG")
    assert png[:cut].startswith(without_metadata(png[:cut], "PNG")[:8])
