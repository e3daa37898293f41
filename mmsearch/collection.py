"""Collection: the object users hold. Photos and texts go in, hits come out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from mmsearch import manifest as manifests
from mmsearch.collection_info import describe, failed_files
from mmsearch.collection_model import ModelChoice
from mmsearch.errors import CollectionNotFound
from mmsearch.manifest import CollectionManifest
from mmsearch.progress import ProgressCallback
from mmsearch.safe_text import safe_path
from mmsearch.settings import Settings, load_settings, resolve_collection
from mmsearch.snapshot_manifest import active_model
from mmsearch.types import (
    CheckReport,
    CollectionInfo,
    Hit,
    IndexReport,
    OptimizeReport,
    PhotoTags,
    RepairReport,
    Skipped,
)

if TYPE_CHECKING:
    from mmsearch.model import ImageInput, Model
    from mmsearch.search import Target
    from mmsearch.snapshot import Snapshot

PathInput = str | bytes | os.PathLike[str]


class Collection:
    """A collection of photos and texts in one directory. A context manager; made by `mmsearch.open`.

    Nothing is opened before it is needed, and nothing is written before the first `add`.
    """

    def __init__(
        self, directory: Path, *, model: str | os.PathLike[str] | None = None, settings: Settings | None = None
    ) -> None:
        self._directory = directory
        self._settings = settings or load_settings()
        self._models = ModelChoice(directory, model, self._settings)
        self._snapshot: Snapshot | None = None

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        model: str | os.PathLike[str] | None = None,
        settings: Settings | None = None,
    ) -> Self:
        """The collection at `path`: a directory, a name, or None for the one in the settings. It need not exist
        yet: the first `add` makes it.

        `model` is the name of a model or a directory, and has to be the one that built the collection; None stands for
        that one, whatever it is, and for the one in the settings where there is no collection yet.

        Raises:
            UsageError: `path` is neither a directory nor a name.
            CollectionMismatch: another model built it, or a newer mmsearch.
            CollectionError: what stands there is not a collection, or is damaged.
            ModelError: `model` is missing or not what its manifest says.
        """
        collection = cls(resolve_collection(path), model=model, settings=settings)
        manifest = collection._manifest()
        if model is not None:
            from mmsearch.model_lookup import reference

            manifest = replace(manifest, model=active_model(collection._directory, manifest))
            manifests.require_model(collection._directory, manifest, reference(collection.model))
        return collection

    @property
    def directory(self) -> Path:
        """Where it lies, absolute."""
        return self._directory

    def add(
        self,
        paths: PathInput | Iterable[PathInput] | None = None,
        *,
        prune: bool = False,
        force: bool = False,
        verify: bool = False,
        retry_failed: bool = False,
        model: str | os.PathLike[str] | None = None,
        keep_old: bool | None = None,
        progress: ProgressCallback | None = None,
    ) -> IndexReport:
        """What indexing `paths`, folders and files, did: what is new, changed or moved there is in the collection now.
        Without `paths` it is about all folders that were indexed before.

        `model` may be another one than the collection's: everything is embedded by it, run by run if need be, while the
        old one goes on answering, and when nothing lacks its new embedding, the new one answers; `switch` in the report
        says how far that is. Naming the collection's own gives a change up that is under way. With `keep_old` the old
        embeddings stay, so that going back is quick; with False what is kept of others is removed.

        `prune` removes what is gone from the disk, `force` even when very much is. `verify` reads files that look
        unchanged, `retry_failed` those that could not be read. In the main thread the first Ctrl-C or SIGTERM ends it
        early and in good order, with `interrupted` in the report.

        Raises:
            UsageError: a path cannot be indexed, or there is none; nothing was done.
            CollectionBusy: another process is writing to the collection.
            CollectionMismatch: a newer mmsearch built it, or since it was opened it got another model.
            PruneRefused: too much is gone to be removed without `force`; everything else was done, its `report` says
                what.
            CollectionError: it cannot be written, for want of room above all.
            ModelError: the model cannot be loaded.
        """
        from mmsearch.indexer.pipeline import IndexOptions, index
        from mmsearch.indexer.switch import Wish

        options = IndexOptions(
            prune=prune,
            force=force,
            verify=verify,
            retry_failed=retry_failed,
            workers=self._settings.worker_count,
            deadline_s=self._settings.decode_timeout,
            progress=progress,
            models=Wish(switch=model is not None, keep_old=keep_old),
            index=self._settings.index_kind,
            threads=self._settings.thread_count,
        )
        using = self.model if model is None else self._models.named(model, self._manifest())
        report = index(self._directory, None if paths is None else _listed(paths), using, options)
        if model is not None and (report.switch is None or report.switch.done):
            self._models.replace(using, model)
        return report

    def search(
        self,
        text: str | None = None,
        *,
        image: ImageInput | None = None,
        k: int = 10,
        to: Target = "images",
        under: str | os.PathLike[str] | None = None,
        min_similarity: float | None = None,
        rerank: bool | None = None,
        text_weight: float = 0.5,
    ) -> list[Hit]:
        """Up to `k` hits for a sentence, a picture (a path, a PIL image or an array), or both together; best first.

        `to` is what to find, "images" or "texts". `under` keeps to files in and below one directory, reached by links
        or not, `min_similarity` to hits with at least that cosine. `rerank` is whether to correct for hubs and to look
        at the best again with the model's matching head: None for wherever the model can, True to insist. Where a
        sentence and a picture come together, the sentence counts `text_weight` and the picture the rest of 1. What
        other processes have added since the last call is found too.

        Raises:
            CollectionNotFound: nothing has been indexed yet.
            CollectionMismatch: another model built it.
            CollectionDamaged: its files do not fit together.
            UsageError, UnreadableFile: the query cannot be used.
        """
        from mmsearch.search import Query, search

        query = Query(
            text,
            image=image,
            to=to,
            k=k,
            under=under,
            min_similarity=min_similarity,
            rerank=rerank,
            text_weight=text_weight,
        )
        snapshot = self._current_snapshot()
        return list(search(snapshot, self._models.of(snapshot), query).hits)

    def tag(
        self,
        labels: Iterable[str],
        *,
        paths: PathInput | Iterable[PathInput] | None = None,
        under: str | os.PathLike[str] | None = None,
        k: int = 5,
        min_probability: float = 0.0,
        templates: Iterable[str] | None = None,
        progress: ProgressCallback | None = None,
    ) -> Iterator[PhotoTags]:
        """Each photo with up to `k` of `labels`, likeliest first, of those with at least `min_probability`.

        Without `paths` all photos of the collection, or those in and below `under`, from their stored embeddings: no
        photo is read. With them the photos in those folders and files, indexed or not: they are read and not kept, and
        one that cannot be read comes with the reason. Photos come as they are done, so memory does not grow with their
        number. Probabilities are shares among the labels given: they say nothing about what is in none of them.

        A label is embedded as the mean of `templates`, sentences with `{}` where it goes (`mmsearch.prompts.TEMPLATES`
        unless given); `["{}"]` is the bare label. Arguments are checked, and the labels embedded, before this returns.

        Raises:
            UsageError: there are no labels, an argument cannot be used, or a path does not exist.
            CollectionNotFound, CollectionMismatch, CollectionDamaged: without `paths`, as `search`.
            ModelError: the model cannot be loaded.
        """
        from mmsearch.label_list import distinct_labels
        from mmsearch.tag_run import TagRequest, closed_on_error, run_tag
        from mmsearch.tagging import TagOptions

        listed = None if paths is None else _listed(paths)
        request = TagRequest(distinct_labels(labels), listed, under, templates, TagOptions(k, min_probability))
        if paths is not None:
            return run_tag(self.model, request, settings=self._settings, progress=progress)
        # One of its own, since a search meanwhile may close the collection's.
        snapshot = self._opened_anew()
        with closed_on_error(snapshot):
            model = self._models.of(snapshot)
        return run_tag(model, request, settings=self._settings, snapshot=snapshot, progress=progress)

    def info(self) -> CollectionInfo:
        """What it holds, as of the last publication, and how it is answered from.

        Raises:
            CollectionNotFound: there is no collection.
            CollectionDamaged: its files do not fit together.
        """
        return describe(self._directory, self._current_snapshot)

    def errors(self) -> Iterator[Skipped]:
        """The files that could not be read and have not changed since, in no particular order. The tables are read as
        they are, beside a run that is under way or on a disk that is read-only.

        Raises:
            CollectionNotFound: there is no collection.
            CollectionDamaged: its tables cannot be read.
        """
        yield from failed_files(self._directory)

    def check(self, *, read_data: bool = False, progress: ProgressCallback | None = None) -> CheckReport:
        """What of it is damaged: what can be seen without reading all of it, or with `read_data` every flipped bit.
        Nothing is written, and another process may be writing meanwhile.

        Raises:
            CollectionNotFound: there is no collection.
            CollectionMismatch: a newer mmsearch built it.
        """
        from mmsearch.indexer.check import check

        return check(self._directory, read_data=read_data, progress=progress)

    def optimize(self) -> OptimizeReport:
        """What merging its many small files into few changed. What it finds stays the same; old versions of the tables
        are kept for a day.

        Raises:
            CollectionNotFound: there is no collection.
            CollectionBusy: another process is writing to it.
            CollectionDamaged: it is damaged; or merging would have changed a row, and was undone.
            CollectionError: its disk has not enough room, or cannot be written.
        """
        from mmsearch.indexer.optimize import optimize

        self.close()
        return optimize(self._directory, threads=self._settings.thread_count)

    def repair(self, *, embed: bool = True, progress: ProgressCallback | None = None) -> RepairReport:
        """What was found damaged, and mended from what can still be read. With `embed`, embeddings that are lost are
        made again from the originals, those alone, where originals and model are at hand; else no original is read. In
        the main thread the first Ctrl-C or SIGTERM ends it early, with `interrupted` in the report: what answers is as
        it was then.

        Raises:
            CollectionNotFound: there is no collection.
            CollectionBusy: another process is writing to it.
            CollectionDamaged: too little of it is left; says what.
        """
        from mmsearch.indexer.pipeline import IndexOptions
        from mmsearch.indexer.repair import Remake, repair

        self.close()
        settings = self._settings
        options = IndexOptions(workers=settings.worker_count, deadline_s=settings.decode_timeout, progress=progress)
        remake = Remake(self._models.found, options) if embed else None
        return repair(self._directory, remake=remake, threads=settings.thread_count)

    @property
    def model(self) -> Model:
        """The model whose embeddings are compared here; its weights are read when they are first needed.

        Raises:
            ModelError: it is missing, or not what its manifest says.
        """
        return self._models.current(self._manifest())

    def close(self) -> None:
        """Lets go of the mapped files and the model. Using the collection again opens them again."""
        if self._snapshot is not None:
            self._snapshot.close()
        self._snapshot = None
        self._models.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Collection({safe_path(str(self._directory))!r})"

    def _manifest(self) -> CollectionManifest:
        """What stands there, or an empty manifest where nothing does."""
        try:
            return manifests.read(self._directory)
        except CollectionNotFound:
            return CollectionManifest()

    def _current_snapshot(self) -> Snapshot:
        """The live snapshot; opened again when another one has been published."""
        from mmsearch.snapshot_manifest import read_current

        snapshot = self._snapshot
        if snapshot is None or snapshot.number != read_current(self._directory):
            previous, snapshot = snapshot, self._opened_anew(snapshot)
            self._snapshot = snapshot
            if previous is not None:
                previous.close()
        return snapshot

    def _opened_anew(self, previous: Snapshot | None = None) -> Snapshot:
        """The live snapshot, sharing what it can with `previous`; whoever asks for it closes it."""
        from mmsearch.snapshot import Snapshot

        manifests.read(self._directory)
        threads, device = self._settings.thread_count, self._settings.device
        return Snapshot.open(self._directory, threads=threads, device=device, previous=previous)


def _listed(paths: PathInput | Iterable[PathInput]) -> Iterable[PathInput]:
    return [paths] if isinstance(paths, str | bytes | os.PathLike) else paths
