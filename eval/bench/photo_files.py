"""Photo files in the sizes that cameras and web pages have, made from real photos; no two have the same bytes.

A photo of 12 megapixels is a real one enlarged with fine grain on top, as a sensor adds it: without the grain a JPEG
would be smaller and quicker to decode than any that comes out of a camera.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import numpy as np
from PIL import Image

from mmsearch.demo_photos import find_photos

LARGE, SMALL = (4000, 3000), (500, 375)
_QUALITY = 88
_GRAIN = 4.0
_SEED = 12


def write_photos(directory: Path, count: int, size: tuple[int, int], data: Path | None) -> Path:
    """Return `directory`, filled with `count` JPEGs of `size` (width, height) where it does not exist yet."""
    if directory.is_dir():
        return directory
    partly = directory.with_name(f"{directory.name}.partly")
    partly.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(_SEED)
    for number, source in zip(range(count), cycle(_sources(data)), strict=False):
        _write(source, partly / f"photo-{number}.jpg", size, random)
    return partly.rename(directory)


def write_small_copies(directory: Path, count: int, data: Path | None) -> Path:
    """Return `directory` with `count` little files in folders of 100, each with other bytes but few to decode."""
    if directory.is_dir():
        return directory
    partly = directory.with_name(f"{directory.name}.partly")
    with Image.open(next(_sources(data))) as photo:
        photo.convert("RGB").resize((32, 32)).save(partly.parent / "pattern.jpg")
    pattern = (partly.parent / "pattern.jpg").read_bytes()
    for number in range(count):
        path = partly / f"folder-{number // 100}" / f"photo-{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pattern)
    return partly.rename(directory)


def _sources(data: Path | None) -> Iterator[Path]:
    if data is None:
        yield from (path for _, path in find_photos())
    else:
        yield from sorted((data / "images").glob("*.jpg"))


def _write(source: Path, target: Path, size: tuple[int, int], random: np.random.Generator) -> None:
    with Image.open(source) as photo:
        pixels = np.asarray(photo.convert("RGB").resize(size, Image.Resampling.BICUBIC), np.float32)
    # The grain repeats in tiles: enough for the encoder of JPEG, whose blocks are far smaller.
    tile = random.normal(0, _GRAIN, (250, 250, 1)).astype(np.float32)
    grain = np.tile(tile, (-(-size[1] // 250), -(-size[0] // 250), 1))[: size[1], : size[0]]
    Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8)).save(target, quality=_QUALITY)
