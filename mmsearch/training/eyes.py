"""What a photo becomes before a model looks at it in training: computed once for each of its views, and kept."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import onnxruntime as ort
import torch
from PIL import Image

from mmsearch.training.dual_encoder import DualEncoder
from mmsearch.training.features import Views, cached_early_maps, cached_pixels, early_session
from mmsearch.training.towers import EARLY_STAGES
from mmsearch.types import Preprocess

View = Callable[[int, Image.Image], Image.Image]


class Eyes(ABC):
    """What becomes of a photo depends on these alone."""

    @property
    @abstractmethod
    def photo_bytes(self) -> int:
        """Bytes of one view of one photo."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """Changes with anything that changes what becomes of a photo."""

    @abstractmethod
    def views(self, cache: Path, paths: Sequence[Path], view: View) -> Views:
        """Return one `view` (row, photo -> photo) of each of `paths`, made into the file `cache` unless it is there."""


class EarlyEyes(Eyes):
    """The frozen early half of a dual encoder's image tower, in float16."""

    def __init__(self, model: DualEncoder, size: tuple[int, int], threads: int) -> None:
        self.tower, self.size, self.threads = model.image_tower, size, threads

    @property
    def photo_bytes(self) -> int:
        """Bytes of an early map."""
        with torch.no_grad():
            example = self.tower.early(torch.zeros((1, 3, *self.size), dtype=torch.uint8))
        return 2 * example.numel()

    @property
    def digest(self) -> str:
        """Of the size and the weights of the early half."""
        digest = hashlib.sha256(f"{self.size}".encode())
        for part in (self.tower.stem, *self.tower.stages[:EARLY_STAGES]):
            for value in part.state_dict().values():
                digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def views(self, cache: Path, paths: Sequence[Path], view: View) -> Views:
        """Return early maps (N, h, w, C)."""
        return cached_early_maps(cache, self._session, paths, self.size, view)

    @cached_property
    def _session(self) -> ort.InferenceSession:
        return early_session(self.tower, self.size, self.threads)


class PixelEyes(Eyes):
    """Plain pixels, for a model whose image tower may learn from its first layer on."""

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess

    @property
    def photo_bytes(self) -> int:
        """Bytes of three channels."""
        return 3 * self.preprocess.height * self.preprocess.width

    @property
    def digest(self) -> str:
        """Of the preprocessing."""
        return hashlib.sha256(f"{sorted(asdict(self.preprocess).items())}".encode()).hexdigest()

    def views(self, cache: Path, paths: Sequence[Path], view: View) -> Views:
        """Return pixels (N, 3, H, W)."""
        return cached_pixels(cache, paths, self.preprocess, view)
