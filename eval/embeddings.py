"""A dataset through a model: the product's own decode, tokenizer and encoder, each distinct item once, cached."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from mmsearch.errors import DatasetError, UnreadableFile
from mmsearch.eval.dataset_entries import Problem
from mmsearch.eval.datasets import Dataset, describe, without_images
from mmsearch.eval.embedding_cache import EmbeddingCache, Half, ImageCache, image_key, open_cache, text_key
from mmsearch.image_limits import DecodeLimits
from mmsearch.images import decode_image
from mmsearch.model import Model
from mmsearch.progress import Progress, ProgressCallback
from mmsearch.safe_text import safe_path
from mmsearch.settings import available_cpus
from mmsearch.types import Preprocess, Reason

Embeddings = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
Item = TypeVar("Item")
Result = TypeVar("Result")

# Small batches: on a CPU they cost less time an item than large ones, and a third of the memory.
IMAGE_BATCH = 8
TEXT_BATCH = 16
DECODE_AHEAD = 32  # pictures decoded before the encoder asks for them


@dataclass(frozen=True, slots=True)
class EncodeTiming:
    """How embeddings were come by: `encoded` made now, `cached` taken from an earlier run, in `seconds` together.

    Equal items are encoded once. The seconds hold reading, decoding and encoding, not loading the model.
    """

    encoded: int
    cached: int
    seconds: float

    @property
    def per_second(self) -> float | None:
        """Items a second, None unless all were encoded now."""
        return self.encoded / self.seconds if self.encoded and not self.cached and self.seconds > 0 else None


@dataclass(frozen=True, slots=True)
class Embedded:
    """A dataset with its embeddings, float32: `images` (I, D) and `captions` (C, D) in the order of `dataset`.

    `image_keys` are the SHA-256 of the image files. `dataset` lacks the pictures that could not be read; `partial`
    counts those that were read in part. `tokens` int8 (I, N, C) are what a matching head reads of the images, None
    where they were not asked for.
    """

    dataset: Dataset
    images: Embeddings
    captions: Embeddings
    image_keys: tuple[bytes, ...]
    partial: int
    image_timing: EncodeTiming
    caption_timing: EncodeTiming
    tokens: npt.NDArray[np.int8] | None = None

    def duplicate_images(self) -> tuple[tuple[str, ...], ...]:
        """Return the ids of images that are one file under several names: true matches of one are misses of another."""
        names: dict[bytes, list[str]] = {}
        for key, name in zip(self.image_keys, self.dataset.image_ids, strict=True):
            names.setdefault(key, []).append(name)
        return tuple(tuple(same) for same in names.values() if len(same) > 1)


def embed_dataset(
    dataset: Dataset,
    model: Model,
    *,
    allow_missing: bool = False,
    use_cache: bool = True,
    tokens: bool = False,
    progress: ProgressCallback | None = None,
) -> Embedded:
    """Return `dataset` with the embedding of every image and caption. Equal files and equal captions share theirs.

    With `tokens` also with what the matching head reads of every image, where the model has a head.

    Raises:
        DatasetError: pictures cannot be read and `allow_missing` is off; the message has counts, names and reasons.
        ModelError: the model cannot be loaded.
    """
    steps = _Steps(progress, total=len(dataset.image_ids) + len(dataset.captions))
    with _image_cache(model, use_cache, with_tokens=tokens) as images_kept:
        files, image_timing = _embed_images(dataset, model, images_kept, steps)
        unreadable = {row: file for row, file in enumerate(files) if isinstance(file, UnreadableFile)}
        dataset = _readable(dataset, unreadable, allow_missing)
        pictures = [file for file in files if isinstance(file, _Picture)]
        images, kept_tokens = images_kept.stacked([picture.key for picture in pictures])
    with _cache(model, "texts", model.dim, use_cache) as cache:
        caption_timing = _embed_texts(dataset.captions, model, cache, steps)
        captions = cache.stacked([text_key(text) for text in dataset.captions])
    return Embedded(
        dataset=dataset,
        images=images,
        captions=captions,
        image_keys=tuple(picture.key for picture in pictures),
        partial=sum(picture.partial for picture in pictures),
        image_timing=image_timing,
        caption_timing=caption_timing,
        tokens=None if kept_tokens is None else _shaped(kept_tokens, model),
    )


@dataclass(frozen=True, slots=True)
class _Picture:
    """A picture's file, read and hashed; `pixels` is None when its embedding is cached."""

    key: bytes
    partial: bool
    pixels: Pixels | None


def _embed_images(
    dataset: Dataset, model: Model, cache: ImageCache, steps: _Steps
) -> tuple[list[_Picture | UnreadableFile], EncodeTiming]:
    """Return every picture without its pixels, or why it could not be read; the embeddings are in `cache`."""
    workers = available_cpus()
    limits = DecodeLimits.for_machine(workers)
    paths = [dataset.image_path(row) for row in range(len(dataset.image_ids))]
    files: list[_Picture | UnreadableFile] = []
    encoded = 0
    stopwatch = _Stopwatch()
    with ThreadPoolExecutor(workers) as pool:
        loaded = _ahead(pool, lambda path: _load(path, model.preprocess, cache, limits), paths, window=DECODE_AHEAD)
        for batch in _batches(loaded, IMAGE_BATCH):
            fresh = {file.key: file for file in batch if isinstance(file, _Picture) and not cache.knows(file.key)}
            if fresh and not encoded:
                stopwatch.leave_out(partial(model.load, images=True))
            if fresh:
                pixels = np.stack([file.pixels for file in fresh.values() if file.pixels is not None])
                vectors, made_tokens = model.encoder.encode_pixels_with_tokens(pixels)
                for row, file in enumerate(fresh.values()):
                    tokens = None if made_tokens is None else made_tokens[row].reshape(-1)
                    cache.add(file.key, vectors[row], tokens, lasting=not file.partial)
            encoded += len(fresh)
            files.extend(replace(file, pixels=None) if isinstance(file, _Picture) else file for file in batch)
            steps.advance(len(batch))
    cached = sum(isinstance(file, _Picture) and not cache.is_new(file.key) for file in files)
    # A second copy of a damaged file is not decoded once the first one is embedded, and is damaged all the same.
    damaged = {file.key for file in files if isinstance(file, _Picture) and file.partial}
    files = [replace(file, partial=file.key in damaged) if isinstance(file, _Picture) else file for file in files]
    return files, EncodeTiming(encoded, cached, stopwatch.seconds())


def _load(path: Path, preprocess: Preprocess, cache: ImageCache, limits: DecodeLimits) -> _Picture | UnreadableFile:
    """Return the picture at `path`, decoded unless its embedding is cached, or why it cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(limits.max_bytes + 1)
        key = image_key(data)
        if cache.knows(key):
            return _Picture(key, partial=False, pixels=None)
        decoded = decode_image(data, preprocess, limits=limits, extension=path.suffix)
    except UnreadableFile as error:
        return error
    except OSError as error:
        return UnreadableFile(Reason.PERMISSION, error.strerror or type(error).__name__)
    return _Picture(key, partial=decoded.status == "partial", pixels=decoded.pixels)


def _embed_texts(texts: Sequence[str], model: Model, cache: EmbeddingCache, steps: _Steps) -> EncodeTiming:
    """Put the embedding of every text into `cache`."""
    # Texts of one length together: a batch is padded to its longest.
    fresh = sorted({text for text in texts if cache.get(text_key(text)) is None}, key=lambda text: (len(text), text))
    steps.advance(len(texts) - len(fresh))
    if fresh:
        model.load(texts=True)
    stopwatch = _Stopwatch()
    for batch in _batches(fresh, TEXT_BATCH):
        for text, vector in zip(batch, model.encode_texts(batch, batch_size=TEXT_BATCH), strict=True):
            cache.add(text_key(text), vector)
        steps.advance(len(batch))
    return EncodeTiming(len(fresh), len(set(texts)) - len(fresh), stopwatch.seconds())


def _image_cache(model: Model, use_cache: bool, *, with_tokens: bool) -> ImageCache:
    itm = model.manifest.itm if with_tokens else None
    tokens = None if itm is None else _cache(model, "tokens", itm.tokens * itm.token_dim, use_cache)
    return ImageCache(_cache(model, "images", model.dim, use_cache), tokens)


def _shaped(tokens: npt.NDArray[np.int8], model: Model) -> npt.NDArray[np.int8] | None:
    itm = model.manifest.itm
    return None if itm is None else tokens.reshape(len(tokens), itm.tokens, itm.token_dim)


def _cache(model: Model, half: Half, dim: int, use_cache: bool) -> EmbeddingCache:
    return open_cache(model.fingerprint, half, dim) if use_cache else EmbeddingCache(None, dim, half)


def _readable(dataset: Dataset, unreadable: dict[int, UnreadableFile], allow_missing: bool) -> Dataset:
    """Return `dataset` without the pictures that could not be read, if that is allowed."""
    if not unreadable:
        return dataset
    problems = [
        Problem("unreadable images", safe_path(dataset.image_ids[row]), str(error)) for row, error in unreadable.items()
    ]
    if not allow_missing:
        raise DatasetError(
            f"{describe(problems)}; expected none: mend them, or pass --allow-missing to leave them out and count them"
        )
    kept = without_images(dataset, np.array(list(unreadable), dtype=np.int64), kind="unreadable images")
    if not len(kept.pairs):
        raise DatasetError(f"no image with a caption can be read: {describe(problems)}")
    return kept


def _ahead(
    pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item], *, window: int
) -> Iterator[Result]:
    """Yield `work(item)` in order, with at most `window` results ahead of whoever reads them."""
    running: deque[Future[Result]] = deque()
    for item in items:
        if len(running) == window:
            yield running.popleft().result()
        running.append(pool.submit(work, item))
    while running:
        yield running.popleft().result()


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


class _Steps:
    """Tells a progress callback how many of `total` items are done."""

    def __init__(self, progress: ProgressCallback | None, *, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    def advance(self, items: int) -> None:
        self._done += items
        if self._progress is not None:
            self._progress(Progress("embed", self._done, self._total))


class _Stopwatch:
    """Seconds since it was made, without those of the work it leaves out."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    def leave_out(self, work: Callable[[], None]) -> None:
        before = time.perf_counter()
        work()
        self._started += time.perf_counter() - before

    def seconds(self) -> float:
        return time.perf_counter() - self._started
