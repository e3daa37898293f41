"""Whatever a caller may hand over as a picture -> pixels, with complaints that say which of them is meant."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from mmsearch.errors import UnreadableFile, UsageError
from mmsearch.image_limits import DecodeLimits
from mmsearch.images import array_to_pixels, decode_image, to_pixels
from mmsearch.regular_file import open_regular
from mmsearch.safe_text import safe_path
from mmsearch.types import Preprocess, Reason

ImageInput: TypeAlias = str | os.PathLike[str] | Image | NDArray[np.uint8]


def input_pixels(image: ImageInput, preprocess: Preprocess, *, number: int | None) -> NDArray[np.uint8]:
    """Pixels (3, height, width) of the path of a file, a PIL image, or a uint8 array (height, width, 3) in RGB.

    What is raised gets the `number` of the item, None for the only one, and a file's name.

    Raises:
        UnreadableFile: the picture cannot be decoded.
        UsageError: `image` is none of these, or its file does not exist.
    """
    where = "the image" if number is None else f"image {number}"
    if isinstance(image, str | os.PathLike):
        path = safe_path(os.fspath(image))
        where = path if number is None else f"{where} ({path})"
    try:
        return _pixels(image, preprocess)
    except UnreadableFile as error:
        raise UnreadableFile(error.reason, f"{where}: {error.detail}") from error
    except (UsageError, ValueError, TypeError) as error:
        raise UsageError(f"{where}: {error}") from error


def _pixels(image: ImageInput, preprocess: Preprocess) -> NDArray[np.uint8]:
    if isinstance(image, np.ndarray):
        return array_to_pixels(image, preprocess)
    if isinstance(image, str | os.PathLike):
        data = _read_picture(image, DecodeLimits().max_bytes)
        return decode_image(data, preprocess, extension=Path(image).suffix).pixels
    if isinstance(image, Image):
        return to_pixels(image, preprocess)
    raise UsageError(f"{type(image).__name__} is not a picture: expected a path, a PIL image or an array")


def _read_picture(path: str | os.PathLike[str], limit: int) -> bytes:
    """The bytes of a picture's file, at most `limit` of them."""
    try:
        with open_regular(path) as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise UsageError("there is no such file") from None
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise UsageError("it is not a file") from error
        raise UnreadableFile(Reason.PERMISSION, error.strerror or type(error).__name__) from error
    if len(data) > limit:
        raise UnreadableFile(Reason.TOO_LARGE, f"it has more than {limit} bytes")
    return data
