"""A picture kept in an unusual way is, to the bundled model, the picture it shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pictures import scene, unusual_pictures
from PIL import Image

from mmsearch.demo_photos import find_photos
from mmsearch.errors import MissingExtra
from mmsearch.images import decode_image
from mmsearch.model import load_model

AS_SIMILAR = 0.98


def photo() -> Image.Image:
    """A real photograph where the demo's packages are installed, else the synthetic scene."""
    try:
        return Image.open(find_photos()[0][1]).convert("RGB").resize((320, 240))
    except MissingExtra:
        return scene()


def test_unusual_pictures_embed_as_their_plain_twins() -> None:
    model = load_model("mini")
    pictures = unusual_pictures(photo())
    assert len(pictures) > 60
    pixels = [decode_image(each.data, model.preprocess, extension=Path(each.name).suffix).pixels for each in pictures]
    embeddings = np.concatenate([model.encoder.encode_pixels(one[np.newaxis]) for one in pixels])
    twins = model.encode_images([each.twin for each in pictures])
    similarities = (embeddings * twins).sum(axis=1)
    worst = {each.name: float(value) for each, value in zip(pictures, similarities, strict=True) if value < AS_SIMILAR}
    assert worst == {}


def test_a_picture_turned_the_wrong_way_is_told_apart() -> None:
    """The measure above means something: a transposed photo is no longer as similar as that."""
    model = load_model("mini")
    upright = photo()
    turned = upright.transpose(Image.Transpose.ROTATE_90).resize(upright.size)
    first, second = model.encode_images([upright, turned])
    assert float(first @ second) < AS_SIMILAR
