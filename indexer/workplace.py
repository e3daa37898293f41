"""A collection that this process alone writes to, from taking the lock to letting go of the tables."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mmsearch import manifest as manifests
from mmsearch.durable import WriterLock, probe_hard_links
from mmsearch.errors import CollectionError
from mmsearch.indexer.places import require_in_place
from mmsearch.indexer.restore import restored
from mmsearch.indexer.switch import Wish, giving_up, settled, taken_up
from mmsearch.manifest import CollectionManifest, ModelRef
from mmsearch.model import Model
from mmsearch.model_lookup import reference
from mmsearch.safe_text import safe_path
from mmsearch.store import Store

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Workplace:
    """A collection that this process alone writes to, its manifest as it stands, and the model of the run, whose
    embeddings `store` holds. `warnings` are sentences for a person on what became of it when it was opened.
    """

    directory: Path
    store: Store
    manifest: CollectionManifest
    model: ModelRef
    warnings: tuple[str, ...] = ()

    @property
    def switching(self) -> bool:
        """Whether the model of the run is to take the place of the one that answers."""
        return self.manifest.switch is not None and self.manifest.switch.to.fingerprint == self.model.fingerprint

    def replace_manifest(self, manifest: CollectionManifest) -> None:
        """Makes `manifest` the one that stands."""
        if manifest != self.manifest:
            manifests.write(self.directory, manifest)
            self.manifest = manifest

    def remove_unlisted_models(self) -> None:
        """Removes the embeddings of models that the manifest does not name (any more). What cannot be removed now, the
        next run removes.
        """
        try:
            self.store.remove_models_but(self.manifest.models)
        except OSError as error:
            _log.warning("%s: embeddings of another model were not removed: %s", safe_path(str(self.directory)), error)

    def optimize(self) -> None:
        """Merges small files of the tables. That it fails, on a full disk above all, does not undo what was indexed."""
        try:
            self.store.optimize()
            self.store.sync()
        except (CollectionError, OSError) as error:
            _log.warning("the tables were not compacted: %s", error)


@contextmanager
def opened(directory: Path, model: Model, wish: Wish) -> Iterator[Workplace]:
    """The collection in `directory`, made if need be, with its tables open and without what a killed run left over.

    Raises:
        CollectionBusy: another process is writing.
        CollectionDamaged: something stands where a file or a directory of it belongs.
        CollectionMismatch: it has another model, and the wish is not to change that.
        CollectionError: it cannot be written.
        ModelError: the collection is to change to this model, and it cannot be loaded; nothing has changed.
    """
    own = reference(model)
    manifests.create(directory)
    require_in_place(directory)
    with WriterLock(directory):
        stands = manifests.read(directory)
        before = settled(directory, stands)
        manifest = taken_up(directory, before, own, wish)
        if manifest.switch is not None and manifest.switch != before.switch:
            model.load(images=True, texts=True)
        probe_hard_links(directory)
        if manifest != stands:
            # Before there are tables: who finds one that is not named here may remove it.
            manifests.write(directory, manifest)
        with Store.open(directory, own) as store:
            ended = giving_up(before, manifest)
            # Before the sweep: what it takes for garbage may belong to rows that come back.
            back = restored(directory, store, own)
            warnings = (*store.warnings, *back, *(() if ended is None else (ended,)))
            place = Workplace(directory, store, manifest, own, warnings)
            place.remove_unlisted_models()
            store.sweep()
            yield place


@contextmanager
def wrapped_errors(directory: Path) -> Iterator[None]:
    """What the operating system refuses here concerns the collection: the files that are indexed cost only themselves.

    A pipe that breaks belongs to whoever listens to the progress.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CollectionError(
            f"{safe_path(str(directory))}: cannot be written ({error.strerror}); see that its disk has room and is not"
            " read-only, then run it again: it goes on where it was"
        ) from error
