"""Random views of a photo for training: crops, mirror images, light changes of colour."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from PIL import Image, ImageEnhance


@dataclass(frozen=True)
class ViewConfig:
    """How far a random view may stray from the photo. Captions name places and colours, so: not far."""

    smallest_area: float = 0.5  # of the photo
    widest_aspect: float = 4 / 3  # crop width / height, and its inverse
    colour: float = 0.25  # brightness, contrast and saturation change by at most this fraction


def random_view(image: Image.Image, rng: random.Random, config: ViewConfig) -> Image.Image:
    """Return a random crop of `image` at its own size, mirrored half the time, with changed colours."""
    width, height = image.size
    area = rng.uniform(config.smallest_area, 1.0)
    aspect = math.exp(rng.uniform(-math.log(config.widest_aspect), math.log(config.widest_aspect)))
    crop_width = min(1.0, math.sqrt(area * aspect)) * width
    crop_height = min(1.0, math.sqrt(area / aspect)) * height
    left, top = rng.uniform(0, width - crop_width), rng.uniform(0, height - crop_height)
    box = (left, top, left + crop_width, top + crop_height)
    view = image.resize((width, height), Image.Resampling.BICUBIC, box=box)
    if rng.random() < 0.5:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        view = enhancer(view).enhance(rng.uniform(1 - config.colour, 1 + config.colour))
    return view
