"""Pixels and sentences -> embeddings, in batches; one item that the model fails on costs that item alone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from mmsearch.errors import ModelError
from mmsearch.indexer.change import Change, Content, Embedding, Row
from mmsearch.indexer.interrupt import Interrupt
from mmsearch.model import Model

Encode: TypeAlias = Callable[[Sequence[Row]], list[Embedding]]

# Sentences in one call of the model. Larger batches are slower on a CPU, for they leave its caches: 64 take 2.6 ms
# each, 16 take 2.2 ms. A GPU has no such caches to leave, and small batches hardly wake it.
TEXTS_AT_ONCE, GPU_TEXTS_AT_ONCE = 16, 256
# More embeddings than ever wait to be written: 6 MB at 384 dimensions, and 8 MB of tokens.
_REMEMBERED = 4096


class Embedder:
    """Gives changes the embeddings they lack, each content once. The model is read when the first one is needed."""

    def __init__(self, model: Model, interrupt: Interrupt) -> None:
        self._model = model
        self._interrupt = interrupt
        self._recent: OrderedDict[Content, Embedding] = OrderedDict()

    def embed(self, changes: Sequence[Change]) -> list[Change]:
        """`changes` with every embedding in place; a row the model fails on has become an error row.

        Asked to stop, it leaves out the changes whose embeddings are not all there yet.

        Raises:
            ModelError: the model cannot be loaded, or fails on whatever it is given.
        """
        wanted = {row.content: row for change in changes for row in change.rows if row.needs_embedding}
        embeddings = self._embeddings(wanted)
        for change in changes:
            for row in change.rows:
                embedding = embeddings.get(row.content) if row.needs_embedding else None
                if isinstance(embedding, ModelError):
                    change.fail_row(row, str(embedding))
                elif embedding is not None:
                    row.give(embedding)
        return [change for change in changes if not any(row.needs_embedding for row in change.rows)]

    def _embeddings(self, wanted: dict[Content, Row]) -> dict[Content, Embedding | ModelError]:
        """The embedding of each content, or the model's complaint about it; without those a stop came in between."""
        embeddings: dict[Content, Embedding | ModelError] = {
            content: self._recent[content] for content in wanted.keys() & self._recent.keys()
        }
        rows = [row for content, row in wanted.items() if content not in embeddings]
        images = [row for row in rows if row.pixels is not None]
        # Of like lengths together: a batch is padded to its longest sentence.
        texts = sorted((row for row in rows if row.pixels is None), key=lambda row: len(row.item.text or ""))
        for some, at_once, encode in (
            (images, self._images_at_once, self._encode_images),
            (texts, self._texts_at_once, self._encode_texts),
        ):
            # Asking for it may read a tower.
            size = at_once() if some else 1
            for start in range(0, len(some), size):
                if self._interrupt.requested:
                    return embeddings
                batch = some[start : start + size]
                for row, embedding in zip(batch, self._bisected(batch, encode), strict=True):
                    embeddings[row.content] = embedding
                    self._remember(row.content, embedding)
        return embeddings

    def _images_at_once(self) -> int:
        return self._model.encoder.images_at_once

    def _texts_at_once(self) -> int:
        return GPU_TEXTS_AT_ONCE if self._model.encoder.on_gpu else TEXTS_AT_ONCE

    def _bisected(self, rows: Sequence[Row], encode: Encode) -> list[Embedding | ModelError]:
        """For each row its embedding, or the complaint about a row that the model fails on even alone."""
        try:
            return [*encode(rows)]
        except ModelError as error:
            if len(rows) == 1:
                self._require_sound_model(rows[0], error)
                return [error]
        half = len(rows) // 2
        return self._bisected(rows[:half], encode) + self._bisected(rows[half:], encode)

    def _require_sound_model(self, row: Row, error: ModelError) -> None:
        """Raises `error` if the model fails on plain input too: then the fault is not the item's."""
        size = self._model.preprocess
        try:
            if row.pixels is None:
                self._model.encode_texts(["a"])
            else:
                self._model.encoder.encode_pixels_with_tokens(np.full((1, 3, size.height, size.width), 128, np.uint8))
        except ModelError:
            raise error from None

    def _encode_images(self, rows: Sequence[Row]) -> list[Embedding]:
        pixels = np.stack([row.pixels for row in rows if row.pixels is not None])
        vectors, tokens = self._model.encoder.encode_pixels_with_tokens(pixels)
        if tokens is None:
            return [Embedding(vector) for vector in vectors]
        return [Embedding(*each) for each in zip(vectors, tokens, strict=True)]

    def _encode_texts(self, rows: Sequence[Row]) -> list[Embedding]:
        texts = [row.item.text or "" for row in rows]
        return [Embedding(vector) for vector in self._model.encode_texts(texts, batch_size=len(texts))]

    def _remember(self, content: Content, embedding: Embedding | ModelError) -> None:
        if isinstance(embedding, ModelError):
            return
        self._recent[content] = embedding
        if len(self._recent) > _REMEMBERED:
            self._recent.popitem(last=False)
