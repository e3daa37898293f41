"""One ONNX file of a model, checked and ready to run on the CPU. The only door to ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmsearch.errors import ModelError
from mmsearch.model_manifest import ModelManifest
from mmsearch.onnx_cache import GraphCache
from mmsearch.onnx_external_data import has_external_data
from mmsearch.safe_text import safe_text

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Inputs: TypeAlias = Mapping[str, NDArray[Any]]


class OnnxSession:
    """The graph in `file`, a file that `manifest` pins, on `threads` CPU threads; read and checked when it is made.

    Safe to use from several threads. `once` is for a process that asks once and ends: the graph is left ready for
    the next such process, which has it in a tenth of the time; each run takes longer.

    Raises:
        ModelError: the file is not the one that is pinned, keeps tensors elsewhere, or is no ONNX model.
    """

    def __init__(self, manifest: ModelManifest, file: str, *, threads: int, once: bool = False) -> None:
        self._model_name = manifest.name
        self._file = file
        self._session = self._kept(manifest, threads) if once else self._load(manifest.read(file), threads)

    def run(self, outputs: Mapping[str, tuple[int | None, ...]], inputs: Inputs) -> list[NDArray[Any]]:
        """The named `outputs` for `inputs`; each has to have the shape given beside its name, None for any size.

        Raises:
            ModelError: the graph fails or gives an output of another shape; the message names the file.
        """
        rows = len(next(iter(inputs.values())))
        try:
            found = self._session.run(list(outputs), dict(inputs))
        except Exception as error:  # ONNX Runtime has no exception base of its own
            raise self.complaint(f"failed on {rows} items: {error}") from error
        for (name, shape), array in zip(outputs.items(), found, strict=True):
            if len(array.shape) != len(shape) or any(
                size not in (None, actual) for size, actual in zip(shape, array.shape, strict=True)
            ):
                expected = str(shape).replace("None", "any")
                raise self.complaint(f"gave the shape {array.shape}, expected {expected} ({name})")
        return [np.asarray(array) for array in found]

    def complaint(self, what: str) -> ModelError:
        """The error that says `what` is wrong with the file."""
        return ModelError(f"model '{safe_text(self._model_name)}': {safe_text(self._file)} {safe_text(what)}")

    def _kept(self, manifest: ModelManifest, threads: int) -> InferenceSession:
        """The graph that an earlier process left ready; else the file's own, left ready for the next process."""
        cache, sha256 = GraphCache(), manifest.files[self._file].sha256
        if (kept := cache.open(sha256, _session_options(threads))) is not None:
            return kept
        data = manifest.read(self._file)
        session = self._load(data, threads)
        cache.keep(sha256, data, _session_options(threads))
        return session

    def _load(self, data: bytes, threads: int) -> InferenceSession:
        try:
            external = has_external_data(data)
        except ValueError as error:
            raise self.complaint(f"is not an ONNX model: {error}") from error
        if external:
            raise self.complaint("keeps tensors in other files; export it with all data inside")
        import onnxruntime

        try:
            return onnxruntime.InferenceSession(data, _session_options(threads), providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has no exception base of its own
            raise self.complaint(f"cannot be loaded: {error}") from error


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
