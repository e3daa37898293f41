"""The spine of tagging: check -> embed the labels -> photos, stored or on the disk -> labels of each."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mmsearch import manifest as manifests
from mmsearch.errors import UsageError
from mmsearch.model import Model, load_model
from mmsearch.model_lookup import find_model, load_named
from mmsearch.progress import ProgressCallback
from mmsearch.prompts import TEMPLATES, checked_templates, embed_labels
from mmsearch.search import require_same_model
from mmsearch.settings import Settings
from mmsearch.snapshot import Snapshot
from mmsearch.tagging import Tagger, TagOptions, logit_scale, stored_count, tag_stored, told
from mmsearch.types import PhotoTags

if TYPE_CHECKING:
    from mmsearch.indexer.roots import PathInput


@dataclass(frozen=True, slots=True)
class TagRequest:
    """Which labels to choose from, as `distinct_labels` gives them, and for which photos: those in `paths`, or without
    them the collection's, in and below the folder `under` where it is given. `templates` None are the usual ones.
    """

    labels: tuple[str, ...]
    paths: Iterable[PathInput] | None = None
    under: str | os.PathLike[str] | None = None
    templates: Iterable[str] | None = None
    options: TagOptions = field(default_factory=TagOptions)


def open_stored(directory: Path, model: str | os.PathLike[str] | None, settings: Settings) -> tuple[Snapshot, Model]:
    """The live snapshot of the collection in `directory`, and `model`; None is the one that built the collection.

    Raises:
        CollectionNotFound, CollectionDamaged: there is no collection, or its files do not fit together.
        CollectionMismatch: a newer mmsearch built it.
        ModelError: the model is missing or not what its manifest says.
    """
    # The marker is what refuses a newer format and a directory that is somebody else's.
    manifests.read(directory)
    threads = settings.thread_count
    snapshot = Snapshot.open(directory, threads=threads)
    with closed_on_error(snapshot):
        load = partial(load_model, threads=threads, device=settings.device, precision=settings.precision)
        if model is None:
            return snapshot, find_model(snapshot.head.model, fallback=settings.model, load=load)
        return snapshot, load_named(model, (snapshot.head.model,), load=load)


@contextmanager
def closed_on_error(snapshot: Snapshot | None) -> Iterator[None]:
    """Closes `snapshot` when the block raises."""
    try:
        yield
    except BaseException:
        if snapshot is not None:
            snapshot.close()
        raise


def run_tag(
    model: Model,
    request: TagRequest,
    *,
    settings: Settings,
    snapshot: Snapshot | None = None,
    progress: ProgressCallback | None = None,
) -> Iterator[PhotoTags]:
    """The photos of `request` as they are done: of the paths in it, or without any of `snapshot`. When this returns
    everything has been checked, and the labels are embedded.

    The snapshot is closed after the last photo, when the iterator is closed after the first, and when this raises. An
    iterator that is never asked for a photo holds it for as long as it lives.

    Raises:
        UsageError: an argument cannot be used, or a path does not exist.
        CollectionMismatch: the snapshot was built by another model.
        ModelError: the model cannot be loaded.
    """
    with closed_on_error(snapshot):
        return _photos(model, request, settings=settings, snapshot=snapshot, progress=progress)


def _photos(
    model: Model,
    request: TagRequest,
    *,
    settings: Settings,
    snapshot: Snapshot | None,
    progress: ProgressCallback | None,
) -> Iterator[PhotoTags]:
    templates = TEMPLATES if request.templates is None else checked_templates(request.templates)
    if request.paths is not None and request.under is not None:
        raise UsageError("under is for photos that are indexed: give paths, or under, not both")

    def tagger() -> Tagger:
        embedded = embed_labels(request.labels, model, templates=templates, progress=progress)
        return Tagger(embedded, scale=logit_scale(model), options=request.options)

    if snapshot is not None:
        require_same_model(snapshot, model)
        under = None if request.under is None else manifests.normal_path(request.under)
        total = stored_count(snapshot) if under is None else None
        return told(tag_stored(snapshot, tagger(), under=under), progress, total=total)
    # What reads photos brings what writes the tables, and stored photos need neither.
    from mmsearch.tag_photos import ReadOptions, photo_arguments, tag_photos

    arguments = photo_arguments(request.paths or [])
    reading = ReadOptions(settings.worker_count, settings.decode_timeout)
    return told(tag_photos(arguments, model, tagger=tagger(), reading=reading), progress)
