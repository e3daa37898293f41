"""FAISS with a GPU that is none: its classes for devices, made of those for the CPU, so that real searches run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import faiss
import numpy as np


class _Resources:
    """Like the real ones it can be held weakly, which a namespace cannot."""


class _Flat:
    def __init__(self, resources: object, dim: int, metric: int, config: Any) -> None:
        assert config.useFloat16 and config.device == 0
        self._codes = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, metric)
        self.add = self._codes.add
        self.calls = 0

    def search(self, queries: Any, k: int, *, params: None) -> tuple[Any, Any]:
        assert k <= 2048 and queries.flags.c_contiguous
        self.calls += 1
        return self._codes.search(queries, k)  # type: ignore[no-any-return]


def _lists(resources: object, dim: int, lists: int, kind: int, metric: int, residual: bool, config: object) -> Any:
    centres = faiss.IndexFlat(dim, metric)
    codes = faiss.IndexIVFScalarQuantizer(centres, dim, lists, kind, metric, residual)
    codes.own_fields = True
    centres.this.disown()
    codes.cp.min_points_per_centroid = 1
    return codes


class _Graph:
    """Exact where the real one walks a graph; like it, it may name a row twice and leave places empty."""

    def __init__(self, resources: object, dim: int, metric: int, config: object) -> None:
        assert metric == faiss.METRIC_L2
        self._codes = faiss.IndexFlatL2(dim)

    def train(self, vectors: Any, *, numeric_type: int) -> None:
        assert vectors.dtype == np.float16
        self._codes.add(vectors.astype(np.float32))

    def search(self, queries: Any, k: int, *, params: Any, numeric_type: int) -> tuple[Any, Any]:
        assert params.itopk_size >= k
        # Where vectors are float16, queries are made so.
        distances, rows = self._codes.search(queries.astype(np.float16).astype(np.float32), k)
        if k > 20:
            distances[:, 15:17], rows[:, 15:17] = distances[:, :1], rows[:, :1]
            distances[:, 18], rows[:, 18] = 0, 1 << 32
        return distances, rows


class GpuFaiss:
    """The module, with `devices` devices; `without` names what this build lacks."""

    def __init__(self, devices: int = 1, *, without: tuple[str, ...] = ()) -> None:
        self.built: list[Any] = []
        self.resources = 0
        offered: dict[str, Any] = {
            "get_num_gpus": lambda: devices,
            "StandardGpuResources": self._opened,
            "GpuIndexFlatConfig": SimpleNamespace,
            "GpuIndexFlat": lambda *given: self._kept(_Flat(*given)),
            "GpuIndexIVFScalarQuantizerConfig": SimpleNamespace,
            "GpuIndexIVFScalarQuantizer": _lists,
            "GpuIndexCagraConfig": SimpleNamespace,
            "GpuIndexCagra": _Graph,
            "SearchParametersCagra": SimpleNamespace,
        }
        for name, value in offered.items():
            if name not in without:
                setattr(self, name, value)
        self._without = without

    def __getattr__(self, name: str) -> Any:
        if name.startswith("Gpu") or name in self._without:
            raise AttributeError(name)
        return getattr(faiss, name)

    def _opened(self) -> _Resources:
        self.resources += 1
        return _Resources()

    def _kept(self, index: Any) -> Any:
        self.built.append(index)
        return index
