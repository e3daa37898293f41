"""Where a search runs: on a CUDA device where that pays, else on the CPU, and never anywhere but the CPU for one query.

The rule, for the setting `device`: "cpu" is the CPU. "auto" asks for a device from AUTO_ROWS rows on, "cuda" from
CUDA_ROWS on; below, the CPU answers before a device could. FAISS is asked first, then torch. Only a process that goes
on asking gains by it, because loading either and filling the device takes seconds: a `Collection` in a program.
`mmsearch query` opens its snapshot with "cpu", and so does what measures the stored index of a collection. Whatever
fails is said once, and the CPU answers.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from importlib import util

from mmsearch.cuda_devices import CudaDevice, cuda_devices
from mmsearch.exact_search import Vectors
from mmsearch.refined_index import CandidateSource, RefinedIndex
from mmsearch.vector_index import VectorIndex

# Up to here flat float16 codes take the CPU a few milliseconds a query.
AUTO_ROWS = 100_000
# Below, numpy alone is as quick as a device.
CUDA_ROWS = 10_000
_FEWEST_ROWS = {"auto": AUTO_ROWS, "cuda": CUDA_ROWS}

# They all install the module `faiss`, and the one installed last has overwritten the others.
FAISS_GPU_BUILDS = ("faiss-gpu", "faiss-gpu-cuvs", "faiss-gpu-cu12", "faiss-gpu-cu11")
FAISS_BUILDS = ("faiss-cpu", *FAISS_GPU_BUILDS)

_log = logging.getLogger(__name__)


def open_index(vectors: Vectors, on_cpu: Callable[[], VectorIndex], *, device: str = "cpu") -> VectorIndex:
    """An index over `vectors` (N, D) where `device` ("auto", "cpu", "cuda") lets it run; `on_cpu` gives the CPU's."""
    if not _worth_asking(len(vectors), device):
        return on_cpu()
    if not cuda_devices():
        if device == "cuda":
            _say_once("the setting `device` is cuda, and there is no CUDA device: searching on the CPU")
        return on_cpu()
    source = _source(vectors, cuda_devices()[0])
    return on_cpu() if source is None else RefinedIndex(vectors, source, on_cpu)


def planned_place(kind: str, rows: int, *, device: str) -> str:
    """Where a program would search `rows` vectors whose stored index is of `kind`, in words. Nothing is loaded."""
    if _worth_asking(rows, device) and cuda_devices():
        if any(_version(name) for name in FAISS_GPU_BUILDS):
            return "faiss on the GPU"
        if _torch_without_cuda() is None:
            return "torch on the GPU"
    return "numpy on the CPU" if kind == "exact" else "faiss on the CPU"


def _worth_asking(rows: int, device: str) -> bool:
    return device in _FEWEST_ROWS and rows > _FEWEST_ROWS[device]


def _source(vectors: Vectors, device: CudaDevice) -> CandidateSource | None:
    """The first of FAISS and torch that can use the device; None, and why in the log, when neither can."""
    reasons = []
    for attempt in (_faiss_source, _torch_source):
        try:
            found = attempt(vectors, device)
        except (ImportError, OSError, RuntimeError, MemoryError, AttributeError) as error:  # the last: an older build
            reasons.append(str(error).split("\n", 1)[0][:200])
            continue
        if not isinstance(found, str):
            return found
        reasons.append(found)
    _say_once(f"{device} is not used, searching on the CPU: {'; '.join(reasons)}")
    return None


def _faiss_source(vectors: Vectors, device: CudaDevice) -> CandidateSource | str:
    """Candidates from FAISS, or why there are none."""
    from mmsearch.faiss_gpu import faiss_gpu_source, gpu_count

    if not gpu_count():
        return "faiss is built without GPU, or finds no device"
    return faiss_gpu_source(vectors, memory=device.memory) or "no index of faiss fits the device"


def _torch_source(vectors: Vectors, device: CudaDevice) -> CandidateSource | str:
    """Candidates from torch, or why there are none."""
    # Before it is imported, which takes seconds and hundreds of megabytes.
    if (lacking := _torch_without_cuda()) is not None:
        return lacking
    from mmsearch.torch_index import TorchVectors, cuda_trouble

    return cuda_trouble() or TorchVectors(vectors, device="cuda")


def _torch_without_cuda() -> str | None:
    """Why the installed torch cannot use a CUDA device, as far as its name tells; None where it may."""
    if util.find_spec("torch") is None:
        return "torch is not installed"
    version = _version("torch") or ""
    return f"torch {version} is built without CUDA" if version.endswith("+cpu") else None


@functools.cache
def _say_once(sentence: str) -> None:
    _log.warning("%s", sentence)


def _version(name: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
