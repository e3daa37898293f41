"""The CUDA devices of this machine, asked of NVIDIA's driver itself: neither torch nor faiss is imported for it."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from typing import Any

_DRIVERS = ("libcuda.so.1", "nvcuda.dll")
_NAME_BYTES = 256


@dataclass(frozen=True, slots=True)
class CudaDevice:
    """One device: the name its maker gives it, and its memory in bytes."""

    name: str
    memory: int

    def __str__(self) -> str:
        return f"{self.name} ({self.memory / 1e9:,.0f} GB)"


@functools.cache
def cuda_devices() -> tuple[CudaDevice, ...]:
    """The devices that CUDA_VISIBLE_DEVICES leaves, in the driver's order; none where there is no driver.

    Asking starts the driver in this process, which takes some tens of milliseconds where there is one.
    """
    for name in _DRIVERS:
        try:
            driver = ctypes.CDLL(name)
        except OSError:
            continue
        return _listed(driver)
    return ()


def _listed(driver: Any) -> tuple[CudaDevice, ...]:
    """What `driver`, the opened library, names; each of its functions gives 0 when it has done its work."""
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return ()
    found = []
    for number in range(count.value):
        device, memory = ctypes.c_int(0), ctypes.c_size_t(0)
        name = ctypes.create_string_buffer(_NAME_BYTES)
        if (
            driver.cuDeviceGet(ctypes.byref(device), number)
            or driver.cuDeviceGetName(name, _NAME_BYTES, device)
            or driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
        ):
            continue
        found.append(CudaDevice(name.value.decode("utf-8", "replace"), memory.value))
    return tuple(found)
