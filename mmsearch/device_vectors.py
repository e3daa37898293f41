"""Vectors as float16 in the memory of a torch device; what does not fit is streamed from the mapped file.

A block goes through pinned memory on a stream of its own: while the device works on one, the next is on its way.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmsearch.exact_search import Vectors
from mmsearch.float16_rounding import Rounding

# 50 MB of vectors of 384 numbers: large enough for the full speed of the bus, small enough to be pinned twice.
BLOCK_ROWS = 1 << 16
# What is left to products, to the choice of the best, and to other programs.
_ROOM_SHARE = 0.8
_SPARE_BYTES = 1 << 30

Floats = npt.NDArray[np.float32]


class DeviceVectors:
    """`vectors` (N, D) on `device`, as many as fit into `room` bytes; None takes what is free there.

    `odd` (O,) and `deviation` are what `Rounding` says of them.
    """

    def __init__(self, vectors: Vectors, device: torch.device, *, room: int | None = None) -> None:
        self._vectors = vectors
        self._staging: _Staging | None = _Staging(vectors.shape[1], device)
        room = _free_room(device) if room is None else room
        resident = min(len(vectors), room // (2 * vectors.shape[1]))
        self._resident = torch.empty((resident, vectors.shape[1]), dtype=torch.float16, device=device)
        rounding = Rounding()
        for start, block in self._streamed(self._staging, 0):
            lengths, distances = _measured(vectors[start : start + len(block)], block)
            rounding.seen(start, lengths=lengths, distances=distances)
            fits = max(0, min(len(block), resident - start))
            self._resident[start : start + fits] = block[:fits]
        self.odd, self.deviation = rounding.odd, rounding.deviation
        if resident == len(vectors):
            # Pinned memory, which the system cannot use for anything else.
            self._staging = None

    @property
    def resident(self) -> int:
        """How many rows, from the first, stay on the device."""
        return len(self._resident)

    def __len__(self) -> int:
        return len(self._vectors)

    def blocks(self, at_once: int) -> Iterator[tuple[int, Tensor]]:
        """All vectors in order: the number of the first row, and float16 (B, D) of at most `at_once` rows."""
        for start in range(0, self.resident, at_once):
            yield start, self._resident[start : start + at_once]
        if self._staging is None:
            return
        for start, block in self._streamed(self._staging, self.resident):
            for inside in range(0, len(block), at_once):
                yield start + inside, block[inside : inside + at_once]

    def _streamed(self, staging: _Staging, first: int) -> Iterator[tuple[int, Tensor]]:
        for start in range(first, len(self._vectors), BLOCK_ROWS):
            yield start, staging.upload(self._vectors[start : start + BLOCK_ROWS])


class _Staging:
    """The way of blocks of at most BLOCK_ROWS rows to the device, through two places in pinned memory in turns."""

    def __init__(self, dim: int, device: torch.device) -> None:
        self._device = device
        self._turn = 0
        if device.type == "cuda":
            self._pinned = [torch.empty((BLOCK_ROWS, dim), dtype=torch.float16, pin_memory=True) for _ in range(2)]
            self._copied = [torch.cuda.Event() for _ in range(2)]  # type: ignore[no-untyped-call]
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def upload(self, stored: Vectors) -> Tensor:
        """`stored` (B, D) as float16 on the device; what the caller starts next there waits for it."""
        if self._device.type != "cuda":
            fresh = torch.empty(stored.shape, dtype=torch.float16)
            _fill(fresh, stored)
            return fresh.to(self._device)
        self._turn = 1 - self._turn
        copied, host = self._copied[self._turn], self._pinned[self._turn][: len(stored)]
        copied.synchronize()
        _fill(host, stored)
        with torch.cuda.stream(self._stream):
            block = host.to(self._device, non_blocking=True)
            copied.record()
        consumer = torch.cuda.current_stream(self._device)
        consumer.wait_event(copied)
        # Its memory belongs to the stream of copies, which must not use it again before the consumer is done.
        block.record_stream(consumer)
        return block


def _fill(host: Tensor, stored: Vectors) -> None:
    # A damaged number that float16 cannot hold becomes infinite, and its row an odd one.
    with np.errstate(over="ignore", invalid="ignore"):
        host.numpy()[...] = stored


def _measured(stored: Vectors, block: Tensor) -> tuple[Floats, Floats | None]:
    """The lengths (B,) of the vectors `stored` (B, D), and how far they are from `block`; None for not at all."""
    if stored.dtype != np.float32:
        return torch.linalg.vector_norm(block, dim=1, dtype=torch.float32).cpu().numpy(), None
    exact = torch.from_numpy(np.array(stored)).to(block.device)
    distances = torch.linalg.vector_norm(exact - block.float(), dim=1)
    return torch.linalg.vector_norm(exact, dim=1).cpu().numpy(), distances.cpu().numpy()


def _free_room(device: torch.device) -> int:
    """Bytes that vectors may take on `device`; without end where it is no CUDA device."""
    if device.type != "cuda":
        return 1 << 62
    free, _ = torch.cuda.mem_get_info(device)
    return max(0, int(_ROOM_SHARE * free) - _SPARE_BYTES)
