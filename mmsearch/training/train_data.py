"""Any captioned set that `mmsearch eval` reads, made ready to train on: looked through, split, captions evened out.

Every picture is opened before anything is learned, so that what is wrong with the data is said in the first minute.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from mmsearch.errors import DatasetError, UnreadableFile
from mmsearch.eval.datasets import Dataset, DatasetOptions, load_dataset
from mmsearch.image_limits import DecodeLimits
from mmsearch.images import load_rgb
from mmsearch.progress import Progress, ProgressCallback
from mmsearch.safe_text import safe_path, safe_text
from mmsearch.settings import available_cpus
from mmsearch.training.captions import CaptionedImages
from mmsearch.types import Reason, Skipped

FEWEST_TRAINED, FEWEST_VALIDATED = 8, 2  # photos
VALIDATION_SHARE = 0.1
MOST_VALIDATED = 1000  # photos held out; more make an epoch slower and the recalls hardly surer
FEW_VALIDATED = 50  # below this many photos one of them moves a recall by more than two points
MOST_CAPTIONS = 5  # of a photo that are learned from
_NAMED = 3  # skipped files that a note names before it counts the rest
_GLANCE = 64  # pixels: a JPEG is decoded at an eighth of its size, which finds what is damaged and costs little


@dataclass(frozen=True)
class TrainData:
    """What a run learns from and is measured on. `notes` are sentences for a person.

    `training` has equally many captions a photo, some of them repeated; `validation` has its own. `digest` changes with
    any photo, caption or choice of the two parts.
    """

    name: str
    validation_name: str
    training: CaptionedImages
    validation: CaptionedImages
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]
    digest: str


@dataclass(frozen=True)
class _Part:
    """The readable photos with captions of one dataset; `keys` are the SHA-256 of their files."""

    photos: tuple[Path, ...]
    keys: tuple[bytes, ...]
    captions: tuple[tuple[str, ...], ...]

    def subset(self, rows: Iterable[int]) -> _Part:
        photos = [(self.photos[row], self.keys[row], self.captions[row]) for row in rows]
        return _Part(*(tuple(column) for column in zip(*photos, strict=True)))


def load_train_data(source: str, validation: str | None, *, progress: ProgressCallback | None = None) -> TrainData:
    """Return the dataset in `source`; without a `validation` dataset a part of its photos is held out.

    The held-out photos are those with the smallest hashes: the same ones in every run, whatever the order of the rows,
    and a photo that is there twice is on one side.

    Raises:
        DatasetError: a dataset cannot be read as one, or has too few photos that can.
    """
    sets = [load_dataset(each, DatasetOptions(allow_missing=True)) for each in (source, validation) if each is not None]
    meter = _Meter(progress, sum(len(each.image_ids) for each in sets))
    parts, skipped, notes = [], [], []
    for each in sets:
        part, bad = _readable(each, meter)
        parts.append(part)
        skipped += bad
        notes += [f"{safe_text(each.name)}: {note}" for note in each.notes] + _skip_notes(each.name, bad)
    if len(parts) == 2:
        (training, held_out), measured = parts, sets[1].name
        _require(sets[0].name, training, FEWEST_TRAINED, "photos to learn from")
        _require(sets[1].name, held_out, FEWEST_VALIDATED, "photos to measure on")
        if shared := len(set(training.keys) & set(held_out.keys)):
            notes.append(f"{shared:,} photos are in both datasets: recalls on them say nothing about other photos")
    else:
        fewest = FEWEST_TRAINED + FEWEST_VALIDATED
        _require(sets[0].name, parts[0], fewest, f"({FEWEST_TRAINED} to learn from, {FEWEST_VALIDATED} to measure on)")
        training, held_out = _split(parts[0])
        measured = f"{sets[0].name}, held out"
        notes.append(f"{len(held_out.photos):,} of {len(parts[0].photos):,} photos are held out to measure on")
    if len(held_out.photos) < FEW_VALIDATED:
        notes.append(f"recalls on {len(held_out.photos)} photos are rough; --val names a dataset with more")
    return TrainData(
        name=sets[0].name,
        validation_name=measured,
        training=_captioned(training, captions=min(MOST_CAPTIONS, max(len(each) for each in training.captions))),
        validation=_captioned(held_out),
        skipped=tuple(skipped),
        notes=tuple(notes),
        digest=_digest(training, held_out),
    )


class _Meter:
    """Says how many of `total` pictures have been looked at."""

    def __init__(self, progress: ProgressCallback | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def step(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(Progress("check", self._done, self._total))


def _readable(dataset: Dataset, meter: _Meter) -> tuple[_Part, list[Skipped]]:
    """Return the photos of `dataset` that have captions and can be decoded, and those that cannot."""
    captions: dict[int, list[str]] = {}
    for image, caption in dataset.pairs.tolist():
        captions.setdefault(image, []).append(dataset.captions[caption])
    photos, skipped = [], []
    rows = sorted(captions)
    paths = [dataset.image_path(row) for row in rows]
    workers = available_cpus()
    pool = ThreadPoolExecutor(workers)
    try:
        keys = pool.map(partial(_key, limits=DecodeLimits.for_machine(workers)), paths)
        for row, path, key in zip(rows, paths, keys, strict=True):
            meter.step()
            if isinstance(key, UnreadableFile):
                skipped.append(Skipped(str(path), key.reason, key.detail))
            else:
                photos.append((path, key, tuple(captions[row])))
    finally:
        pool.shutdown(cancel_futures=True)  # whoever stops does not wait for thousands of pictures
    return _Part(*(tuple(photo[column] for photo in photos) for column in range(3))), skipped  # type: ignore[arg-type]


def _key(path: Path, *, limits: DecodeLimits) -> bytes | UnreadableFile:
    """Return the SHA-256 of the file at `path`, or why it is no picture."""
    try:
        with path.open("rb") as file:
            data = file.read(limits.max_bytes + 1)
        load_rgb(data, max_side=_GLANCE, limits=limits)
    except UnreadableFile as error:
        return error
    except OSError as error:
        return UnreadableFile(Reason.PERMISSION, error.strerror or type(error).__name__)
    return hashlib.sha256(data).digest()


def _skip_notes(name: str, skipped: Sequence[Skipped]) -> list[str]:
    if not skipped:
        return []
    shown = ", ".join(f"{safe_path(each.path)} ({each.reason.value})" for each in skipped[:_NAMED])
    more = f" and {len(skipped) - _NAMED:,} more" if len(skipped) > _NAMED else ""
    return [f"{safe_text(name)}: skipped {len(skipped):,} pictures that cannot be read: {shown}{more}"]


def _require(name: str, part: _Part, fewest: int, purpose: str) -> None:
    if len(part.photos) < fewest:
        raise DatasetError(
            f"{safe_text(name)} has {len(part.photos)} readable photos with captions, expected at least {fewest}"
            f" {purpose}; add photos"
        )


def _split(part: _Part) -> tuple[_Part, _Part]:
    """Return (training, held out); photos that are one file stay together."""
    wanted = min(MOST_VALIDATED, max(FEWEST_VALIDATED, round(VALIDATION_SHARE * len(part.photos))))
    held_out: list[int] = []
    order = sorted(range(len(part.photos)), key=lambda row: hashlib.sha256(b"validation" + part.keys[row]).digest())
    for row in order:
        if len(held_out) >= wanted and part.keys[row] != part.keys[held_out[-1]]:
            break
        held_out.append(row)
    rest = sorted(set(order) - set(held_out))
    if len(rest) < FEWEST_TRAINED:
        raise DatasetError(f"{len(part.photos)} photos are copies of a few; expected more that differ: add photos")
    return part.subset(rest), part.subset(sorted(held_out))


def _captioned(part: _Part, *, captions: int | None = None) -> CaptionedImages:
    """Return `part` as training reads it; with `captions`, each photo has exactly so many, the first ones in turn."""
    texts = [each if captions is None else tuple(islice(cycle(each), captions)) for each in part.captions]
    owners = np.repeat(np.arange(len(texts), dtype=np.int64), [len(each) for each in texts])
    return CaptionedImages(part.photos, tuple(text for each in texts for text in each), owners)


def _digest(*parts: _Part) -> str:
    digest = hashlib.sha256()
    for part in parts:
        for key, captions in zip(part.keys, part.captions, strict=True):
            digest.update(key)
            for caption in captions:
                digest.update(hashlib.sha256(caption.encode("utf-8", "surrogatepass")).digest())
        digest.update(b"|")
    return digest.hexdigest()
