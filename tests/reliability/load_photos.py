"""Very many little pictures, made quicker than anything can read them."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image

LONG_AGO_NS = 1_500_000_000 * 10**9
_PIXEL_BYTES = 8 * 8 * 3


def write_pictures(folder: Path, count: int, *, in_each: int = 100) -> Path:
    """`folder` with `count` pictures of 8 x 8 pixels, no two the same, in folders of `in_each`."""
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, format="BMP")
    header = data.getvalue()[:-_PIXEL_BYTES]
    random = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number // in_each:04}" / f"{number:06}.bmp"
        if number % in_each == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(header + random.bytes(_PIXEL_BYTES))
        os.utime(path, ns=(LONG_AGO_NS, LONG_AGO_NS))
    return folder


def write_bad_pictures(folder: Path, count: int) -> Path:
    """`folder` with `count` files that are no pictures: nothing in them, rubbish, a cut one, a bomb's first bytes."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(1)
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 60).save(whole, format="PNG")
    bomb = io.BytesIO()
    Image.new("1", (15_000, 15_000)).save(bomb, format="PNG")
    kinds = (
        lambda: b"",
        lambda: random.bytes(2000),
        lambda: whole.getvalue()[:200] + random.bytes(8),
        lambda: bomb.getvalue()[:1000] + random.bytes(8),
    )
    for number in range(count):
        path = folder / f"{number:06}.png"
        path.write_bytes(kinds[number % len(kinds)]())
        os.utime(path, ns=(LONG_AGO_NS, LONG_AGO_NS))
    return folder
