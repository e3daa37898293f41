"""From a dataset and a starting model to what the loop reads: captions as tokens, and several views of each photo.

What becomes of a view before anything in it learns is computed once and kept under DIR/cache.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from mmsearch.errors import MMSearchError
from mmsearch.progress import Progress, ProgressCallback
from mmsearch.safe_text import safe_path
from mmsearch.training.batches import Dataset
from mmsearch.training.captions import CaptionedImages
from mmsearch.training.eyes import Eyes
from mmsearch.training.features import Views, photo_view
from mmsearch.training.train_data import TrainData
from mmsearch.training.views import ViewConfig
from mmsearch.training.word_pieces import WordPieces

MOST_VIEWS = 10  # the photo, its mirror image and eight random views
CACHE_LIMIT = 4 << 30  # bytes of views; one of 6000 photos takes 0.26 GB for `mini`, 0.9 GB of 224 x 224 pixels
_SPARE = 64 << 20
# Of the weights' own size: two checkpoints while one replaces the other, each of weights, average and two moments of
# what learns, two best weights, and the exported files.
_WEIGHT_COPIES = 9

# From captions to tokens, and to what the teacher makes of them.
Read = Callable[[Sequence[str]], tuple[WordPieces, Tensor | None]]


@dataclass(frozen=True)
class Room:
    """What views take: bytes of one view of all training photos, and of the one view of the validation photos."""

    view: int
    validation: int

    @classmethod
    def of(cls, data: TrainData, eyes: Eyes) -> Room:
        """Return the room that `data` takes as seen by `eyes`."""
        return cls(eyes.photo_bytes * len(data.training.paths), eyes.photo_bytes * len(data.validation.paths))


def affordable_views(room: Room, directory: Path, model: nn.Module, *, limit: int = CACHE_LIMIT) -> int:
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
    """Where views are kept, whose eyes saw them, and how random ones are drawn."""

    directory: Path
    eyes: Eyes
    seed: int

    def key(self, photos: str) -> str:
        """Return a name that changes with the eyes, the seed and the digest `photos`."""
        return hashlib.sha256(f"{self.eyes.digest} {self.seed} {photos}".encode()).hexdigest()[:24]


def prepared(
    data: TrainData, read: Read, *, cache: Cache, views: int, progress: ProgressCallback | None = None
) -> tuple[Dataset, Dataset]:
    """Return the training set with `views` views a photo, and the validation set with one."""
    key, done = cache.key(data.digest), 0
    if progress is not None:
        progress(Progress("prepare", 0, views + 1))

    def view(photos: CaptionedImages, part: str, number: int) -> Views:
        nonlocal done
        path = cache.directory / f"{part}-{key}-{number}.npy"
        found = cache.eyes.views(path, photos.paths, photo_view(number, cache.seed, ViewConfig()))
        done += 1
        if progress is not None:
            progress(Progress("prepare", done, views + 1))
        return found

    def dataset(photos: CaptionedImages, part: str, numbers: int) -> Dataset:
        pieces, sentences = read(photos.captions)
        return Dataset([view(photos, part, number) for number in range(numbers)], pieces, photos, sentences)

    return dataset(data.training, "training", views), dataset(data.validation, "validation", 1)
