"""Recall@K on a validation set while training. `mmsearch.eval` is the tool that reports; this one only steers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
KS = (1, 5, 10)


@dataclass(frozen=True)
class Recalls:
    """Recall@1, @5, @10 (hit rate, fractions) both ways."""

    text_to_image: tuple[float, float, float]
    image_to_text: tuple[float, float, float]

    @property
    def mean(self) -> float:
        """Mean of the six."""
        return sum(self.text_to_image + self.image_to_text) / 6

    def as_manifest(self) -> dict[str, dict[str, float]]:
        """Return {"text_to_image": {"recall@1": ...}, "image_to_text": {...}}."""
        sides = {"text_to_image": self.text_to_image, "image_to_text": self.image_to_text}
        return {side: {f"recall@{k}": v for k, v in zip(KS, values, strict=True)} for side, values in sides.items()}

    def __str__(self) -> str:
        sides = (" ".join(f"{100 * v:5.1f}" for v in side) for side in (self.image_to_text, self.text_to_image))
        return "i2t {} t2i {} mean {:.2f}".format(*sides, 100 * self.mean)


def _hit_rates(ranks: npt.NDArray[np.int64]) -> tuple[float, float, float]:
    first, second, third = (float((ranks <= k).mean()) for k in KS)
    return first, second, third


def recalls(images: Floats, captions: Floats, image_of: npt.NDArray[np.int64]) -> Recalls:
    """Return the recalls of embeddings `images` (I, D) and `captions` (T, D); `image_of` (T,) holds their images' rows.

    A rank is 1 + the number of other items scoring at least as high, so a tie never helps. Worked example: two images,
    two captions, all four embeddings equal: every rank is 2, every recall@1 is 0.
    """
    scores = images @ captions.T
    own = scores[image_of, np.arange(len(image_of))]
    caption_ranks = (scores >= own[None, :]).sum(0)
    matches = image_of[None, :] == np.arange(len(images))[:, None]
    best = np.where(matches, scores, -np.inf).max(1)
    image_ranks = 1 + ((scores >= best[:, None]) & ~matches).sum(1)
    return Recalls(_hit_rates(caption_ranks), _hit_rates(image_ranks))
