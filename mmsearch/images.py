"""Bytes -> upright RGB -> pixels: the one way a picture reaches a model, alone or in a worker, indexed or queried."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from mmsearch.errors import UnreadableFile, UsageError
from mmsearch.image_color import to_srgb
from mmsearch.image_formats import IMAGE_EXTENSIONS, mismatch_note
from mmsearch.image_limits import DecodeLimits
from mmsearch.image_metadata import orientation, read_metadata
from mmsearch.image_modes import plain
from mmsearch.image_open import Picture, load_picture
from mmsearch.image_warnings import quiet_pillow
from mmsearch.types import Preprocess, Reason

__all__ = [
    "IMAGE_EXTENSIONS",
    "DecodeLimits",
    "DecodedImage",
    "Pixels",
    "array_to_pixels",
    "decode_image",
    "load_rgb",
    "to_pixels",
]

Pixels = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]

_GREY = 128  # stands where a damaged file has no pixels
_FINER = 2  # a scaled decode keeps at least this many times the model's input, so that the resize decides what is seen
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = frozenset((5, 6, 7, 8))
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """A picture ready for a model, and what its file says about itself.

    `pixels` is uint8 (3, height, width) of the model. `width` and `height` are the picture's own, upright. `note` is a
    remark for a person ("named .heic, is JPEG"). `taken_at` is in Unix seconds, `latitude` and `longitude` in degrees.
    """

    pixels: Pixels
    status: Literal["ok", "partial"]
    width: int
    height: int
    note: str | None
    taken_at: int | None
    latitude: float | None
    longitude: float | None


def decode_image(
    data: bytes, preprocess: Preprocess, *, limits: DecodeLimits | None = None, extension: str | None = None
) -> DecodedImage:
    """Return the first picture in `data` as pixels for the model that `preprocess` describes.

    What the bytes are decides; `extension` (".jpg", with its dot) only earns a note when it promises something else.

    Raises:
        UnreadableFile: `EMPTY`, `UNIDENTIFIED`, `UNSUPPORTED_INSIDE`, `TOO_LARGE` or `TRUNCATED`.
    """
    limits = limits or DecodeLimits()
    with quiet_pillow():
        picture = load_picture(data, limits, side=_FINER * max(preprocess.height, preprocess.width))
        width, height = picture.width, picture.height
        if orientation(picture.image) in _SIDEWAYS:
            width, height = height, width
        metadata = read_metadata(picture.image)
        pixels = _fit(_upright(picture), preprocess, limits.max_ratio)
    return DecodedImage(
        pixels=pixels,
        status=picture.status,
        width=width,
        height=height,
        note=mismatch_note(extension, picture.format),
        taken_at=metadata.taken_at,
        latitude=metadata.latitude,
        longitude=metadata.longitude,
    )


def load_rgb(
    source: str | Path | bytes, *, max_side: int | None = None, limits: DecodeLimits | None = None
) -> Image.Image:
    """Return the picture in a file, or in bytes, as an upright RGB picture in sRGB, its sides at most `max_side`.

    Raises:
        UnreadableFile: as `decode_image`, and `PERMISSION` when the file cannot be read at all.
    """
    limits = limits or DecodeLimits()
    data = source if isinstance(source, bytes) else _read(Path(source), limits.max_bytes)
    with quiet_pillow():
        picture = load_picture(data, limits, side=max_side)
        image = _upright(picture)
        if max_side is not None:
            image.thumbnail((max_side, max_side), Image.Resampling.BICUBIC)
        return to_srgb(image)


def to_pixels(image: Image.Image, preprocess: Preprocess) -> Pixels:
    """Return uint8 pixels (3, H, W) of a Pillow picture in any mode, turned upright if its EXIF asks for it.

    Raises:
        UnreadableFile: `TRUNCATED` when the picture was opened but cannot be loaded.
    """
    with quiet_pillow():
        try:
            image.load()
        except MemoryError:
            raise
        except Exception as error:
            raise UnreadableFile(Reason.TRUNCATED, f"the picture cannot be loaded ({error})") from error
        return _fit(_turn(plain(image), orientation(image)), preprocess, DecodeLimits().max_ratio)


def array_to_pixels(array: npt.NDArray[np.uint8], preprocess: Preprocess) -> Pixels:
    """Return uint8 pixels (3, H, W) of an upright sRGB picture given as a uint8 array (height, width, 3).

    Raises:
        UsageError: the array has another shape or type, or no pixel.
    """
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise UsageError(
            f"image array of shape {array.shape} and type {array.dtype}, expected uint8 (height, width, 3)"
        )
    return _fit(Image.fromarray(np.ascontiguousarray(array)), preprocess, DecodeLimits().max_ratio)


def _read(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise UnreadableFile(Reason.PERMISSION, f"{path} cannot be read ({error.strerror})") from error
    return data


def _upright(picture: Picture) -> Image.Image:
    image = plain(picture.image)
    if picture.missing is not None:
        image.paste((_GREY,) * len(image.getbands()), mask=picture.missing)
    return _turn(image, orientation(picture.image))


def _turn(image: Image.Image, exif_orientation: int) -> Image.Image:
    turn = _TURNS.get(exif_orientation)
    return image if turn is None else image.transpose(turn)


def _fit(image: Image.Image, preprocess: Preprocess, max_ratio: float) -> Pixels:
    # Colours are converted after the resize: a phone's photos are all wide gamut, and that is far fewer pixels.
    size, whole = (preprocess.width, preprocess.height), (0.0, 0.0, float(image.width), float(image.height))
    if preprocess.resize == "squash":
        box = _centre(image.size, max_ratio)
    elif preprocess.resize == "longest":
        size, box = _inside(image.size, size), whole
    else:
        image, box = _covering(image, preprocess, max_ratio)
    if box != (0.0, 0.0, float(image.width), float(image.height)) or image.size != size:
        image = image.resize(size, _RESAMPLING[preprocess.interpolation], box=box)
    pixels = np.asarray(to_srgb(image)).transpose(2, 0, 1)
    return np.ascontiguousarray(pixels) if preprocess.resize != "longest" else _framed(pixels, preprocess)


def _centre(size: tuple[int, int], max_ratio: float) -> Box:
    """Return the box that keeps the centre of a picture whose sides differ more than `max_ratio` times."""
    width, height = (float(side) for side in size)
    kept_width, kept_height = min(width, height * max_ratio), min(height, width * max_ratio)
    left, top = (width - kept_width) / 2, (height - kept_height) / 2
    return (left, top, left + kept_width, top + kept_height)


def _covering(image: Image.Image, preprocess: Preprocess, max_ratio: float) -> tuple[Image.Image, Box]:
    """Return `image` scaled until it covers the model's pixels, and the box of it that is their size, in its centre.

    Sides and offsets are rounded as torchvision's Resize and CenterCrop round them, and as open_clip rounds them where
    the pixels are no square. An extreme shape, whose scaled picture would be enormous, stays as it is, and the box
    shows the same of it.
    """
    (width, height), target = image.size, (preprocess.width, preprocess.height)
    if target[0] != target[1]:
        ratio = min(width / target[0], height / target[1])
        scaled = (round(width / ratio), round(height / ratio))
    elif height >= width:
        scaled = (target[0], target[0] * height // width)
    else:
        scaled = (target[1] * width // height, target[1])
    left, top = round((scaled[0] - target[0]) / 2), round((scaled[1] - target[1]) / 2)
    box = (float(left), float(top), float(left + target[0]), float(top + target[1]))
    if max(width, height) <= max_ratio * min(width, height):
        scaled_image = image if scaled == image.size else image.resize(scaled, _RESAMPLING[preprocess.interpolation])
        return scaled_image, box
    step_x, step_y = width / scaled[0], height / scaled[1]
    return image, (box[0] * step_x, box[1] * step_y, box[2] * step_x, box[3] * step_y)


def _inside(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """Return the largest size of the shape `size` inside `target`, rounded as open_clip rounds it."""
    ratio = max(side / most for side, most in zip(size, target, strict=True))
    width, height = (min(max(1, round(side / ratio)), most) for side, most in zip(size, target, strict=True))
    return width, height


def _framed(pixels: Pixels, preprocess: Preprocess) -> Pixels:
    """Return the picture in the middle of the model's pixels; of two unequal margins the right or lower is larger."""
    framed = np.full((3, preprocess.height, preprocess.width), preprocess.fill, np.uint8)
    _, height, width = pixels.shape
    top, left = (preprocess.height - height) // 2, (preprocess.width - width) // 2
    framed[:, top : top + height, left : left + width] = pixels
    return framed
