"""Pixels and tokens -> embeddings: the protocol every encoder keeps, and the one that runs ONNX models on the CPU."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from mmsearch.errors import ModelError
from mmsearch.model_manifest import ModelManifest
from mmsearch.onnx_external_data import has_external_data
from mmsearch.safe_text import safe_text

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

# How far from 1 the length of what a model calls normalised may be: half-precision weights are well inside.
_NORM_TOLERANCE = 0.01


class Encoder(Protocol):
    """One dual encoder. Both methods give float32 (B, dim), C-contiguous, finite, each row of length 1."""

    @property
    def dim(self) -> int:
        """Numbers in an embedding."""

    @property
    def fingerprint(self) -> str:
        """Names the embeddings: two encoders with the same fingerprint can share a collection."""

    def encode_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embeddings of pixels, uint8 (B, 3, height, width)."""

    def encode_tokens(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """Embeddings of token ids (B, L), where mask (B, L) is 1."""


class OnnxEncoder:
    """The encoder of a model directory, on `threads` CPU threads. Each tower is read and checked when it is first used.

    Safe to use from several threads.
    """

    def __init__(self, manifest: ModelManifest, *, threads: int) -> None:
        self._manifest = manifest
        self._threads = threads
        self._sessions: dict[str, InferenceSession] = {}
        self._lock = threading.Lock()

    @property
    def dim(self) -> int:
        """Numbers in an embedding."""
        return self._manifest.dim

    @property
    def fingerprint(self) -> str:
        """The model's fingerprint."""
        return self._manifest.fingerprint

    def encode_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embeddings (B, dim) of pixels, uint8 (B, 3, height, width) of the size in the manifest.

        Raises:
            ModelError: the model cannot be loaded or gives something else than embeddings.
        """
        size = self._manifest.preprocess
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (3, size.height, size.width):
            raise ValueError(f"pixels are {pixels.dtype} {pixels.shape}, not uint8 (B, 3, {size.height}, {size.width})")
        return self._run(self._manifest.image_file, {"pixels": pixels})

    def encode_tokens(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """Embeddings (B, dim) of token ids and mask, int64 (B, L) both.

        Raises:
            ModelError: the model cannot be loaded or gives something else than embeddings.
        """
        if ids.dtype != np.int64 or mask.dtype != np.int64 or ids.ndim != 2 or ids.shape != mask.shape:
            raise ValueError(f"ids {ids.dtype} {ids.shape} and mask {mask.dtype} {mask.shape} are not int64 (B, L)")
        return self._run(self._manifest.text_file, {"input_ids": ids, "attention_mask": mask})

    def load_image_tower(self) -> None:
        """Makes the image tower ready now instead of at the first call that needs it."""
        self._session(self._manifest.image_file)

    def load_text_tower(self) -> None:
        """Makes the text tower ready now instead of at the first call that needs it."""
        self._session(self._manifest.text_file)

    def _run(self, file: str, inputs: dict[str, NDArray[np.uint8] | NDArray[np.int64]]) -> NDArray[np.float32]:
        rows = len(next(iter(inputs.values())))
        if rows == 0:
            return np.zeros((0, self.dim), np.float32)
        session = self._session(file)
        try:
            (embeddings,) = session.run(["embedding"], inputs)
        except Exception as error:  # ONNX Runtime has no exception base of its own
            raise self._complaint(file, f"failed on {rows} items: {error}") from error
        if embeddings.shape != (rows, self.dim):
            raise self._complaint(file, f"gave the shape {embeddings.shape}, expected ({rows}, {self.dim})")
        return self._normalised(np.asarray(embeddings, np.float32), file)

    def _normalised(self, embeddings: NDArray[np.float32], file: str) -> NDArray[np.float32]:
        norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
        # Written so that a norm that is not a number fails it too.
        if not np.all(np.abs(norms - 1) <= _NORM_TOLERANCE):
            worst = norms[np.argmax(np.nan_to_num(np.abs(norms - 1), nan=np.inf))].item()
            raise self._complaint(file, f"gave an embedding of length {worst:g}, expected 1")
        return np.ascontiguousarray(embeddings / norms, np.float32)

    def _session(self, file: str) -> InferenceSession:
        with self._lock:
            if file not in self._sessions:
                self._sessions[file] = self._load(file)
            return self._sessions[file]

    def _load(self, file: str) -> InferenceSession:
        data = self._manifest.read(file)
        try:
            external = has_external_data(data)
        except ValueError as error:
            raise self._complaint(file, f"is not an ONNX model: {error}") from error
        if external:
            raise self._complaint(file, "keeps tensors in other files; export it with all data inside")
        import onnxruntime

        try:
            return onnxruntime.InferenceSession(
                data, _session_options(self._threads), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime has no exception base of its own
            raise self._complaint(file, f"cannot be loaded: {error}") from error

    def _complaint(self, file: str, what: str) -> ModelError:
        return ModelError(f"model '{safe_text(self._manifest.name)}': {safe_text(file)} {safe_text(what)}")


def _session_options(threads: int) -> object:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # fatal: every error reaches us as an exception, and stderr belongs to the command
    # Bytes of another format would be taken for one of ONNX Runtime's own, past the check for external data.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # Idle threads that spin would take the cores from the processes that decode the next batch.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
