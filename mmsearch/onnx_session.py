"""One ONNX file of a model, checked and ready to run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmsearch.errors import ModelError
from mmsearch.model_manifest import ModelManifest, data_file
from mmsearch.onnx_cache import GraphCache
from mmsearch.onnx_external_data import external_files
from mmsearch.safe_text import safe_text

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Inputs: TypeAlias = Mapping[str, NDArray[Any]]

_log = logging.getLogger(__name__)


class OnnxSession:
    """The graph in `file`, a file that `manifest` pins, on `device`, the setting, or `threads` CPU threads; read and
    checked when it is made.

    A device that fails in the middle is given up, which is logged, and the CPU goes on. Safe to use from several
    threads. `once` is for a process that asks once and ends: the graph is left ready for
    the next such process, which has it in a tenth of the time; each run takes longer.

    Raises:
        ModelError: the file is not the one that is pinned, keeps tensors where the manifest pins none, or is no ONNX
            model.
    """

    def __init__(
        self, manifest: ModelManifest, file: str, *, threads: int, once: bool = False, device: str = "cpu"
    ) -> None:
        self._manifest = manifest
        self._threads = threads
        self._file = file
        self._lock = threading.Lock()
        # A process that asks once is done before a device would be ready.
        self._session = self._kept() if once else self._load(*self._read(), device=device)

    def run(self, outputs: Mapping[str, tuple[int | None, ...]], inputs: Inputs) -> list[NDArray[Any]]:
        """The named `outputs` for `inputs`; each has to have the shape given beside its name, None for any size.

        Raises:
            ModelError: the graph fails or gives an output of another shape; the message names the file.
        """
        found = self._found(list(outputs), dict(inputs))
        for (name, shape), array in zip(outputs.items(), found, strict=True):
            if len(array.shape) != len(shape) or any(
                size not in (None, actual) for size, actual in zip(shape, array.shape, strict=True)
            ):
                expected = str(shape).replace("None", "any")
                raise self.complaint(f"gave the shape {array.shape}, expected {expected} ({name})")
        return [np.asarray(array) for array in found]

    def _found(self, names: list[str], inputs: dict[str, NDArray[Any]]) -> Any:
        """What ONNX Runtime finds for the outputs `names`; by the CPU where a device fails."""
        session = self._session
        try:
            return session.run(names, inputs)
        except Exception as error:  # ONNX Runtime has no exception base of its own
            failure = f"failed on {len(next(iter(inputs.values())))} items: {error}"
            if not self._gives_up(session, failure.split("\n", 1)[0][:400]):
                raise self.complaint(failure) from error
        # The memory that the device is short of goes with what holds it.
        del session
        return self._found(names, inputs)

    def _gives_up(self, session: InferenceSession, failure: str) -> bool:
        """True when `session`, of which `failure` is said, was on a device: one on the CPU stands in its place."""
        from mmsearch.onnx_providers import runs_on_cuda

        if not runs_on_cuda(session):
            return False
        with self._lock:
            # Another thread may have been here before.
            if self._session is session:
                _log.warning("%s; the CPU goes on", self.complaint(failure))
                self._session = self._load(*self._read(), device="cpu")
        return True

    @property
    def on_gpu(self) -> bool:
        """True when the graph runs on a CUDA device."""
        from mmsearch.onnx_providers import runs_on_cuda

        return runs_on_cuda(self._session)

    def complaint(self, what: str) -> ModelError:
        """The error that says `what` is wrong with the file."""
        return ModelError(f"model '{safe_text(self._manifest.name)}': {safe_text(self._file)} {safe_text(what)}")

    def _kept(self) -> InferenceSession:
        """The graph that an earlier process left ready; else the file's own, left ready for the next process."""
        cache, sha256 = GraphCache(), self._manifest.sha256(self._file)
        if (kept := cache.open(sha256, _session_options(self._threads))) is not None:
            return kept
        data, outside = self._read()
        session = self._load(data, outside, device="cpu")
        cache.keep(sha256, data, self._options(outside))
        return session

    def _load(self, data: bytes, outside: Mapping[str, bytes], *, device: str) -> InferenceSession:
        from mmsearch.onnx_providers import open_session

        options = self._options(outside)
        try:
            return open_session(data, options, device=device)
        except Exception as error:  # ONNX Runtime has no exception base of its own
            raise self.complaint(f"cannot be loaded: {error}") from error

    def _read(self) -> tuple[bytes, dict[str, bytes]]:
        """The file, and beside it what it keeps outside, by file name: all of it just checked against its pins."""
        manifest = self._manifest
        data, beside = manifest.read(self._file), data_file(self._file)
        try:
            named = external_files(data)
        except ValueError as error:
            raise self.complaint(f"is not an ONNX model: {error}") from error
        if named - {beside} or (named and beside not in manifest.files):
            raise self.complaint(f"keeps tensors in other files than {beside}, and the manifest has to pin that one")
        return data, {beside: manifest.read(beside)} if named else {}

    def _options(self, outside: Mapping[str, bytes]) -> Any:
        """Session options with the bytes of the files `outside`: ONNX Runtime opens none of them itself."""
        options = _session_options(self._threads)
        if outside:
            if not hasattr(options, "add_external_initializers_from_files_in_memory"):
                raise self.complaint(
                    "keeps its weights in a second file, which needs a newer onnxruntime: pip install -U onnxruntime"
                )
            contents = list(outside.values())
            options.add_external_initializers_from_files_in_memory(list(outside), contents, [len(c) for c in contents])
        return options


def _session_options(threads: int) -> Any:
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
