"""What is left of a damaged picture: which pixels were decoded, and whether they are enough."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from mmsearch.errors import UnreadableFile
from mmsearch.types import Reason

ENOUGH = 0.25  # of the pixels; with less, an embedding would describe the damage
_END_OF_JPEG = b"\xff\xd9"
_SCAN_OF_JPEG = b"\xff\xda"
_MARKER_IN_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # all but those that restart the decoder
_CONTINUATION = np.random.default_rng(0).integers(0, 255, 65_536, np.uint8).tobytes()  # never 255, so no marker
_ZEROS = 64  # bytes of zeros at the end that no encoder writes: an unfinished download or copy

Mask = npt.NDArray[np.bool_]
OpenImage = Callable[[bytes], ImageFile.ImageFile]
Found = tuple[Image.Image, Mask]


def tail_is_zeros(jpeg: bytes) -> bool:
    """Return whether `jpeg` ends in zeros where its end marker should be; libjpeg reads them as flat grey."""
    if not jpeg.endswith(bytes(_ZEROS)):
        return False
    return not jpeg.rstrip(b"\0").endswith(_END_OF_JPEG)


def one_line(error: Exception) -> str:
    """Return what `error` says, without the line breaks that some decoders put in."""
    return " ".join(str(error).split())


def salvage(data: bytes, name: str, open_image: OpenImage, error: Exception) -> tuple[Image.Image, Image.Image]:
    """Return the picture as far as it can be decoded, and a mask ("1") of the pixels that could not.

    `error` is what stopped the strict attempt. Missing pixels are found by decoding over two different canvases: a
    pixel that differs was never written. That holds for every mode, and needs no switch for the whole process as
    Pillow's LOAD_TRUNCATED_IMAGES is one.

    Raises:
        UnreadableFile: `TRUNCATED` when less than `ENOUGH` could be decoded.
    """
    if name == "JPEG":
        data = data.rstrip(b"\0")
    image, missing = _decode_over_canvases(data, open_image)
    if name == "JPEG":
        finish = _finish_progressive if "progressive" in image.info else _finish_sequential
        image, missing = finish(data, open_image, (image, missing))
    decoded = 1.0 - float(missing.mean())
    if decoded < ENOUGH:
        detail = f"{decoded:.0%} of the {name} could be decoded, expected at least {ENOUGH:.0%} ({one_line(error)})"
        raise UnreadableFile(Reason.TRUNCATED, detail) from error
    return image, Image.fromarray(missing)


def _decode_over_canvases(data: bytes, open_image: OpenImage) -> Found:
    image, dark = _decode_over(open_image(data), 0)
    _, bright = _decode_over(open_image(data), 255)
    differs = dark != bright
    return image, differs.any(axis=-1) if differs.ndim == 3 else differs


def _decode_over(image: ImageFile.ImageFile, level: int) -> tuple[Image.Image, npt.NDArray[np.generic]]:
    bands = len(image.getbands())
    canvas = Image.new(image.mode, image.size, level if bands == 1 else (level,) * bands)
    image.im = canvas.im
    try:
        image.load()
    except MemoryError:
        raise
    except Exception:
        image.tile = []  # what remains counts as loaded, or every later call would decode, and fail, again
    canvas = Image.new(image.mode, image.size)
    canvas.im = image.im
    return image, np.asarray(canvas)


def _finish_sequential(data: bytes, open_image: OpenImage, found: Found) -> Found:
    # Without its end marker a JPEG keeps back its last rows, for what might follow. So both ways in which it might go
    # on are tried: rows that are the same either way are in the file. A marker in the middle would stop both.
    body = data.rstrip(b"\xff")  # half a marker
    if _MARKER_IN_SCAN.search(body, body.rfind(_SCAN_OF_JPEG) + len(_SCAN_OF_JPEG)):
        return found
    image, other = (open_image(body + more + _END_OF_JPEG) for more in (b"", _CONTINUATION))
    try:
        image.load()
        other.load()
    except MemoryError:
        raise
    except Exception:
        return found
    rows = np.asarray(image).reshape(image.height, -1), np.asarray(other).reshape(other.height, -1)
    differs = (rows[0] != rows[1]).any(axis=1)
    missing = found[1].copy()
    missing[: int(np.argmax(differs)) if differs.any() else len(differs)] = False
    return image, missing


def _finish_progressive(data: bytes, open_image: OpenImage, found: Found) -> Found:
    if not found[1].all():
        return found
    # A progressive JPEG gives no pixel before its last scan, unless it is told that this was the last. What no scan has
    # reached is then mid grey, which is only evidence where it fills whole rows at the bottom.
    image = open_image(data + _END_OF_JPEG)
    try:
        image.load()
    except MemoryError:
        raise
    except Exception:
        return image, found[1]
    pixels = np.asarray(image)
    grey_rows = (pixels == 128).reshape(len(pixels), -1).all(axis=1)
    reached = len(grey_rows) - int(np.argmin(grey_rows[::-1])) if not grey_rows.all() else 0
    missing = np.zeros(pixels.shape[:2], dtype=np.bool_)
    missing[reached:] = True
    return image, missing
