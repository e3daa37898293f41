"""Captioned photos from a CSV, and the one place where training decodes an image."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from mmsearch.errors import DatasetError
from mmsearch.images import load_rgb

Pixels = npt.NDArray[np.uint8]
LONGEST_SIDE = 1024  # pixels; several times what a model sees, so that a crop of a view is still sharp


@dataclass(frozen=True)
class CaptionedImages:
    """Images and their captions; `image_of[i]` is the index into `paths` of `captions[i]`."""

    paths: tuple[Path, ...]
    captions: tuple[str, ...]
    image_of: npt.NDArray[np.int64]

    def captions_of(self) -> list[npt.NDArray[np.int64]]:
        """Return, image by image, the indices of its captions."""
        order = np.argsort(self.image_of, kind="stable")
        bounds = np.searchsorted(self.image_of[order], np.arange(len(self.paths) + 1))
        return [order[bounds[i] : bounds[i + 1]] for i in range(len(self.paths))]

    def text_ids(self) -> npt.NDArray[np.int64]:
        """Return one integer a caption, equal for captions that differ only in case, spaces or full stops."""
        seen: dict[str, int] = {}
        plain = (" ".join(c.lower().replace(".", " ").split()) for c in self.captions)
        return np.array([seen.setdefault(text, len(seen)) for text in plain], dtype=np.int64)


def read_captions(table: Path) -> CaptionedImages:
    """Return the rows of a CSV with the columns `image,caption`, images in order of first appearance.

    Raises:
        DatasetError: a column is missing or there are no rows.
    """
    with table.open(newline="", encoding="utf-8") as handle:
        reader = csv.DictReader(handle)
        if not {"image", "caption"} <= set(reader.fieldnames or ()):
            raise DatasetError(f"{table.name} has columns {reader.fieldnames}, expected image,caption")
        rows = [(row["image"], row["caption"]) for row in reader]
    if not rows:
        raise DatasetError(f"{table.name} has no rows, expected at least one image,caption pair")
    index: dict[str, int] = {}
    image_of = np.array([index.setdefault(name, len(index)) for name, _ in rows], dtype=np.int64)
    paths = tuple(table.parent / name for name in index)
    return CaptionedImages(paths, tuple(caption for _, caption in rows), image_of)


def open_rgb(path: Path) -> Image.Image:
    """Return the upright RGB image of `path`, decoded as everywhere in mmsearch, its sides at most `LONGEST_SIDE`.

    Raises:
        UnreadableFile: it cannot be decoded.
    """
    return load_rgb(path, max_side=LONGEST_SIDE)


def squash(image: Image.Image, size: tuple[int, int]) -> Pixels:
    """Return uint8 pixels (3, H, W) of `image` squashed (aspect ratio ignored, bicubic) to `size` = (H, W)."""
    height, width = size
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))
