"""C34 to C54: sound pictures that are stored in an unusual way, each beside the plain picture it must look like."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache

import numpy as np
from corpus_case import CorpusCase, content, photo
from pictures import Unusual, encode, on_white, png, png_chunk, unusual_pictures
from PIL import Image

_HIDDEN = (12_345, 54_321, 777)
_NAMES = {
    34: ("grey_16_bit.png", "grey_16_bit.tif"),
    35: ("rgb_16_bit.png",),
    36: ("grey_float.tif",),
    37: ("grey_int32.tif",),
    38: ("1_bit.png",),
    39: ("palette.png",),
    40: ("palette_transparent.png", "palette_transparent.gif"),
    41: ("grey_alpha.png",),
    42: ("fully_transparent.png",),
    43: ("rgba.png", "rgba.webp"),
    44: ("cmyk.jpg", "cmyk.tif"),
    45: ("cmyk_not_adobe.jpg", "ycck.jpg"),
    46: ("lab.tif",),
    47: ("junk_profile.jpg",),
    48: ("wide_gamut.jpg", "wide_gamut.png", "wide_gamut.heic", "wide_gamut.avif", "srgb_profile.png"),
    49: ("one_pixel.png",),
    50: ("animated.webp",),
    51: ("animated.png",),
    52: ("animated.avif",),
    53: ("pages.tif",),
    54: ("stereo.jpg",),
}


def pixel_cases() -> list[CorpusCase]:
    """The cases of this group."""
    cases = [unusual_case(f"C{number}", name) for number, names in _NAMES.items() for name in names]
    cases.append(_case(43, "dark_where_transparent.png", _dark_where_transparent, _dark_twin))
    cases.append(_case(35, "rgb_16_bit_transparent.png", _deep_with_a_hidden_colour, _hidden_twin))
    cases.append(_case(53, "animated.gif", lambda: _unusual()["animated.gif"].data, _twin("animated.gif")))
    return cases


def unusual_case(id: str, name: str) -> CorpusCase:
    """The case of one of `unusual_pictures`."""
    return CorpusCase(id, name, content(lambda: _unusual()[name].data), twin=_twin(name))


def _case(number: int, name: str, data: Callable[[], bytes], twin: Callable[[], Image.Image]) -> CorpusCase:
    return CorpusCase(f"C{number}", name, content(data), twin=twin)


@cache
def _unusual() -> dict[str, Unusual]:
    return {each.name: each for each in unusual_pictures(photo())}


def _twin(name: str) -> Callable[[], Image.Image]:
    return lambda: _unusual()[name].twin


def _darkened() -> tuple[Image.Image, Image.Image]:
    """A picture already multiplied by its own transparency, and that transparency."""
    ramp = Image.linear_gradient("L").resize(photo().size)
    share = np.asarray(ramp, dtype=np.float32)[..., np.newaxis] / 255
    return Image.fromarray((np.asarray(photo()) * share).astype(np.uint8)), ramp


def _dark_where_transparent() -> bytes:
    dark, ramp = _darkened()
    dark.putalpha(ramp)
    return encode(dark, "PNG")


def _deep_with_a_hidden_colour() -> bytes:
    levels = np.asarray(photo()).astype(np.uint16) * 257
    levels[: len(levels) // 4] = _HIDDEN
    data = png(levels, 2)
    return data[:33] + png_chunk(b"tRNS", struct.pack(">3H", *_HIDDEN)) + data[33:]


def _hidden_twin() -> Image.Image:
    levels = np.asarray(photo()).copy()
    levels[: len(levels) // 4] = 255
    return Image.fromarray(levels)


def _dark_twin() -> Image.Image:
    return on_white(*_darkened())
