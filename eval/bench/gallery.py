"""Vectors like real ones: the model's embeddings of real photos and captions, and galleries grown from them to size.

A grown gallery serves latency and the recall of an index, never quality: its pictures do not exist. How a vector is
grown, so that an index finds it as hard as a real one:

1. Take a real photo at random and one of its 16 nearest other photos, and mix their embeddings, w * a + (1 - w) * b
   with w uniform in [0.5, 1]: the mix stays where photos are.
2. Add the difference between two other photos that are near each other, turned to a random sign and scaled: noise with
   the spectrum that real neighbours have, which isotropic noise has not.
3. Scale to unit length. The scale of the noise is found by bisection so that the median similarity of a grown vector to
   its nearest real photo equals that of a real photo to its nearest other one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmsearch.demo_photos import find_photos
from mmsearch.eval.datasets import Dataset, DatasetOptions, load_dataset
from mmsearch.eval.embeddings import embed_dataset
from mmsearch.model import Model

Embeddings = npt.NDArray[np.float32]

NEIGHBOURS = 16
BLOCK_ROWS = 32_768
_SAMPLE = 1000
_BISECTIONS = 14
_SEED = 5
_CROP_SIDES = (0.3, 0.45, 0.6, 0.8, 1.0)
_CROP_STEPS = 5

_SUBJECTS = ("a dog", "two children", "a man in a hat", "a woman", "a cat", "a bird", "an old car", "some people")
_DEEDS = ("running", "standing", "asleep", "jumping", "seen from above", "close to the camera", "in the distance")
_PLACES = ("on a beach", "in the snow", "at night", "on grass", "beside a wall", "in a city street", "near water")


@dataclass(frozen=True, slots=True)
class RealEmbeddings:
    """Unit embeddings of real photos (N, D) and of sentences (Q, D), float32; `sentences` are the words themselves."""

    images: Embeddings
    queries: Embeddings
    sentences: tuple[str, ...]
    source: str


def real_embeddings(model: Model, data: Path | None) -> RealEmbeddings:
    """Return embeddings of Flickr8k where `data` is its folder, else of crops of the demo's photos.

    Flickr8k gives the photos of `train.csv` and the captions of `val.csv`, or `val.csv` alone where there is no other.

    Raises:
        DatasetError: the data set cannot be read.
        MissingExtra: there is no data set, and the demo's photos are not installed.
    """
    if data is None:
        return _demo_embeddings(model)
    val = embed_dataset(load_dataset(data / "val.csv"), model)
    images = val.images
    if (data / "train.csv").is_file():
        lenient = DatasetOptions(allow_missing=True)  # the file has a few doubled rows, and only its photos count here
        images = embed_dataset(_one_caption_each(load_dataset(data / "train.csv", lenient)), model).images
    source = f"{len(images)} photos and {len(val.captions)} captions of {data.name}"
    return RealEmbeddings(images, val.captions, val.dataset.captions, source)


class Grower:
    """Makes as many vectors as are asked for out of real ones (N, D), the same ones for the same seed."""

    def __init__(self, images: Embeddings, *, seed: int = _SEED) -> None:
        self._images = images
        self._seed = seed
        count = min(NEIGHBOURS, len(images) - 1)
        self._neighbours, nearest = _nearest_others(images, count)
        self.wanted = float(np.median(nearest))
        self.noise = self._matching_noise()

    @property
    def dim(self) -> int:
        """Numbers in a vector."""
        return int(self._images.shape[1])

    def blocks(self, count: int) -> Iterator[Embeddings]:
        """Yield `count` unit vectors in blocks (B, D) float32."""
        for number, start in enumerate(range(0, count, BLOCK_ROWS)):
            random = np.random.default_rng([self._seed, number])
            yield self._grown(min(BLOCK_ROWS, count - start), self.noise, random)

    def vectors(self, count: int) -> Embeddings:
        """Return `count` unit vectors (count, D) float32 in one piece."""
        return np.concatenate(list(self.blocks(count)))

    def reached(self) -> float:
        """Return the median similarity of grown vectors to their nearest real one; `wanted` is what it should be."""
        return self._similarity(self.noise)

    def _grown(self, count: int, noise: float, random: np.random.Generator) -> Embeddings:
        real, near = self._images, self._neighbours

        def pairs() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
            first = random.integers(0, len(real), count)
            return first, near[first, random.integers(0, near.shape[1], count)]

        first, second = pairs()
        share = random.uniform(0.5, 1, (count, 1)).astype(np.float32)
        mixed = share * real[first] + (1 - share) * real[second]
        one, other = pairs()
        sign = random.choice(np.array([-noise, noise], np.float32), (count, 1))
        mixed += sign * (real[one] - real[other])
        mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
        return mixed.astype(np.float32, copy=False)

    def _similarity(self, noise: float) -> float:
        sample = self._grown(_SAMPLE, noise, np.random.default_rng(self._seed))
        return float(np.median((sample @ self._images.T).max(axis=1)))

    def _matching_noise(self) -> float:
        low, high = 0.0, 8.0
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if self._similarity(middle) > self.wanted else (low, middle)
        return low


def _nearest_others(images: Embeddings, count: int) -> tuple[npt.NDArray[np.int64], Embeddings]:
    """Rows (N, count) of the nearest other images, in no order, and the similarity (N,) of the very nearest."""
    rows = np.empty((len(images), count), np.int64)
    best = np.empty(len(images), np.float32)
    for start in range(0, len(images), _SAMPLE):
        block = slice(start, start + _SAMPLE)
        similarities = images[block] @ images.T
        similarities[np.arange(len(similarities)), np.arange(start, start + len(similarities))] = -np.inf
        best[block] = similarities.max(axis=1)
        rows[block] = np.argpartition(-similarities, count - 1, axis=1)[:, :count]
    return rows, best


def _one_caption_each(dataset: Dataset) -> Dataset:
    """`dataset` with the first caption of every image: its images are what is wanted here."""
    pairs = dataset.pairs[np.unique(dataset.pairs[:, 0], return_index=True)[1]]
    kept, renumbered = np.unique(pairs[:, 1], return_inverse=True)
    return replace(
        dataset,
        caption_ids=tuple(dataset.caption_ids[row] for row in kept),
        captions=tuple(dataset.captions[row] for row in kept),
        pairs=np.stack([pairs[:, 0], renumbered.reshape(-1)], axis=1),
    )


def _demo_embeddings(model: Model) -> RealEmbeddings:
    from PIL import Image

    crops = []
    for _, path in find_photos():
        with Image.open(path) as photo:
            crops += _crops(np.asarray(photo.convert("RGB")))
    sentences = tuple(" ".join(parts) for parts in product(_SUBJECTS, _DEEDS, _PLACES))
    source = f"{len(crops)} crops of the demo's photos and {len(sentences)} made-up captions"
    return RealEmbeddings(model.encode_images(crops), model.encode_texts(sentences), sentences, source)


def _crops(photo: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.uint8]]:
    """Overlapping cut-outs (h, w, 3) of one photo in several sizes, and the photo itself."""
    found = []
    for side in _CROP_SIDES:
        height, width = max(1, int(photo.shape[0] * side)), max(1, int(photo.shape[1] * side))
        steps = _CROP_STEPS if side < 1 else 1
        for top in np.linspace(0, photo.shape[0] - height, steps).astype(int):
            for left in np.linspace(0, photo.shape[1] - width, steps).astype(int):
                found.append(photo[top : top + height, left : left + width])
    return found
