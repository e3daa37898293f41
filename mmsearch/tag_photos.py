"""Photos on the disk, indexed or not -> their labels. They are read as indexing reads them, and nothing is kept.

Files stream through: decoded in processes of their own, embedded in batches, and given out in the order of the walk.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mmsearch.errors import UsageError
from mmsearch.indexer.decode import DecodePool
from mmsearch.indexer.discover import Found, Scope, Walk
from mmsearch.indexer.jobs import Decoded, Failed, Job
from mmsearch.indexer.roots import Argument, PathInput, read_arguments
from mmsearch.manifest import CollectionManifest
from mmsearch.model import Model
from mmsearch.tagging import Tagger
from mmsearch.types import PhotoTags, Reason, Skipped

_log = logging.getLogger(__name__)

# The place of a photo in the walk, its path, and its pixels or why there are none.
_Read = tuple[int, str, NDArray[np.uint8] | Skipped]


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How photos are read: in so many decode processes, each given `deadline_s` seconds for a file."""

    workers: int = 1
    deadline_s: float = 20.0


def photo_arguments(paths: Iterable[PathInput]) -> list[Argument]:
    """The folders and files to look at, checked; those inside another one are not repeated.

    Raises:
        UsageError: there is none, or one does not exist, is a collection, a link to a file, or cannot be read.
    """
    if not (given := list(paths)):
        raise UsageError("there is nothing to tag: give at least one folder or file")
    return read_arguments(given, CollectionManifest())


def tag_photos(
    arguments: Sequence[Argument], model: Model, *, tagger: Tagger, reading: ReadOptions
) -> Iterator[PhotoTags]:
    """The photos in `arguments`, each folder with all beneath it, in the order of the walk.

    Of folders only files named like pictures are tried, of single files every one. What cannot be read comes with
    its reason and without tags; folders that cannot be listed come so at the end.

    Raises:
        MMSearchError: decode processes cannot be started.
        ModelError: the model cannot be loaded, or fails.
    """
    source = _Source([Walk(_scope(number, each)) for number, each in enumerate(arguments)])
    with DecodePool(model.preprocess, workers=reading.workers, deadline_s=reading.deadline_s) as pool:
        yield from _in_order(_tagged(_batches(source.read(pool), model), model, tagger))
    yield from source.unread_folders()


def _scope(number: int, argument: Argument) -> Scope:
    return Scope(number, argument.path, b"", is_file=argument.is_file)


@dataclass(slots=True)
class _Source:
    """What the walks come across, on its way through the decode processes."""

    walks: list[Walk]
    _paths: dict[int, str] = field(default_factory=dict)
    _blocked: list[_Read] = field(default_factory=list)

    def read(self, pool: DecodePool) -> Iterator[_Read]:
        """Each file with what became of it, in order of completion, numbered in the order of the walks."""
        for result in pool.run(self._jobs()):
            yield result.token, (path := self._paths.pop(result.token)), _outcome(path, result)
            yield from self._given_back()
        yield from self._given_back()
        if links := sum(walk.links for walk in self.walks):
            _log.warning("%s not followed: give the folders they lead into", _links(links))

    def unread_folders(self) -> Iterator[PhotoTags]:
        """The folders that could not be listed, or a drive that went away, as skipped. Complete after `read`."""
        for walk in self.walks:
            broken = [] if walk.broken is None else [(walk.scope.path, walk.broken)]
            for path, error in (*walk.unread.items(), *broken):
                if error.errno != errno.ENOENT:
                    shown = os.fsdecode(walk.scope.absolute(path))
                    yield _without_tags(Skipped(shown, Reason.PERMISSION, f"cannot be read: {error.strerror}"))

    def _jobs(self) -> Iterator[Job]:
        for token, found in enumerate(self._photos()):
            path = os.fsdecode(found.absolute)
            if found.obstacle is not None:
                what = f"{found.obstacle}, not a regular file"
                self._blocked.append((token, path, Skipped(path, Reason.UNIDENTIFIED, what)))
                continue
            self._paths[token] = path
            yield Job(token, found.absolute, "image", found.extension)

    def _photos(self) -> Iterator[Found]:
        for walk in self.walks:
            yield from (found for found in walk.files() if found.kind == "image" or walk.scope.is_file)

    def _given_back(self) -> Iterator[_Read]:
        while self._blocked:
            yield self._blocked.pop()


def _outcome(path: str, result: Decoded | Failed) -> NDArray[np.uint8] | Skipped:
    if isinstance(result, Failed):
        return Skipped(path, result.reason, result.detail)
    if result.image is None:
        return Skipped(path, Reason.UNIDENTIFIED, "it is not a picture")
    return result.image.pixels


def _batches(reads: Iterable[_Read], model: Model) -> Iterator[list[_Read]]:
    """`reads` in groups of as many as the model takes at once."""
    batch: list[_Read] = []
    for each in reads:
        batch.append(each)
        if len(batch) >= model.encoder.images_at_once:
            yield batch
            batch = []
    if batch:
        yield batch


def _tagged(batches: Iterable[list[_Read]], model: Model, tagger: Tagger) -> Iterator[tuple[int, PhotoTags]]:
    for batch in batches:
        pixels = [each for _, _, each in batch if not isinstance(each, Skipped)]
        tags = iter(tagger.tags(model.encoder.encode_pixels(np.stack(pixels))) if pixels else [])
        for number, path, each in batch:
            yield number, _without_tags(each) if isinstance(each, Skipped) else PhotoTags(path, next(tags))


def _in_order(photos: Iterable[tuple[int, PhotoTags]]) -> Iterator[PhotoTags]:
    """`photos` by their numbers, which begin at 0 and leave none out: each as soon as all before it are there."""
    waiting: dict[int, PhotoTags] = {}
    following = 0
    for number, photo in photos:
        waiting[number] = photo
        while following in waiting:
            yield waiting.pop(following)
            following += 1


def _without_tags(skipped: Skipped) -> PhotoTags:
    return PhotoTags(skipped.path, (), skipped=skipped)


def _links(count: int) -> str:
    return "1 link was" if count == 1 else f"{count} links were"
