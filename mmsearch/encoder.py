"""Pixels and tokens -> embeddings: the protocol every encoder keeps, and the one that runs ONNX models on the CPU."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mmsearch.cuda_devices import cuda_devices
from mmsearch.model_manifest import ModelManifest
from mmsearch.onnx_session import Inputs, OnnxSession
from mmsearch.types import Preprocess

# How far from 1 the length of what a model calls normalised may be: half-precision weights are well inside.
_NORM_TOLERANCE = 0.01

# Pictures in a call. More are slower on a CPU, for they leave its caches.
IMAGES_AT_ONCE, GPU_IMAGES_AT_ONCE = 8, 64
# Of those, what one thread takes through the graph by itself. On two cores a picture takes 4.7 ms so, and 5.5 ms in a
# call of 8 that both threads share, or 6.3 ms in one of 32: much of a graph is too small to be shared out.
_IMAGES_A_LANE = 2


class Encoder(Protocol):
    """One dual encoder. Embeddings are float32 (B, dim), C-contiguous, finite, each row of length 1.

    With a matching head, the image tower also gives int8 tokens of each picture and the text tower float32 states of
    each sentence, on which the head works; without one, both are None.
    """

    @property
    def dim(self) -> int:
        """Numbers in an embedding."""

    @property
    def fingerprint(self) -> str:
        """Names the embeddings: two encoders with the same fingerprint can share a collection."""

    @property
    def on_gpu(self) -> bool:
        """True where it runs on a CUDA device, so that large batches pay; a tower may be read for the answer."""

    @property
    def images_at_once(self) -> int:
        """How many pictures in one call keep it busy without filling its memory; a tower may be read for the answer."""

    def encode_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embeddings of pixels, uint8 (B, 3, height, width)."""

    def encode_pixels_with_tokens(
        self, pixels: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.int8] | None]:
        """Embeddings and tokens (B, T, C) of pixels, uint8 (B, 3, height, width)."""

    def encode_tokens(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """Embeddings of token ids (B, L), where mask (B, L) is 1."""

    def encode_tokens_with_states(
        self, ids: NDArray[np.int64], mask: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Embeddings and states (B, L, S) of token ids (B, L), where mask (B, L) is 1."""


class OnnxEncoder:
    """The encoder of a model directory, on a CUDA device where `device` ("auto", "cpu", "cuda") asks for one that is
    there, else on `threads` CPU threads. Each tower is read and checked when it is first used.

    Safe to use from several threads.
    """

    def __init__(self, manifest: ModelManifest, *, threads: int, once: bool = False, device: str = "cpu") -> None:
        self._manifest = manifest
        self._threads = threads
        self._device = device
        self._once = once
        self._sessions: dict[str, OnnxSession] = {}
        self._lanes: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    @property
    def dim(self) -> int:
        """Numbers in an embedding."""
        return self._manifest.dim

    @property
    def fingerprint(self) -> str:
        """The model's fingerprint."""
        return self._manifest.fingerprint

    @property
    def on_gpu(self) -> bool:
        """True where it runs on a CUDA device; the image tower is read for the answer where there is one."""
        return (
            self._device in ("auto", "cuda")
            and bool(cuda_devices())
            and self._session(self._manifest.image_file).on_gpu
        )

    @property
    def images_at_once(self) -> int:
        """64 on a CUDA device, else some for each thread."""
        return GPU_IMAGES_AT_ONCE if self.on_gpu else max(IMAGES_AT_ONCE, self._threads * _IMAGES_A_LANE)

    def encode_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embeddings (B, dim) of pixels, uint8 (B, 3, height, width) of the size in the manifest.

        Raises:
            ModelError: the model cannot be loaded or gives something else than embeddings.
        """
        check_pixels(pixels, self._manifest.preprocess)
        return self._run(self._manifest.image_file, {"pixels": pixels}, {})[0]

    def encode_pixels_with_tokens(
        self, pixels: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.int8] | None]:
        """Like `encode_pixels`, and the tokens int8 (B, tokens, token_dim), None where the model has no matching head.

        Raises:
            ModelError: the model cannot be loaded or gives something else than embeddings and such tokens.
        """
        itm = self._manifest.itm
        if itm is None:
            return self.encode_pixels(pixels), None
        check_pixels(pixels, self._manifest.preprocess)
        file, shape = self._manifest.image_file, (len(pixels), itm.tokens, itm.token_dim)
        embeddings, tokens = self._run(file, {"pixels": pixels}, {"tokens": shape})
        if len(pixels) and tokens.dtype != np.int8:
            raise self._session(file).complaint(f"gave tokens of {tokens.dtype}, expected int8")
        return embeddings, np.ascontiguousarray(tokens, np.int8)

    def encode_tokens(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """Embeddings (B, dim) of token ids and mask, int64 (B, L) both.

        Raises:
            ModelError: the model cannot be loaded or gives something else than embeddings.
        """
        check_ids(ids, mask)
        return self._run(self._manifest.text_file, {"input_ids": ids, "attention_mask": mask}, {})[0]

    def encode_tokens_with_states(
        self, ids: NDArray[np.int64], mask: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Like `encode_tokens`, and the states float32 (B, L, state_dim), None where the model has no matching head.

        Raises:
            ModelError: the model cannot be loaded or gives something else than embeddings and finite states.
        """
        itm = self._manifest.itm
        if itm is None:
            return self.encode_tokens(ids, mask), None
        check_ids(ids, mask)
        file, shape = self._manifest.text_file, (*ids.shape, itm.state_dim)
        embeddings, found = self._run(file, {"input_ids": ids, "attention_mask": mask}, {"states": shape})
        states = np.ascontiguousarray(found, np.float32)
        if not np.isfinite(states).all():
            raise self._session(file).complaint("gave states that are not finite")
        return embeddings, states

    def load_image_tower(self) -> None:
        """Makes the image tower ready now instead of at the first call that needs it."""
        self._session(self._manifest.image_file)

    def load_text_tower(self) -> None:
        """Makes the text tower ready now instead of at the first call that needs it."""
        self._session(self._manifest.text_file)

    def _run(self, file: str, inputs: Inputs, more: dict[str, tuple[int, ...]]) -> list[NDArray[Any]]:
        """Embeddings (B, dim), and after them the outputs that `more` names, of the shapes beside the names."""
        rows = len(next(iter(inputs.values())))
        if rows == 0:
            return [np.zeros((0, self.dim), np.float32), *(np.zeros(shape, np.float32) for shape in more.values())]
        session = self._session(file)
        if self._has_lanes(file) and rows > _IMAGES_A_LANE and not session.on_gpu:
            embeddings, *others = self._in_lanes(session, inputs, more)
        else:
            embeddings, *others = session.run({"embedding": (rows, self.dim), **more}, inputs)
        return [unit_rows(np.asarray(embeddings, np.float32), session.complaint), *others]

    def _in_lanes(
        self, session: OnnxSession, inputs: Inputs, more: dict[str, tuple[int, ...]]
    ) -> Iterator[NDArray[Any]]:
        """What one `session.run` would give, from many small ones that each keep to one thread."""

        def run(start: int) -> list[NDArray[Any]]:
            part = {name: array[start : start + _IMAGES_A_LANE] for name, array in inputs.items()}
            rows = len(next(iter(part.values())))
            outputs = {"embedding": (rows, self.dim)} | {name: (rows, *shape[1:]) for name, shape in more.items()}
            return session.run(outputs, part)

        with self._lock:
            lanes = self._lanes = self._lanes or ThreadPoolExecutor(self._threads, thread_name_prefix="mmsearch-encode")
        parts = lanes.map(run, range(0, len(next(iter(inputs.values()))), _IMAGES_A_LANE))
        return map(np.concatenate, zip(*parts, strict=True))

    def _has_lanes(self, file: str) -> bool:
        return file == self._manifest.image_file and self._threads > 1 and not self._once

    def _session(self, file: str) -> OnnxSession:
        threads = 1 if self._has_lanes(file) else self._threads
        with self._lock:
            if file not in self._sessions:
                self._sessions[file] = OnnxSession(
                    self._manifest, file, threads=threads, once=self._once, device=self._device
                )
            return self._sessions[file]


def check_pixels(pixels: NDArray[np.uint8], size: Preprocess) -> None:
    """Returns when `pixels` are what a model of that size takes, or raises ValueError: a caller's mistake."""
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (3, size.height, size.width):
        raise ValueError(f"pixels are {pixels.dtype} {pixels.shape}, not uint8 (B, 3, {size.height}, {size.width})")


def check_ids(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> None:
    """Returns when both are int64 and of one shape (B, L), or raises ValueError: a caller's mistake."""
    if ids.dtype != np.int64 or mask.dtype != np.int64 or ids.ndim != 2 or ids.shape != mask.shape:
        raise ValueError(f"ids {ids.dtype} {ids.shape} and mask {mask.dtype} {mask.shape} are not int64 (B, L)")


def unit_rows(embeddings: NDArray[np.float32], complaint: Callable[[str], Exception]) -> NDArray[np.float32]:
    """`embeddings` (B, dim) with rows of length 1 to the last bit, C-contiguous; they must nearly be that already.

    Raises:
        Exception: what `complaint` makes of a sentence, where a row is not finite or has another length.
    """
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    # Written so that a norm that is not a number fails it too.
    if not np.all(np.abs(norms - 1) <= _NORM_TOLERANCE):
        worst = norms[np.argmax(np.nan_to_num(np.abs(norms - 1), nan=np.inf))].item()
        raise complaint(f"gave an embedding of length {worst:g}, expected 1")
    return np.ascontiguousarray(embeddings / norms, np.float32)
