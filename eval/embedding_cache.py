"""Vectors kept between runs, so that measuring again costs a read: under the user's cache directory, safe to delete.

    <cache>/embeddings/<fingerprint>-<libraries>/images/<checksum>.shard

A shard is a NumPy array of (key, vector) records followed by its SHA-256. The key is the SHA-256 of what the encoder
was given: the bytes of a picture's file or the text of a caption. Next to `images/` and `texts/` stands `tokens/`, with
what a matching head reads of a picture. Shards are only ever added, each by a rename, so
several runs may write at once and an interrupted one keeps what it finished. A shard that does not fit its checksum
is removed and made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import stat
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import platformdirs

from mmsearch.durable import make_directory, write_atomic

Half = Literal["images", "texts", "tokens"]
Vectors = npt.NDArray[Any]
_DTYPES: dict[Half, str] = {"images": "<f4", "texts": "<f4", "tokens": "|i1"}

SHARD_SUFFIX = ".shard"
DIGEST_BYTES = 32
SHARD_ITEMS = 1024  # what an interruption may cost
# What turns a file into an embedding besides the model: another version may round differently.
LIBRARIES = ("mmsearch", "numpy", "pillow", "pillow-heif", "onnxruntime", "tokenizers")

_log = logging.getLogger(__name__)


class EmbeddingCache:
    """What one half of one model gives, (dim,) float32 or int8 for tokens, by key; a `directory` of None keeps it in
    memory alone.
    """

    def __init__(self, directory: Path | None, dim: int, half: Half = "images") -> None:
        self._directory = directory
        self._dtype = np.dtype([("key", f"V{DIGEST_BYTES}"), ("vector", _DTYPES[half], (dim,))])
        self._vectors: dict[bytes, Vectors] = {}
        self._new: set[bytes] = set()
        self._unwritten: dict[bytes, Vectors] = {}
        if directory is not None and self._is_ours(directory):
            for path in sorted(directory.glob(f"*{SHARD_SUFFIX}")):
                self._load(path)

    def get(self, key: bytes) -> Vectors | None:
        """Return what is kept of `key`, (dim,), None if nothing is."""
        return self._vectors.get(key)

    def is_new(self, key: bytes) -> bool:
        """Return whether `key` was added since the cache was opened."""
        return key in self._new

    def stacked(self, keys: Sequence[bytes]) -> Vectors:
        """Return what is kept of `keys`, (N, dim); nothing may be missing."""
        vector, width = self._dtype["vector"].base, self._dtype["vector"].shape[0]
        return np.array([self._vectors[key] for key in keys], dtype=vector).reshape(len(keys), width)

    def add(self, key: bytes, vector: Vectors, *, lasting: bool = True) -> None:
        """Keep `vector` (dim,), on disk too if it is `lasting`."""
        self._vectors[key] = vector
        self._new.add(key)
        if lasting and self._directory is not None:
            self._unwritten[key] = vector
        if len(self._unwritten) >= SHARD_ITEMS:
            self.write()

    def write(self) -> None:
        """Write what is not on disk yet. A disk that cannot be written to is logged, no more."""
        if self._directory is None or not self._unwritten:
            return
        records = np.empty(len(self._unwritten), self._dtype)
        records["key"] = np.frombuffer(b"".join(self._unwritten), f"V{DIGEST_BYTES}")
        records["vector"] = list(self._unwritten.values())
        self._unwritten = {}
        buffer = io.BytesIO()
        np.save(buffer, records, allow_pickle=False)
        digest = hashlib.sha256(buffer.getvalue()).digest()
        try:
            make_directory(self._directory)
            write_atomic(self._directory / f"{digest.hex()[:32]}{SHARD_SUFFIX}", buffer.getvalue() + digest)
        except OSError as error:
            _log.warning("embeddings are not kept: %s cannot be written (%s)", self._directory, error.strerror)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.write()  # after an interruption too: what is encoded is encoded

    def _load(self, path: Path) -> None:
        try:
            data = path.read_bytes()
            if hashlib.sha256(data[:-DIGEST_BYTES]).digest() != data[-DIGEST_BYTES:]:
                raise ValueError("its checksum does not fit")
            records = np.load(io.BytesIO(data[:-DIGEST_BYTES]), allow_pickle=False)
            if records.dtype != self._dtype or records.ndim != 1:
                raise ValueError(f"it holds {records.dtype} {records.shape}")
        except (OSError, ValueError, EOFError) as error:
            _log.warning("%s is removed and made again: %s", path, error)
            with contextlib.suppress(OSError):
                path.unlink()
            return
        self._vectors.update(zip((key.tobytes() for key in records["key"]), records["vector"], strict=True))

    def _is_ours(self, directory: Path) -> bool:
        """Return whether nobody else could have written here; embeddings from elsewhere would be believed unseen."""
        try:
            status = directory.stat()
        except OSError:
            return False
        if status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return True
        _log.warning("embeddings in %s are not read: others can write there", directory)
        self._directory = None
        return False


class ImageCache:
    """The embeddings of pictures and, unless that is None, their tokens: a picture is known when both are."""

    def __init__(self, embeddings: EmbeddingCache, tokens: EmbeddingCache | None) -> None:
        self._embeddings = embeddings
        self._tokens = tokens

    def knows(self, key: bytes) -> bool:
        """Return whether the picture `key` need not be encoded."""
        return self._embeddings.get(key) is not None and (self._tokens is None or self._tokens.get(key) is not None)

    def is_new(self, key: bytes) -> bool:
        """Return whether the picture `key` was encoded since the cache was opened."""
        return (self._embeddings if self._tokens is None else self._tokens).is_new(key)

    def add(self, key: bytes, embedding: Vectors, tokens: Vectors | None, *, lasting: bool) -> None:
        """Keep what the encoder made of a picture: `embedding` (D,), and `tokens` (T,) int8 where they are wanted."""
        if self._embeddings.get(key) is None:  # one that is there stays: another batch may round differently
            self._embeddings.add(key, embedding, lasting=lasting)
        if self._tokens is not None and tokens is not None:
            self._tokens.add(key, tokens, lasting=lasting)

    def stacked(self, keys: Sequence[bytes]) -> tuple[Vectors, Vectors | None]:
        """Return embeddings (N, D) and tokens (N, T) of `keys`, all of which are known."""
        return self._embeddings.stacked(keys), None if self._tokens is None else self._tokens.stacked(keys)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for cache in (self._embeddings, self._tokens):
            if cache is not None:
                cache.write()


def open_cache(fingerprint: str, half: Half, dim: int) -> EmbeddingCache:
    """Return the cache of one half of the model with that fingerprint, `dim` numbers an item, under these library
    versions.
    """
    libraries = ",".join(f"{name}={_version(name)}" for name in LIBRARIES)
    name = f"{fingerprint}-{hashlib.sha256(libraries.encode()).hexdigest()[:12]}"
    return EmbeddingCache(Path(platformdirs.user_cache_path("mmsearch")) / "embeddings" / name / half, dim, half)


def text_key(text: str) -> bytes:
    """Return the key of a caption."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def image_key(data: bytes) -> bytes:
    """Return the key of a picture's file."""
    return hashlib.sha256(data).digest()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"
