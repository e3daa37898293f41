"""Exact search on a torch device: one matrix product over all vectors, the best scores of each block, merged.

Queries and vectors are rounded to float16 and multiplied there, sums are float32. So a score is off by at most what the
rounding took from the query and from the vectors, both of which are measured, and by the rounding of the sum.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmsearch.device_vectors import DeviceVectors
from mmsearch.exact_search import Vectors
from mmsearch.float16_rounding import float16_error

_SCORES_IN_MEMORY = 1 << 26  # 256 MB
_FEWEST_ROWS = 256
# Where products of float16 cannot be had, so many rows at a time are made float32.
_FLOAT32_ROWS = 1 << 16

Similarities = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class TorchVectors:
    """A CandidateSource over `vectors` (N, D) on the torch device called `device`, which looks at every row.

    `room` are the bytes that vectors may take there, None for what is free; the rest is streamed for each search.

    Raises:
        RuntimeError: there is no such device, or too little memory.
    """

    masks = True
    recall = 1.0

    def __init__(self, vectors: Vectors, *, device: str, room: int | None = None) -> None:
        self._device = torch.device(device)
        self._memory = DeviceVectors(vectors, self._device, room=room)
        self._half = _multiplies_float16(self._device)

    @property
    def place(self) -> str:
        """What it is and where it runs, in words."""
        part = "" if self._memory.resident == len(self._memory) else f", {self._memory.resident:,} rows resident"
        return f"exact float16 by torch on {self._device}{part}"

    @property
    def odd(self) -> Rows:
        """Rows, ascending, that are never named: their length is not 1."""
        return self._memory.odd

    @property
    def most(self) -> int:
        """Any number of candidates can be named; from here on looking at all rows is as quick."""
        return 16_384

    def error(self, queries: Similarities) -> npt.NDArray[np.float64]:
        """How far a score may be from the similarity, for each query (Q,)."""
        return float16_error(queries, self._memory.deviation)

    @torch.inference_mode()
    def propose(self, queries: Similarities, count: int, allowed: Mask | None) -> tuple[Similarities, Rows]:
        """The `count` best rows for each query (Q, D): scores (Q, count), falling, and rows; -inf and -1 for none."""
        asked = torch.from_numpy(queries.astype(np.float16)).to(self._device)
        shut = None if allowed is None else torch.from_numpy(~allowed).to(self._device)
        at_once = max(_FEWEST_ROWS, _SCORES_IN_MEMORY // max(1, len(queries)))
        scores = torch.empty((len(queries), 0), device=self._device)
        rows = torch.empty((len(queries), 0), dtype=torch.int64, device=self._device)
        for start, block in self._memory.blocks(at_once if self._half else min(at_once, _FLOAT32_ROWS)):
            here = self._scores(asked, block, start)
            if shut is not None:
                here.masked_fill_(shut[start : start + len(block)], -torch.inf)
            best = here.topk(min(count, len(block)), dim=1)
            scores, rows = torch.cat([scores, best.values], dim=1), torch.cat([rows, best.indices + start], dim=1)
            if scores.shape[1] > count:
                scores, places = scores.topk(count, dim=1)
                rows = rows.gather(1, places)
        rows.masked_fill_(scores == -torch.inf, -1)
        return scores.cpu().numpy(), rows.cpu().numpy()

    def _scores(self, asked: Tensor, block: Tensor, start: int) -> Tensor:
        """Scores (Q, B) of the rows from `start` on; -inf for those that are odd."""
        scores = _product_of_halves(asked, block) if self._half else _product_of_floats(asked, block)
        first, last = np.searchsorted(self.odd, [start, start + len(block)])
        if first < last:
            odd = torch.from_numpy(self.odd[first:last] - start).to(self._device)
            scores.index_fill_(1, odd, -torch.inf)
        return scores


def _product_of_halves(asked: Tensor, block: Tensor) -> Tensor:
    return torch.mm(asked, block.T, out_dtype=torch.float32)


def _product_of_floats(asked: Tensor, block: Tensor) -> Tensor:
    # Where a program has products of float32 rounded to TF32, numbers that float16 holds lose nothing.
    return asked.float() @ block.float().T


def _multiplies_float16(device: torch.device) -> bool:
    """True where a product of float16 can be had as float32: on CUDA devices, from torch 2.8 on."""
    one = torch.ones((8, 8), dtype=torch.float16, device=device)
    try:
        return bool(_product_of_halves(one, one)[0, 0] == 8)
    except (RuntimeError, TypeError):
        return False


def cuda_trouble() -> str | None:
    """Why torch cannot use a CUDA device, None where it can."""
    if torch.cuda.is_available():
        return None
    reason = "finds no CUDA device that it can use" if torch.version.cuda else "is built without CUDA"
    return f"torch {torch.__version__} {reason}"
