"""A plain picture in its own colour space -> RGB in sRGB. A profile that is broken or beside the point is ignored."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # ICC colour space -> the mode its numbers come in
_SAME = 3  # levels by which renderings of one colour may differ between two makers' sRGB profiles
_PROBE_STEPS = 6  # levels a channel in the probe that tells sRGB from other RGB spaces


def to_srgb(image: Image.Image) -> Image.Image:
    """Return `image` (mode L, RGB, CMYK or LAB) as RGB in sRGB, through the profile in its `info` when that is sane.

    A picture whose profile is sRGB in all but name keeps its numbers exactly.
    """
    profile = image.info.get("icc_profile")
    if isinstance(profile, bytes) and image.mode in _MODES.values():
        conversion = _conversion(profile)
        if conversion is not None and (image.mode == conversion.mode or (image.mode, conversion.mode) == ("L", "RGB")):
            return conversion.apply(image.convert(conversion.mode))
    return image.convert("RGB")


class _Conversion:
    """A colour transform to sRGB and the mode of the pictures it takes."""

    def __init__(self, profile: bytes) -> None:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        self.mode = _MODES[source.profile.xcolor_space]
        self._transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), self.mode, "RGB")

    def apply(self, image: Image.Image) -> Image.Image:
        return self._transform.apply(image)


@lru_cache(maxsize=8)  # one camera, one profile: a folder of photos has a handful
def _conversion(profile: bytes) -> _Conversion | None:
    try:
        conversion = _Conversion(profile)
        changes = _changes(conversion)
    except (ImageCms.PyCMSError, ImportError, KeyError, OSError, ValueError):
        return None
    return conversion if changes else None


def _changes(conversion: _Conversion) -> bool:
    if conversion.mode == "CMYK":
        return True
    levels = np.linspace(0, 255, _PROBE_STEPS).astype(np.uint8)
    if conversion.mode == "L":
        probe = Image.fromarray(levels[np.newaxis])
    else:
        probe = Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3))
    before = np.asarray(probe.convert("RGB"), dtype=np.int16)
    after = np.asarray(conversion.apply(probe), dtype=np.int16)
    return int(np.abs(after - before).max()) > _SAME
