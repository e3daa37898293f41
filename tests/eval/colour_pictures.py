"""A dataset that the tiny model can be measured on: pictures of one or two colours with captions that name them."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from PIL import Image
from tiny_model import COLOURS


def write_colour_pairs(root: Path, *, mixed: int = 8) -> Path:
    """Return the CSV: eight plain pictures that the model finds, and `mixed` two-coloured ones that are harder."""
    rows = ["image,caption"]
    for name, rgb in COLOURS.items():
        Image.new("RGB", (24, 16), rgb).save(root / f"{name}.png")
        rows += [f"{name}.png,{name}", f'{name}.png,"a {name}, plain thing"']
    for left, right in list(itertools.combinations(COLOURS, 2))[:mixed]:
        halves = np.zeros((16, 24, 3), dtype=np.uint8)
        halves[:, :12], halves[:, 12:] = COLOURS[left], COLOURS[right]
        Image.fromarray(halves).save(root / f"{left}-{right}.png")
        rows += [f"{left}-{right}.png,{left} and {right}", f"{left}-{right}.png,{right} beside {left}"]
    path = root / "pairs.csv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path
