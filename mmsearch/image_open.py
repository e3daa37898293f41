"""Bytes -> a loaded Pillow picture: by the one decoder its first bytes call for, its size checked beforehand."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

from PIL import Image, ImageFile, features

from mmsearch.errors import UnreadableFile
from mmsearch.image_formats import require_format, webp_canvas, without_metadata
from mmsearch.image_limits import DecodeLimits
from mmsearch.image_preview import shows_nothing, use_preview
from mmsearch.image_salvage import one_line, salvage, tail_is_zeros
from mmsearch.image_versions import require_decoders
from mmsearch.types import Reason

_PNG_DEPTH = 24  # where a PNG says how many bits a level has
_JPEG_PIXELS = 4  # a JPEG may have this many times `max_pixels`: it is scaled down while it is decoded

# Opened by class, not by Image.open: that applies Image.MAX_IMAGE_PIXELS, which belongs to the program around us, reads
# the other pictures of an MPO, and needs HEIF registered for the whole process.
_DECODERS = {
    "JPEG": ("PIL.JpegImagePlugin", "JpegImageFile"),
    "PNG": ("PIL.PngImagePlugin", "PngImageFile"),
    "WEBP": ("PIL.WebPImagePlugin", "WebPImageFile"),
    "GIF": ("PIL.GifImagePlugin", "GifImageFile"),
    "BMP": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "TIFF": ("PIL.TiffImagePlugin", "TiffImageFile"),
    "HEIF": ("pillow_heif.as_plugin", "HeifImageFile"),
    "AVIF": ("PIL.AvifImagePlugin", "AvifImageFile"),
}
_OPTIONAL = frozenset(("WEBP", "AVIF"))  # Pillow can be built without them


@dataclass(frozen=True, slots=True)
class Picture:
    """A loaded picture. `width` and `height` are its own, whatever was decoded in its place: a fraction, a preview.

    `missing` is a mask (mode "1", size of `image`) of the pixels that a damaged file did not give, else None.
    """

    format: str
    image: Image.Image
    width: int
    height: int
    status: Literal["ok", "partial"]
    missing: Image.Image | None


def use_one_thread() -> None:
    """Let every decoder of this process work on one thread from now on: for processes that run side by side."""
    with contextlib.suppress(ImportError):
        from PIL import AvifImagePlugin

        AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    with contextlib.suppress(ImportError):
        from pillow_heif import options

        options.DECODE_THREADS = 1


def load_picture(data: bytes, limits: DecodeLimits, *, side: int | None = None) -> Picture:
    """Return the first picture in `data`, loaded; a damaged one as far as it goes.

    With `side` a large JPEG is decoded at a fraction of its size, and a HEIC may be shown by the preview inside it, but
    with both sides at least `side` pixels long.

    Raises:
        UnreadableFile: `EMPTY`, `UNIDENTIFIED`, `UNSUPPORTED_INSIDE`, `TOO_LARGE` or `TRUNCATED`.
        MMSearchError: a decoder is too old to be fed with it.
    """
    require_decoders()
    name = require_format(data)
    if len(data) > limits.max_bytes:
        raise UnreadableFile(Reason.TOO_LARGE, f"{len(data)} bytes, expected at most {limits.max_bytes}")
    try:
        return _load(data, name, limits, side)
    except MemoryError as error:
        raise UnreadableFile(Reason.TOO_LARGE, f"{name} that needs more memory than it may take") from error
    except Image.DecompressionBombError as error:
        raise UnreadableFile(Reason.TOO_LARGE, f"{name}: {one_line(error)}") from error


def _load(data: bytes, name: str, limits: DecodeLimits, side: int | None) -> Picture:
    header: tuple[int, int] = (0, 0)
    scaled = False

    def open_again(content: bytes) -> ImageFile.ImageFile:
        nonlocal header, scaled
        image = _open(content, name, limits)
        header = image.size
        if side is not None:
            _scale_down(image, name, content, side)
        scaled = image.size != header
        _check_pixels(image.size, limits.max_pixels)
        return image

    image, missing = _load_whole_or_part(data, name, open_again)
    if name == "HEIF" and scaled and shows_nothing(image):
        side = None
        image, missing = _load_whole_or_part(data, name, open_again)
    width, height = header if scaled else image.size  # Pillow turns a TIFF while it loads: its sides may have swapped
    return Picture(name, image, width, height, "ok" if missing is None else "partial", missing)


def _scale_down(image: ImageFile.ImageFile, name: str, data: bytes, side: int) -> None:
    if name == "JPEG":
        image.draft(None, (side, side))
    elif name == "HEIF":
        use_preview(image, data, side)


def _load_whole_or_part(
    data: bytes, name: str, open_image: Callable[[bytes], ImageFile.ImageFile]
) -> tuple[Image.Image, Image.Image | None]:
    image = open_image(data)
    try:
        image.load()
    except (MemoryError, Image.DecompressionBombError):
        raise
    except Exception as error:
        return salvage(data, name, open_image, error)
    if name == "JPEG" and tail_is_zeros(data):
        rescued, missing = salvage(data, name, open_image, OSError("the end of the file is all zeros"))
        if missing.getbbox() is not None:  # else the zeros belong to what some cameras append to a whole picture
            return rescued, missing
    return image, None


def _open(data: bytes, name: str, limits: DecodeLimits) -> ImageFile.ImageFile:
    if name == "WEBP":
        _check_pixels(webp_canvas(data) or (0, 0), limits.max_pixels)
    try:
        image = _decoder(name)(io.BytesIO(data))
    except (MemoryError, Image.DecompressionBombError, UnreadableFile):
        raise
    except Exception as error:
        bare = without_metadata(data, name)
        if bare != data:
            return _open(bare, name, limits)
        told = one_line(error)
        if "unknown" in told.lower() or "unsupported" in told.lower():
            raise UnreadableFile(Reason.UNSUPPORTED_INSIDE, f"{name} of a kind that is not read ({told})") from error
        raise UnreadableFile(Reason.TRUNCATED, f"{name} with a header that cannot be read ({told})") from error
    _check_pixels(image.size, limits.max_pixels * (_JPEG_PIXELS if name == "JPEG" else 1))
    hidden = image.info.get("transparency")
    if name == "PNG" and data[_PNG_DEPTH] == 16 and isinstance(hidden, tuple):
        # Pillow keeps the upper half of each level, but hides the colour that it finds in whole levels
        image.info["transparency"] = tuple(level >> 8 for level in hidden)
    return image


def _decoder(name: str) -> Callable[[io.BytesIO], ImageFile.ImageFile]:
    module, decoder = _DECODERS[name]
    try:
        available = name not in _OPTIONAL or features.check(name.lower())
        loaded = importlib.import_module(module)
    except ImportError:
        available = False
    if not available:
        detail = f"{name}, which the installed Pillow or pillow-heif cannot read: install their wheels from PyPI"
        raise UnreadableFile(Reason.UNSUPPORTED_INSIDE, detail)
    return cast("Callable[[io.BytesIO], ImageFile.ImageFile]", getattr(loaded, decoder))


def _check_pixels(size: tuple[int, int], most: int) -> None:
    width, height = size
    if width * height > most:
        raise UnreadableFile(Reason.TOO_LARGE, f"{width} x {height} pixels, expected at most {most} in all")
