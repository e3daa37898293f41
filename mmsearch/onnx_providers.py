"""What ONNX Runtime runs a graph on: a CUDA device where one is asked for and this build can use it, else the CPU."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
from typing import TYPE_CHECKING, Any

from mmsearch.cuda_devices import cuda_devices

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
# Products rounded to TF32 would give other embeddings than the CPU gives under the same fingerprint.
_CUDA_OPTIONS = {"use_tf32": "0"}

_log = logging.getLogger(__name__)


def open_session(graph: bytes, options: Any, *, device: str = "cpu") -> InferenceSession:
    """A session for `graph` with ONNX Runtime's SessionOptions `options`, where `device`, the setting, lets it.

    On "cuda" what keeps a device from being used is a warning, on "auto" for those who look; once a process.

    Raises:
        Exception: whatever ONNX Runtime raises where the CPU cannot run the graph either.
    """
    import onnxruntime

    if device == "cuda" or (device == "auto" and cuda_devices()):
        session = _on_cuda(graph, options)
        if not isinstance(session, str):
            return session
        _say_once(f"models run on the CPU: {session}", logging.WARNING if device == "cuda" else logging.INFO)
    return onnxruntime.InferenceSession(graph, options, providers=[CPU])


def runs_on_cuda(session: InferenceSession) -> bool:
    """True when the session's graph runs on a CUDA device."""
    return CUDA in session.get_providers()


def _on_cuda(graph: bytes, options: Any) -> InferenceSession | str:
    """A session on the first CUDA device, or why there is none."""
    import onnxruntime

    if CUDA not in onnxruntime.get_available_providers():
        return "this ONNX Runtime is built without CUDA; install onnxruntime-gpu in the place of onnxruntime"
    if not cuda_devices():
        return "there is no CUDA device"
    try:
        # It prints, and stdout belongs to the command. Nothing else does: what opens a session prints only where it
        # falls back by itself, and meanwhile other threads may write.
        with contextlib.redirect_stdout(io.StringIO()) as said:
            onnxruntime.preload_dlls()
        session = onnxruntime.InferenceSession(
            graph, options, providers=[(CUDA, _CUDA_OPTIONS), CPU], enable_fallback=False
        )
    except Exception as error:  # ONNX Runtime has no exception base of its own
        return f"ONNX Runtime cannot use the device ({str(error)[:200]})"
    if runs_on_cuda(session):
        return session
    return f"ONNX Runtime cannot start CUDA ({' '.join(said.getvalue().split())[:200] or 'it does not say why'})"


@functools.cache
def _say_once(sentence: str, level: int) -> None:
    _log.log(level, "%s", sentence)
