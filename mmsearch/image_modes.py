"""Any Pillow mode -> a plain 8-bit one (L, RGB, CMYK or LAB), with nothing clipped, hidden or left transparent."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, TiffImagePlugin

_PLAIN = frozenset(("L", "RGB", "CMYK", "LAB"))
_SCALES = (255, 1023, 4095, 16383, 65535)  # white at 8, 10, 12, 14 and 16 bits
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # of TIFF
_ROWS = 1024  # scaled at a time, so that a large picture is never held as floats


def plain(image: Image.Image) -> Image.Image:
    """Return `image` in mode L, RGB, CMYK or LAB, 8 bits a channel, on white where transparent; `info` is kept."""
    if image.mode.startswith("I") or image.mode == "F":
        return _eight_bits(image)
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        return ImageChops.invert(image)  # Pillow takes every CMYK JPEG for one of Adobe's, which are stored inverted
    if image.has_transparency_data:
        return _on_white(image)
    if image.mode in _PLAIN:
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _on_white(image: Image.Image) -> Image.Image:
    # by way of RGBA also for palettes, whose transparency is lost on the direct way to RGB
    rgba = image.convert("RGBA")
    alpha = rgba.getchannel("A").getextrema()
    unused = image.format == "BMP" and alpha == (0, 0)  # screenshots are often written with a channel left at zero
    if alpha == (255, 255) or unused:
        return rgba.convert("RGB")
    page = Image.new("RGB", rgba.size, "white")
    page.paste(rgba, mask=rgba.getchannel("A"))
    page.info = dict(image.info)
    return page


def _eight_bits(image: Image.Image) -> Image.Image:
    # Pillow's own convert() clips at 255: a 16-bit picture turns white, a float one in [0, 1] black
    values = np.asarray(image)
    low, high = _finite_range(values)
    if image.format == "PNG" and values.dtype.kind != "f":
        black, white = 0.0, 65535.0  # the format says so; elsewhere the values have to
    else:
        black, white = _scale(low, high, values.dtype.kind == "f")
    levels = np.empty(values.shape, dtype=np.uint8)
    for start in range(0, len(values), _ROWS):
        rows = values[start : start + _ROWS].astype(np.float64)
        scaled = np.nan_to_num((rows - black) * (255.0 / (white - black)), nan=0.0, posinf=255.0, neginf=0.0)
        levels[start : start + _ROWS] = np.clip(np.rint(scaled), 0, 255)
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        levels = 255 - levels  # which Pillow sees to in 8 bits, but not in 16
    hidden = image.info.get("transparency")
    if isinstance(hidden, int) and image.format == "PNG":
        levels[values == hidden] = 255
    result = Image.fromarray(levels)
    result.info = dict(image.info)
    return result


def _finite_range(values: npt.NDArray[np.generic]) -> tuple[float, float]:
    if values.dtype.kind != "f":
        return float(values.min()), float(values.max())
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def _scale(low: float, high: float, real: bool) -> tuple[float, float]:
    """Return (black, white): the smallest customary scale that holds the values, else the values' own range."""
    if low >= 0:
        for white in (1.0, *map(float, _SCALES)) if real else map(float, _SCALES):
            if high <= white:
                return 0.0, white
    return low, high if high > low else low + 1.0
