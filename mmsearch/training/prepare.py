"""From a dataset and a starting model to what the loop reads: word pieces, and early maps of several views a photo.

The early half of the image tower is frozen, so what it says of a photo is computed once and kept under DIR/cache.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from mmsearch.errors import MMSearchError
from mmsearch.progress import Progress, ProgressCallback
from mmsearch.safe_text import safe_path
from mmsearch.training.batches import Dataset
from mmsearch.training.captions import CaptionedImages
from mmsearch.training.dual_encoder import DualEncoder
from mmsearch.training.features import EarlyMaps, cached_early_maps, early_session, photo_view
from mmsearch.training.fitting import encode_captions
from mmsearch.training.towers import EARLY_STAGES
from mmsearch.training.train_data import TrainData
from mmsearch.training.views import ViewConfig
from mmsearch.training.word_pieces import word_pieces

MOST_VIEWS = 10  # the photo, its mirror image and eight random views
CACHE_LIMIT = 4 << 30  # bytes of early maps; a view of 6000 photos takes 0.26 GB
_SPARE = 64 << 20
# Of the weights' own size: two checkpoints while one replaces the other, each of weights, average and two moments of
# what learns, two best weights, and the exported files.
_WEIGHT_COPIES = 9


@dataclass(frozen=True)
class Room:
    """What early maps take: bytes of one view of all training photos, and of the one view of the validation photos."""

    view: int
    validation: int

    @classmethod
    def of(cls, data: TrainData, model: DualEncoder, size: tuple[int, int]) -> Room:
        """Return the room that `data` takes in the eyes of `model` at `size` = (H, W)."""
        with torch.no_grad():
            example = model.image_tower.early(torch.zeros((1, 3, *size), dtype=torch.uint8))
        photo = 2 * example.numel()  # float16
        return cls(photo * len(data.training.paths), photo * len(data.validation.paths))


def affordable_views(room: Room, directory: Path, model: DualEncoder, *, limit: int = CACHE_LIMIT) -> int:
    """Return how many views of each photo to keep: as many as fit into `limit` bytes and on the disk.

    Raises:
        MMSearchError: the disk of `directory` has no room for one view, or for the checkpoints.
    """
    weights = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    fixed = _SPARE + _WEIGHT_COPIES * weights + room.validation
    free = shutil.disk_usage(directory).free
    if free < fixed + room.view:
        raise MMSearchError(
            f"{safe_path(str(directory))}: {free >> 20} MB are free on its disk, and training needs"
            f" {-(-(fixed + room.view) >> 20)} MB; make room, or choose an --out on another disk"
        )
    views: int = min(limit, free - fixed) // max(1, room.view)
    return max(1, min(MOST_VIEWS, views))


@dataclass(frozen=True)
class Cache:
    """Where early maps are kept, which model's eyes they were seen with, and how random views are drawn."""

    directory: Path
    model: DualEncoder
    size: tuple[int, int]
    seed: int
    threads: int

    def key(self, photos: str) -> str:
        """Return a name that changes with the frozen weights, the size, the seed and the digest `photos`."""
        tower = self.model.image_tower
        digest = hashlib.sha256(f"{self.size} {self.seed} {photos}".encode())
        for part in (tower.stem, *tower.stages[:EARLY_STAGES]):
            for value in part.state_dict().values():
                digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:24]


def prepared(
    data: TrainData, tokenizer: Tokenizer, cache: Cache, views: int, progress: ProgressCallback | None = None
) -> tuple[Dataset, Dataset]:
    """Return the training set with `views` views a photo, and the validation set with one."""
    session = early_session(cache.model.image_tower, cache.size, cache.threads)
    key, done = cache.key(data.digest), 0
    if progress is not None:
        progress(Progress("prepare", 0, views + 1))

    def maps(photos: CaptionedImages, part: str, number: int) -> EarlyMaps:
        nonlocal done
        path = cache.directory / f"{part}-{key}-{number}.npy"
        found = cached_early_maps(path, session, photos.paths, cache.size, photo_view(number, cache.seed, ViewConfig()))
        done += 1
        if progress is not None:
            progress(Progress("prepare", done, views + 1))
        return found

    def dataset(photos: CaptionedImages, part: str, numbers: int) -> Dataset:
        cut = word_pieces(tokenizer, photos.captions)
        sentences = torch.from_numpy(encode_captions(cache.model, cut))
        return Dataset([maps(photos, part, number) for number in range(numbers)], cut, photos, sentences)

    return dataset(data.training, "training", views), dataset(data.validation, "validation", 1)
