"""Collection: the object users hold. Photos and texts go in, hits come out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from mmsearch import manifest as manifests
from mmsearch.errors import CollectionNotFound
from mmsearch.manifest import CollectionManifest, ModelRef
from mmsearch.progress import ProgressCallback
from mmsearch.root_health import root_trouble
from mmsearch.safe_text import safe_path
from mmsearch.settings import Settings, load_settings, resolve_collection
from mmsearch.types import CollectionInfo, Hit, IndexReport, Reason, RepairReport, RootInfo, Skipped

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
        self, directory: Path, *, model: str | os.PathLike[str] | None = "mini", settings: Settings | None = None
    ) -> None:
        self._directory = directory
        self._model_name = model
        self._settings = settings or load_settings()
        self._model: Model | None = None
        self._snapshot: Snapshot | None = None

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        model: str | os.PathLike[str] | None = "mini",
        settings: Settings | None = None,
    ) -> Self:
        """The collection at `path`: a directory, a name, or None for the one in the settings. It need not exist
        yet: the first `add` makes it.

        `model` is the name of a bundled model or a directory; None stands for the one that built the collection.

        Raises:
            UsageError: `path` is neither a directory nor a name.
            CollectionMismatch: another model built it, or a newer mmsearch.
            CollectionError: what stands there is not a collection, or is damaged.
            ModelError: `model` is missing or not what its manifest says.
        """
        collection = cls(resolve_collection(path), model=model, settings=settings)
        manifest = collection._manifest()
        if model is not None:
            manifests.require_model(collection._directory, manifest, collection._model_reference())
        return collection

    @property
    def directory(self) -> Path:
        """Where it lies, absolute."""
        return self._directory

    def add(
        self,
        paths: PathInput | Iterable[PathInput],
        *,
        prune: bool = False,
        force: bool = False,
        verify: bool = False,
        retry_failed: bool = False,
        progress: ProgressCallback | None = None,
    ) -> IndexReport:
        """What indexing `paths`, folders and files, did: what is new, changed or moved there is in the collection now.

        `prune` removes what is gone from the disk, `force` even when very much is. `verify` reads files that look
        unchanged, `retry_failed` those that could not be read. In the main thread the first Ctrl-C or SIGTERM ends it
        early and in good order, with `interrupted` in the report.

        Raises:
            UsageError: a path cannot be indexed; nothing was done.
            CollectionBusy: another process is writing to the collection.
            CollectionMismatch: another model built it, or a newer mmsearch.
            PruneRefused: too much is gone to be removed without `force`; everything else was done, its `report` says
                what.
            CollectionError: it cannot be written, for want of room above all.
            ModelError: the model cannot be loaded.
        """
        from mmsearch.indexer.pipeline import IndexOptions, index

        options = IndexOptions(
            prune=prune,
            force=force,
            verify=verify,
            retry_failed=retry_failed,
            workers=self._settings.worker_count,
            deadline_s=self._settings.decode_timeout,
            progress=progress,
        )
        paths = [paths] if isinstance(paths, str | bytes | os.PathLike) else paths
        return index(self._directory, paths, self.model, options)

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
        return list(search(self._current_snapshot(), self.model, query).hits)

    def info(self) -> CollectionInfo:
        """What it holds, as of the last publication, and how it is answered from.

        Raises:
            CollectionNotFound: there is no collection.
            CollectionDamaged: its files do not fit together.
        """
        manifest = manifests.read(self._directory)
        with contextlib.suppress(CollectionNotFound):
            return _info(self._directory, manifest, self._current_snapshot())
        return _info(self._directory, manifest, None)

    def errors(self) -> Iterator[Skipped]:
        """The files that could not be read and have not changed since, in no particular order. The tables are read as
        they are, beside a run that is under way or on a disk that is read-only.

        Raises:
            CollectionNotFound: there is no collection.
            CollectionDamaged: its tables cannot be read.
        """
        manifest = manifests.read(self._directory)
        if manifest.model is None:
            return
        roots = {root.id: root.path for root in manifest.roots}
        from mmsearch.store import Store

        try:
            store = Store.open(self._directory, manifest.model, read_only=True)
        except CollectionNotFound:
            # Registered, and killed before the first tables were made: nothing has been tried yet.
            return
        with store:
            for item in store.errors():
                if item.missing_since is None and item.root_id in roots:
                    root = roots[item.root_id]
                    path = os.path.join(root, item.path) if item.path else root
                    yield Skipped(os.fsdecode(path), item.reason or Reason.CRASHED, item.detail or "")

    def repair(self) -> RepairReport:
        """What was found damaged, and mended from what can still be read. Nothing is embedded, no original is read.

        Raises:
            CollectionNotFound: there is no collection.
            CollectionBusy: another process is writing to it.
            CollectionDamaged: too little of it is left; says what.
        """
        from mmsearch.indexer.repair import repair

        self.close()
        return repair(self._directory)

    @property
    def model(self) -> Model:
        """The model whose embeddings are compared here; its weights are read when they are first needed.

        Raises:
            ModelError: it is missing, or not what its manifest says.
        """
        if self._model is None:
            from mmsearch.model import load_model

            name = self._model_name
            if name is None:
                built_with = self._manifest().model
                name = built_with.name if built_with is not None else self._settings.model
            self._model = load_model(name, threads=self._settings.thread_count)
        return self._model

    def close(self) -> None:
        """Lets go of the mapped files and the model. Using the collection again opens them again."""
        if self._snapshot is not None:
            self._snapshot.close()
        self._snapshot = None
        self._model = None

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

    def _model_reference(self) -> ModelRef:
        return ModelRef(self.model.name, self.model.fingerprint, self.model.dim)

    def _current_snapshot(self) -> Snapshot:
        """The live snapshot; opened again when another one has been published."""
        from mmsearch.snapshot import Snapshot
        from mmsearch.snapshot_manifest import read_current

        if self._snapshot is not None and self._snapshot.number != read_current(self._directory):
            self._snapshot.close()
            self._snapshot = None
        if self._snapshot is None:
            manifests.read(self._directory)
            self._snapshot = Snapshot.open(self._directory, threads=self._settings.thread_count)
        return self._snapshot


def _info(directory: Path, manifest: CollectionManifest, snapshot: Snapshot | None) -> CollectionInfo:
    counts = snapshot.head.counts if snapshot is not None else {}
    failed = [(Reason(reason), int(count)) for reason, count in counts.get("failed", {}).items()]
    model = manifest.model
    segments = snapshot.segments if snapshot is not None else ()
    return CollectionInfo(
        path=str(directory),
        format=manifest.format,
        snapshot=snapshot.number if snapshot is not None else 0,
        model=model.name if model is not None else None,
        fingerprint=model.fingerprint if model is not None else None,
        dim=model.dim if model is not None else None,
        roots=tuple(RootInfo(os.fsdecode(root.path), root_trouble(root.path, root.device)) for root in manifest.roots),
        images=counts.get("images", 0),
        texts=counts.get("texts", 0),
        partial=counts.get("partial", 0),
        missing=counts.get("missing", 0),
        failed=tuple(sorted(failed, key=lambda each: (-each[1], each[0]))),
        index_kinds=tuple(sorted({segment.info.index.kind for segment in segments})),
        segments=len(segments),
        disk_bytes=_disk_bytes(directory),
        matchable=sum(
            len(snapshot.live_rows(number)) if snapshot is not None and segment.info.tokens is not None else 0
            for number, segment in enumerate(segments)
        ),
    )


def _disk_bytes(directory: Path) -> int:
    total = 0
    for path in directory.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.lstat().st_size if not path.is_dir() else 0
    return total
