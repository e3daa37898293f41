"""Compares an exported model, as its users will run it, with what torch made of the same pictures and sentences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmsearch.errors import ModelError
from mmsearch.model import Model
from mmsearch.safe_text import safe_text
from mmsearch.types import Preprocess

Floats = npt.NDArray[np.float32]
EXACT_COSINE, INT8_COSINE = 0.9999, 0.98
_BATCH_COSINE = 0.9999  # what a model promises of an item alone and the same item in any batch
_NOISY, _PLAIN = 2, 3  # pictures of each kind
_PATCH = 16  # pixels
_LONG = 400  # words, more than any model reads
_SEED = 0
SENTENCES = (
    "two dogs run across a field with a red ball in the afternoon",
    "a dog",
    "",
    "A photo of 3 children's kites, high above the beach!",
    " ".join(["a long sentence goes on and on"] * (_LONG // 7)),
)


@dataclass(frozen=True, slots=True)
class Agreement:
    """The smallest cosines: of both runtimes, for pictures and for texts, and of an item alone and in a batch."""

    images: float
    texts: float
    alone: float

    @property
    def smallest(self) -> float:
        """The smallest between both runtimes."""
        return min(self.images, self.texts)


def sample_pixels(preprocess: Preprocess) -> npt.NDArray[np.uint8]:
    """Return random pictures, uint8 (5, 3, height, width): noise, and patches of plain colour, as photos have."""
    random = np.random.default_rng(_SEED)
    height, width = preprocess.height, preprocess.width
    noise = random.integers(0, 256, (_NOISY, 3, height, width), dtype=np.uint8)
    coarse = (_PLAIN, 3, -(-height // _PATCH), -(-width // _PATCH))
    patches = random.integers(0, 256, coarse, dtype=np.uint8).repeat(_PATCH, 2).repeat(_PATCH, 3)
    return np.concatenate([noise, patches[:, :, :height, :width]])


def agreement(written: Model, pixels: npt.NDArray[np.uint8], images: Floats, texts: Floats) -> Agreement:
    """Return how well `written` agrees with `images` and `texts`, what torch made of `pixels` and of `SENTENCES`."""
    encoder = written.encoder
    together = encoder.encode_pixels(pixels), written.encode_texts(SENTENCES)
    alone = (
        np.concatenate([encoder.encode_pixels(pixels[row : row + 1]) for row in range(len(pixels))]),
        np.concatenate([written.encode_texts([sentence]) for sentence in SENTENCES]),
    )
    return Agreement(
        images=_worst(together[0], images),
        texts=_worst(together[1], texts),
        alone=min(_worst(*pair) for pair in zip(together, alone, strict=True)),
    )


def require_agreement(found: Agreement, name: str, *, int8: bool) -> None:
    """Return when `found` is good enough for the model called `name` to be used in the place of the original.

    Raises:
        ModelError: it is not; the message says by how much, and what to do.
    """
    wanted = INT8_COSINE if int8 else EXACT_COSINE
    kind, remedy = ("int8", "export it without int8") if int8 else ("ONNX", "use it as it is, with open_clip")
    # Written so that a cosine that is not a number fails it too.
    if not found.smallest >= wanted:
        raise ModelError(
            f"model '{safe_text(name)}' is not exported: in {kind} its embeddings agree with torch's to a cosine of"
            f" {found.images:.5f} (images) and {found.texts:.5f} (texts), expected at least {wanted}; {remedy}"
        )
    if not found.alone >= _BATCH_COSINE:
        raise ModelError(
            f"model '{safe_text(name)}' is not exported: in {kind} an embedding changes with its batch, to a cosine of"
            f" {found.alone:.5f}, expected at least {_BATCH_COSINE}; {remedy}"
        )


def _worst(ours: Floats, theirs: Floats) -> float:
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return float(((ours * theirs).sum(1) / lengths).min())
