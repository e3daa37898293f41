"""Draws training batches: which photos, which of their views and captions, and which pairs count as matches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmsearch.errors import DatasetError
from mmsearch.training.captions import CaptionedImages
from mmsearch.training.features import Views
from mmsearch.training.losses import positives, softened, spread
from mmsearch.training.pooling import drop_positions
from mmsearch.training.word_pieces import WordPieces

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class BatchConfig:
    """What a step sees."""

    images: int = 256
    captions_per_image: int = 2
    word_drop: float = 0.2  # of the word pieces, hidden from the text tower
    teacher_share: float = 0.2  # of the targets, given by the frozen text tower's own similarities
    teacher_sharpness: float = 20.0


@dataclass(frozen=True)
class Dataset:
    """A captioned set as training reads it: one cache a view, word pieces, sentence embeddings.

    `sentences` is float32 (T, D): the starting text tower's mean-pooled embedding of each caption, the teacher's view;
    None without a teacher.
    """

    views: Sequence[Views]
    pieces: WordPieces
    captions: CaptionedImages
    sentences: Tensor | None


def as_map(rows: npt.NDArray[np.float16]) -> Tensor:
    """Return a float32 early map (B, C, h, w) in channels-last memory of cached `rows` (B, h, w, C)."""
    return torch.from_numpy(rows.astype(np.float32)).permute(0, 3, 1, 2)


def as_input(rows: Views) -> Tensor:
    """Return what a model's `look` takes of cached `rows`: uint8 pixels as they are, or an early map."""
    if rows.dtype == np.uint8:
        return torch.from_numpy(np.array(rows))  # of its own: a cache is mapped for reading alone
    return as_map(rows.astype(np.float16, copy=False))


class Batches:
    """Shuffled passes over a data set; a photo comes in one random view with a few of its captions."""

    def __init__(self, data: Dataset, config: BatchConfig, rng: np.random.Generator) -> None:
        """Prepare to draw from `data`.

        Raises:
            DatasetError: fewer photos than a batch holds, or a photo with fewer captions than a step draws.
        """
        owned = data.captions.captions_of()
        fewest = min(len(rows) for rows in owned)
        if len(owned) < config.images:
            raise DatasetError(f"{len(owned)} photos cannot fill a batch of {config.images}; add photos")
        if fewest < config.captions_per_image:
            raise DatasetError(
                f"a photo has {fewest} captions, training draws {config.captions_per_image}; add captions"
            )
        self.data, self.config, self.rng = data, config, rng
        self.captions_of = np.stack([rows[:fewest] for rows in owned])
        self.text_ids = torch.from_numpy(data.captions.text_ids())
        self.image_text_ids = self.text_ids[torch.from_numpy(self.captions_of)]
        if data.sentences is not None:
            self.image_sentences = data.sentences[torch.from_numpy(self.captions_of)].mean(1)
        self.steps = len(owned) // config.images

    def epoch(self) -> list[Rows]:
        """Return the photo rows of each step of one pass; a remainder that fills no batch is left out."""
        order = self.rng.permutation(len(self.captions_of))
        return list(order[: self.steps * self.config.images].reshape(self.steps, -1))

    def maps(self, images: Rows) -> Tensor:
        """Return what the model looks at (early maps, pixels) of one random view of each of `images`."""
        views = self.rng.integers(0, len(self.data.views), len(images))
        rows = np.empty((len(images), *self.data.views[0].shape[1:]), dtype=self.data.views[0].dtype)
        for view in np.unique(views):
            rows[views == view] = self.data.views[view][images[views == view]]
        return as_input(rows)

    def captions(self, images: Rows) -> tuple[Tensor, Tensor]:
        """Return (caption rows, photo rows) of a few random captions of each of `images`, shortest caption first."""
        picks = self.rng.permuted(np.tile(np.arange(self.captions_of.shape[1]), (len(images), 1)), axis=1)
        drawn = np.take_along_axis(self.captions_of[images], picks[:, : self.config.captions_per_image], axis=1)
        rows, owners = torch.from_numpy(drawn.reshape(-1)), torch.from_numpy(np.repeat(images, drawn.shape[1]))
        order = torch.argsort(self.data.pieces.lengths[rows])
        return rows[order], owners[order]

    def words(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return (input_ids, attention_mask) of caption `rows`, some word pieces hidden by the mask."""
        input_ids, mask = self.data.pieces.batch(rows)
        return input_ids, drop_positions(mask.bool(), self.config.word_drop).long()

    def matches(self, images: Rows, rows: Tensor, owners: Tensor) -> Tensor:
        """Return the bool (I, T) of which caption `rows`, with their `owners`, belong to which of `images`."""
        picked = torch.from_numpy(images)
        return positives(picked, owners, self.image_text_ids[picked], self.text_ids[rows])

    def targets(self, images: Rows, rows: Tensor, matches: Tensor) -> tuple[Tensor, Tensor]:
        """Return the (I, T) and (T, I) targets of a batch of `images` and caption `rows` with their `matches`."""
        picked = torch.from_numpy(images)
        image_targets, caption_targets = spread(matches), spread(matches.t())
        if self.config.teacher_share > 0 and self.data.sentences is not None:
            logits = self.image_sentences[picked] @ self.data.sentences[rows].t() * self.config.teacher_sharpness
            image_targets = softened(image_targets, logits, self.config.teacher_share)
            caption_targets = softened(caption_targets, logits.t(), self.config.teacher_share)
        return image_targets, caption_targets
