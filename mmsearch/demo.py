"""The demo: photographs that installed packages carry, indexed and searched in every direction.

It goes the way a user goes, through `mmsearch.open`, `Collection.add` and `Collection.search`, so what it shows is what
one's own photos would get. File names play no part in the search: only pixels and captions are embedded.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mmsearch.collection import Collection
from mmsearch.demo_photos import DISTRIBUTIONS, PHOTOS, find_photos
from mmsearch.durable import write_atomic
from mmsearch.errors import UsageError
from mmsearch.progress import ProgressCallback
from mmsearch.safe_text import safe_path
from mmsearch.types import Hit, IndexReport

Direction = Literal["text_to_image", "image_to_text", "image_to_image", "text_to_text"]

TEXT_QUERIES: tuple[str, ...] = (
    "a man taking a picture with a camera",
    "an astronaut in an orange space suit",
    "a bird of prey in flight",
    "geese walking on the grass",
    "a red motorcycle",
    "a blue car on rocks",
    "tents in the forest",
    "empty red chairs",
    "an old cannon",
)
PHOTO_QUERIES: tuple[str, ...] = ("photographer.png", "geese.jpg", "eagle.jpg", "cat.png")
SIMILAR_PHOTO_QUERIES: tuple[str, ...] = ("blue-car.jpg", "eagle.jpg")
CAPTION_QUERIES: tuple[str, ...] = ("a dog outdoors",)

# Only a folder with this file in it is ours to write into again.
_MARKER = "mmsearch-demo.json"


@dataclass(frozen=True, slots=True)
class DemoAnswer:
    """One query and its hits, best first. `query` is a sentence, or the file name of a photo of the demo."""

    direction: Direction
    query: str
    hits: tuple[Hit, ...]


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What one run of the demo did, and where its files are: a folder, a table, a collection."""

    photos: Path
    captions: Path
    collection: Path
    photo_count: int
    caption_count: int
    packages: tuple[str, ...]
    report: IndexReport
    answers: tuple[DemoAnswer, ...]


def run_demo(
    directory: Path, *, model: str = "mini", k: int = 3, progress: ProgressCallback | None = None
) -> DemoResult:
    """The answers to the demo's queries, in every direction, `k` hits each.

    `directory` is created where it does not exist; it keeps copies of the photos, their captions and the collection. A
    second run in it indexes nothing again.

    Raises:
        MissingExtra: the packages with the photos are not installed.
        UsageError: `directory` holds something else than an earlier demo.
    """
    photos, captions = _lay_out(directory)
    with Collection.open(directory / "collection", model=model) as collection:
        report = collection.add([photos, captions], progress=progress)
        if report.interrupted:
            raise KeyboardInterrupt
        answers = tuple(_answers(collection, photos, k))
    return DemoResult(
        photos=photos,
        captions=captions,
        collection=directory / "collection",
        photo_count=len(PHOTOS),
        caption_count=sum(len(photo.captions) for photo in PHOTOS),
        packages=tuple(DISTRIBUTIONS.values()),
        report=report,
        answers=answers,
    )


def _lay_out(directory: Path) -> tuple[Path, Path]:
    """The folder of photos and the table of captions, written where they are not there yet."""
    found = find_photos()
    _claim(directory)
    photos, captions = directory / "photos", directory / "captions.csv"
    photos.mkdir(exist_ok=True)
    for photo, source in found:
        _write_if_other(photos / photo.file, source.read_bytes())
    table = io.StringIO(newline="")
    rows = csv.writer(table)
    rows.writerow(("photo", "caption"))
    rows.writerows((photo.file, caption) for photo in PHOTOS for caption in photo.captions)
    _write_if_other(captions, table.getvalue().encode())
    return photos, captions


def _claim(directory: Path) -> None:
    """Makes `directory` ours, or refuses it: somebody's own folder is never written into."""
    if directory.is_dir() and any(directory.iterdir()) and not (directory / _MARKER).is_file():
        raise UsageError(
            f"{safe_path(str(directory))} is not empty and not from an earlier demo: name a new or an empty directory,"
            " or that of an earlier demo"
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _write_if_other(directory / _MARKER, b'{"format": 1}\n')
    except OSError as error:
        raise UsageError(
            f"the demo cannot write to {safe_path(str(directory))} ({error.strerror}):"
            " name a directory that can be written"
        ) from error


def _write_if_other(path: Path, data: bytes) -> None:
    """An equal file is left alone, so that its time of change stays and a second run has nothing to index."""
    if not path.is_file() or path.read_bytes() != data:
        write_atomic(path, data)


def _answers(collection: Collection, photos: Path, k: int) -> Iterator[DemoAnswer]:
    for text in TEXT_QUERIES:
        yield DemoAnswer("text_to_image", text, tuple(collection.search(text, k=k)))
    for name in PHOTO_QUERIES:
        yield DemoAnswer("image_to_text", name, tuple(collection.search(image=photos / name, to="texts", k=k)))
    for name in SIMILAR_PHOTO_QUERIES:
        # The photo is in the collection and always its own nearest: one more is asked for, and it is left out.
        hits = collection.search(image=photos / name, k=k + 1)
        others = [hit for hit in hits if Path(hit.path).name != name][:k]
        yield DemoAnswer("image_to_image", name, tuple(replace(hit, rank=rank) for rank, hit in enumerate(others, 1)))
    for text in CAPTION_QUERIES:
        yield DemoAnswer("text_to_text", text, tuple(collection.search(text, to="texts", k=k)))
