"""The encoder that runs open_clip models in torch, on the CPU or a GPU, in the precision that is asked for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmsearch.encoder import GPU_IMAGES_AT_ONCE, IMAGES_AT_ONCE, check_ids, check_pixels, unit_rows
from mmsearch.errors import ModelError, UsageError
from mmsearch.model_manifest import ModelManifest
from mmsearch.openclip import load_openclip
from mmsearch.openclip_modules import ImageTower, TextTower
from mmsearch.safe_text import safe_text

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Compute:
    """Where a model runs and in what precision: "auto" or one of `settings.DEVICES` and `settings.PRECISIONS`.

    "auto" is a CUDA device, else Apple's, else the CPU; and bfloat16 on CUDA (float16 where it has no bfloat16),
    float32 elsewhere. `threads` are CPU threads for one call; torch has one such number for the whole process.
    """

    threads: int
    device: str = "auto"
    precision: str = "auto"


class OpenClipEncoder:
    """The encoder of a manifest whose runtime is open_clip. Both towers are read when either is first used.

    Safe to use from several threads. It gives no tokens and no states: a matching head needs an exported model.
    """

    def __init__(self, manifest: ModelManifest, compute: Compute) -> None:
        self._manifest = manifest
        self._compute = compute
        self._towers: tuple[ImageTower, TextTower] | None = None
        self._lock = threading.Lock()

    @property
    def dim(self) -> int:
        """Numbers in an embedding."""
        return self._manifest.dim

    @property
    def fingerprint(self) -> str:
        """The model's fingerprint, the same on every device and in every precision."""
        return self._manifest.fingerprint

    @property
    def on_gpu(self) -> bool:
        """True where it runs on a CUDA device; the towers are read for the answer."""
        image, _ = self._loaded()
        return next(image.parameters()).device.type == "cuda"

    @property
    def images_at_once(self) -> int:
        """64 on a CUDA device, else 8."""
        return GPU_IMAGES_AT_ONCE if self.on_gpu else IMAGES_AT_ONCE

    def encode_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embeddings (B, dim) of pixels, uint8 (B, 3, height, width) of the size in the manifest.

        Raises:
            ModelError: the model cannot be loaded or run, or gives something else than embeddings.
            UsageError: the device that is asked for is not there.
        """
        check_pixels(pixels, self._manifest.preprocess)
        if not len(pixels):
            return np.zeros((0, self.dim), np.float32)
        tower, _ = self._loaded()
        return self._run(tower, pixels)

    def encode_pixels_with_tokens(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], None]:
        """Like `encode_pixels`, and None."""
        return self.encode_pixels(pixels), None

    def encode_tokens(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """Embeddings (B, dim) of token ids and mask, int64 (B, L) both.

        Raises:
            ModelError, UsageError: as `encode_pixels`.
        """
        check_ids(ids, mask)
        if not len(ids):
            return np.zeros((0, self.dim), np.float32)
        _, tower = self._loaded()
        return self._run(tower, ids, mask)

    def encode_tokens_with_states(
        self, ids: NDArray[np.int64], mask: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], None]:
        """Like `encode_tokens`, and None."""
        return self.encode_tokens(ids, mask), None

    def load_image_tower(self) -> None:
        """Makes both towers ready now instead of at the first call that needs one."""
        self._loaded()

    def load_text_tower(self) -> None:
        """Makes both towers ready now instead of at the first call that needs one."""
        self._loaded()

    def _run(self, tower: ImageTower | TextTower, *inputs: NDArray[Any]) -> NDArray[np.float32]:
        device = next(tower.parameters()).device
        what = f"to encode {len(inputs[0])} items at once"
        with self._out_of_memory(what, "use a smaller batch"), torch.inference_mode():
            # A copy, because torch does not take arrays that may not be written to.
            embeddings, _ = tower(*(torch.tensor(each, device=device) for each in inputs))
            found: NDArray[np.float32] = embeddings.float().cpu().numpy()
        if found.shape != (len(inputs[0]), self.dim):
            raise self._complaint(f"gave embeddings {found.shape}, expected {(len(inputs[0]), self.dim)}")
        return unit_rows(found, self._complaint)

    def _loaded(self) -> tuple[ImageTower, TextTower]:
        with self._lock:
            if self._towers is None:
                device, dtype = resolved(self._compute)
                torch.set_num_threads(self._compute.threads)
                clip = load_openclip(self._manifest)
                with self._out_of_memory("to be loaded", "choose a smaller model, or device cpu"):
                    clip.to(device=device, dtype=dtype)
                image = ImageTower(clip, self._manifest.mean, self._manifest.std).to(device)
                self._towers = image.eval(), TextTower(clip).to(device).eval()
            return self._towers

    @contextmanager
    def _out_of_memory(self, what: str, remedy: str) -> Iterator[None]:
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise self._complaint(f"cannot run: {type(error).__name__}: {error}") from error
            raise self._complaint(f"needs more memory {what} than there is: {remedy}") from error

    def _complaint(self, what: str) -> ModelError:
        line = " ".join(what.split())
        return ModelError(f"model '{safe_text(self._manifest.name)}' {safe_text(line)}")


def resolved(compute: Compute) -> tuple[torch.device, torch.dtype]:
    """The device and the type of the weights that `compute` means on this machine.

    Raises:
        UsageError: the device is not there.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    device = compute.device
    if device == "auto":
        device = next(name for name in ("cuda", "mps", "cpu") if there[name])
    if not there[device]:
        raise UsageError(
            f"device is {device}: torch {torch.__version__} sees no such device here; choose auto or cpu, or install a"
            " torch for it"
        )
    precision = compute.precision
    if precision == "auto":
        precision = "fp32" if device != "cuda" else "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    return torch.device(device), _DTYPES[precision]


def _is_out_of_memory(error: BaseException) -> bool:
    # On the CPU torch has no type of its own for it.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
