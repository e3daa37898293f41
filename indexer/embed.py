"""Pixels and sentences -> embeddings, in batches; one item that the model fails on costs that item alone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import numpy as np

from mmsearch.errors import ModelError
from mmsearch.indexer.change import Change, Content, Embedding, Row
from mmsearch.indexer.interrupt import Interrupt
from mmsearch.model import Model

Outcome: TypeAlias = Embedding | ModelError
Encode: TypeAlias = Callable[[Sequence[Row]], list[Embedding]]

# Pictures and sentences in the model at once. Larger batches are slower on a CPU, for they leave its caches: on two
# cores 32 pictures in one call take 11.7 ms each, 8 take 8.6 ms, and two calls of 4 side by side 6.7 ms.
IMAGES_AT_ONCE = 8
TEXTS_AT_ONCE = 16
# A GPU has no such caches to leave, and small batches hardly wake it.
GPU_IMAGES_AT_ONCE, GPU_TEXTS_AT_ONCE = 64, 256
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

    def _embeddings(self, wanted: dict[Content, Row]) -> dict[Content, Outcome]:
        """The embedding of each content, or the model's complaint about it; without those a stop came in between."""
        embeddings: dict[Content, Outcome] = {
            content: self._recent[content] for content in wanted.keys() & self._recent.keys()
        }
        rows = [row for content, row in wanted.items() if content not in embeddings]
        images = [row for row in rows if row.pixels is not None]
        # Of like lengths together: a batch is padded to its longest sentence.
        texts = sorted((row for row in rows if row.pixels is None), key=lambda row: len(row.item.text or ""))
        on_gpu = bool(rows) and self._model.encoder.on_gpu
        for some, at_once, encode in (
            (images, GPU_IMAGES_AT_ONCE if on_gpu else IMAGES_AT_ONCE, self._encode_images),
            (texts, GPU_TEXTS_AT_ONCE if on_gpu else TEXTS_AT_ONCE, self._encode_texts),
        ):
            for row, embedding in self._encoded(some, at_once, encode):
                embeddings[row.content] = embedding
                self._remember(row.content, embedding)
        return embeddings

    def _encoded(self, rows: Sequence[Row], at_once: int, encode: Encode) -> Iterator[tuple[Row, Outcome]]:
        """Each row with what `encode` makes of it, `at_once` of them in the model at a time; fewer rows when a stop is
        asked for.
        """
        if not rows:
            return
        calls = self._model.encoder.calls_at_once
        size = -(-at_once // calls)
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]

        def outcomes(batch: Sequence[Row]) -> Sequence[Outcome]:
            return [] if self._interrupt.requested else self._bisected(batch, encode)

        if calls == 1 or len(batches) == 1:
            for batch in batches:
                yield from zip(batch, outcomes(batch), strict=False)
            return
        with ThreadPoolExecutor(calls, thread_name_prefix="mmsearch-embed") as threads:
            for batch, found in zip(batches, threads.map(outcomes, batches), strict=True):
                yield from zip(batch, found, strict=False)

    def _bisected(self, rows: Sequence[Row], encode: Encode) -> list[Outcome]:
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

    def _remember(self, content: Content, embedding: Outcome) -> None:
        if isinstance(embedding, ModelError):
            return
        self._recent[content] = embedding
        if len(self._recent) > _REMEMBERED:
            self._recent.popitem(last=False)
