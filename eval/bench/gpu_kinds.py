"""Ways to search everything, on the CPU and on a GPU, and how fast the memory of either can be read."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import util
from typing import Literal

import numpy as np

from mmsearch.cuda_devices import cuda_devices
from mmsearch.errors import MMSearchError
from mmsearch.exact_search import Vectors
from mmsearch.faiss_gpu import FaissGpuVectors, GpuKind, gpu_count
from mmsearch.refined_index import CandidateSource, RefinedIndex
from mmsearch.vector_index import ExactIndex, VectorIndex, build_index

_COPIED_BYTES = {"cpu": 1 << 28, "cuda": 1 << 30}
_COPIES = 10
_GPU_KINDS: tuple[GpuKind, ...] = ("flat", "cagra", "ivf")


@dataclass(frozen=True, slots=True)
class Opened:
    """One index ready to search: its name, where it runs, and the seconds it took to have it there."""

    name: str
    device: Literal["cpu", "cuda"]
    index: VectorIndex
    seconds: float


def opened_indexes(vectors: Vectors, threads: int) -> Iterator[Opened | str]:
    """Yield every index over `vectors` (N, D) that this machine can open, numpy first, one at a time; for each of the
    others, why it is not measured.
    """
    yield _timed("numpy on the CPU", "cpu", lambda: ExactIndex(vectors))
    yield _timed("faiss float16 on the CPU", "cpu", lambda: build_index(vectors, kind="sqfp16", threads=threads))
    if (trouble := torch_trouble()) is not None:
        yield f"torch on a GPU is not measured: {trouble}"
    else:
        yield from _on_device("torch on the GPU", vectors, _torch_source)
    if not gpu_count():
        yield "faiss on a GPU is not measured: the installed faiss is built without GPU, or finds none"
        return
    for kind in _GPU_KINDS:
        yield from _on_device(f"faiss {kind} on the GPU", vectors, functools.partial(FaissGpuVectors, kind=kind))


def torch_trouble() -> str | None:
    """Why torch cannot be used on a GPU, None where it can."""
    if util.find_spec("torch") is None:
        return "torch is not installed"
    from mmsearch.torch_index import cuda_trouble

    return cuda_trouble()


def device_names() -> str:
    """The GPUs of this machine, in words."""
    return ", ".join(str(each) for each in cuda_devices()) or "no CUDA device"


@functools.cache
def copy_bandwidth(device: Literal["cpu", "cuda"]) -> float:
    """Bytes a second that are read and written, together, while memory of `device` is copied; the best of ten."""
    size = _COPIED_BYTES[device]
    if device == "cpu":
        source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
        return 2 * size / min(_seconds(lambda: np.copyto(target, source)) for _ in range(_COPIES))
    import torch

    filled = torch.ones(size, dtype=torch.uint8, device="cuda")
    empty = torch.empty_like(filled)

    def copied() -> None:
        empty.copy_(filled)
        torch.cuda.synchronize()

    copied()
    return 2 * size / min(_seconds(copied) for _ in range(_COPIES))


def _torch_source(vectors: Vectors) -> CandidateSource:
    from mmsearch.torch_index import TorchVectors

    return TorchVectors(vectors, device="cuda")


def _on_device(name: str, vectors: Vectors, source: Callable[[Vectors], CandidateSource]) -> Iterator[Opened | str]:
    try:
        yield _timed(name, "cuda", lambda: RefinedIndex(vectors, source(vectors), _no_substitute))
    except (RuntimeError, AttributeError) as error:  # too little memory, or a build without this kind
        yield f"{name} is not measured: {str(error).splitlines()[0][:200]}"


def _no_substitute() -> VectorIndex:
    raise MMSearchError("the index on the GPU failed, or leaves queries to the CPU")


def _timed(name: str, device: Literal["cpu", "cuda"], opened: Callable[[], VectorIndex]) -> Opened:
    started = time.perf_counter()
    index = opened()
    return Opened(name, device, index, time.perf_counter() - started)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
