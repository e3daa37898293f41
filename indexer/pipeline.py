"""The spine of indexing: discover -> plan -> read -> settle -> embed -> write -> publish.

Files stream through in small groups, so memory does not grow with their number. Every commit is complete in itself, so
a run may end anywhere: the next one plans what is left.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from mmsearch import manifest as manifests
from mmsearch.durable import WriterLock, probe_hard_links
from mmsearch.errors import CollectionError, CollectionNotFound, PruneRefused
from mmsearch.indexer import roots
from mmsearch.indexer.change import Change
from mmsearch.indexer.decode import DecodePool
from mmsearch.indexer.discover import Walk
from mmsearch.indexer.embed import Embedder
from mmsearch.indexer.intake import Intake, Read
from mmsearch.indexer.interrupt import Interrupt, StopWaiting, interruptible
from mmsearch.indexer.known import KnownIndex
from mmsearch.indexer.meter import Meter
from mmsearch.indexer.origin import Origins
from mmsearch.indexer.plan import Planned, Policy, plan
from mmsearch.indexer.prune import Gone, mark_returned, require_plausible, settle_gone
from mmsearch.indexer.publish import Publisher
from mmsearch.indexer.settle import Settler
from mmsearch.indexer.space import require_space
from mmsearch.indexer.survey import Survey
from mmsearch.indexer.tally import Tally
from mmsearch.indexer.write import BatchLimits, Writer
from mmsearch.manifest import CollectionManifest, ModelRef
from mmsearch.model import Model
from mmsearch.progress import ProgressCallback
from mmsearch.root_health import root_trouble
from mmsearch.safe_text import safe_path
from mmsearch.store import Item, Store
from mmsearch.types import IndexReport

# Files settled at once, or after so many seconds: what settling asks of the tables takes as long for one as for many.
# A few batches of the model, so that sentences of like lengths get together.
_GROUP_FILES = 32
_GROUP_SECONDS = 2.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class IndexOptions:
    """What a run may be told. `deadline_s` is for one file; a snapshot is published at most every `publish_every_s`
    seconds while the run goes on; `progress` hears how far it is.
    """

    prune: bool = False
    force: bool = False
    verify: bool = False
    retry_failed: bool = False
    workers: int = 1
    deadline_s: float = 20.0
    publish_every_s: float = 60.0
    batch: BatchLimits = field(default_factory=BatchLimits)
    progress: ProgressCallback | None = None


@dataclass(slots=True)
class Workplace:
    """A collection that this process alone writes to, and its manifest as it stands."""

    directory: Path
    store: Store
    manifest: CollectionManifest

    def replace_manifest(self, manifest: CollectionManifest) -> None:
        """Makes `manifest` the one that stands."""
        if manifest != self.manifest:
            manifests.write(self.directory, manifest)
            self.manifest = manifest


def index(directory: Path, paths: Iterable[roots.PathInput], model: Model, options: IndexOptions) -> IndexReport:
    """What one run over `paths` did to the collection in `directory`, which is created if it is not there.

    Raises:
        UsageError: a path cannot be indexed; nothing was done.
        CollectionBusy: another process is writing.
        CollectionMismatch: the collection was built by another model.
        CollectionError: the collection cannot be written, for want of room above all.
        PruneRefused: too much is gone to be removed without `force`; everything else was done, and `report` says what.
    """
    started = time.monotonic()
    arguments = roots.read_arguments(paths, _manifest_or_new(directory))
    with interruptible() as interrupt, _wrapped_errors(directory), _opened(directory, model) as place:
        versions = place.store.versions()
        run = _Run(place, model, options, interrupt, _surveys(place, arguments))
        run.take_in()
        gone = run.settle_gone()
        items = run.publish()
        if place.store.versions() != versions and not interrupt.requested:
            _optimize(place.store)
    ignored = roots.count_ignored(arguments)
    report = run.tally.report(run.surveys, gone, items=items, ignored=ignored, seconds=time.monotonic() - started)
    report = replace(report, interrupted=interrupt.requested, warnings=(*place.store.warnings, *report.warnings))
    if gone.refusal is not None:
        raise PruneRefused(gone.refusal, report)
    return report


class _Run:
    """The stages of one run, and what passes between them."""

    def __init__(
        self, place: Workplace, model: Model, options: IndexOptions, interrupt: Interrupt, surveys: Sequence[Survey]
    ) -> None:
        store, roots_now = place.store, place.manifest.roots
        self.surveys = surveys
        self.tally = Tally()
        self._place = place
        self._model = model
        self._options = options
        self._interrupt = interrupt
        self._known = KnownIndex(store.known_files(), {each.id: each.reason for each in store.errors() if each.reason})
        healthy = [root.id for root in roots_now if root_trouble(root.path, root.device) is None]
        origins = Origins(self._known, {root.id: root.path for root in roots_now}, healthy)
        self._settler = Settler(store, self._known, origins)
        self._embedder = Embedder(model, interrupt)
        self._writer = Writer(place.directory, store, self._committed, options.batch)
        self._publisher = Publisher(place.directory, store, _reference(model), every_s=options.publish_every_s)
        self._meter = Meter(options.progress, self._done)

    def take_in(self) -> None:
        """Brings every file of the scopes that is new or has changed into the tables."""
        require_space(self._place.directory, items=len(self._known.ids), embedding_bytes=_embedding_bytes(self._model))
        if self._options.prune and not self._options.force:
            require_plausible(self.surveys, self._known)
        try:
            with self._interrupt.waiting():
                self._meter.count([Walk(survey.scope) for survey in self.surveys])
        except StopWaiting:
            return
        with Intake(self._open_pool, self._interrupt) as intake:
            self._stream(intake, self._plan())
            self._stream(intake, self._settler.take_stale())
        self._meter.tick(now=True)

    def settle_gone(self) -> Gone:
        """Marks or removes what the walks did not find; after an interruption they have proved nothing."""
        store, options = self._place.store, self._options
        mark_returned(self._known, store)
        if self._interrupt.requested:
            return Gone()
        gone = settle_gone(self.surveys, self._known, store, prune=options.prune, force=options.force)
        found = [survey.moved_root(self._known, force=options.force) for survey in self.surveys]
        moved = {root.id: root for root in found if root is not None}
        roots_now = tuple(moved.get(root.id, root) for root in self._place.manifest.roots)
        self._place.replace_manifest(replace(self._place.manifest, roots=roots_now))
        return gone

    def publish(self) -> int:
        """Publishes what the tables hold; the number of items that can be found."""
        self._meter.publishing(done=False)
        items = self._publisher.publish(self._place.manifest.roots)
        self._meter.publishing(done=True)
        return items

    def _plan(self) -> Iterator[Planned]:
        policy = Policy(verify=self._options.verify, retry_failed=self._options.retry_failed)
        for survey in self.surveys:
            if survey.trouble != "gone":
                yield from plan(self._meter.watch(survey.walk.files()), self._known, policy, survey.seen)

    def _stream(self, intake: Intake, planned: Iterable[Planned]) -> None:
        for reads in _grouped(intake.read(planned)):
            changes = self._settler.settle(reads)
            embedded = self._embedder.embed(changes)
            self._writer.add(embedded)
        self._writer.commit()

    def _committed(self, changes: Sequence[Change], items: Sequence[Item]) -> None:
        self._settler.note_committed(changes, items)
        self.tally.add(changes)
        self._meter.tick()
        self._publisher.publish_if_due(self._place.manifest.roots)

    def _done(self) -> int:
        return self.tally.files + sum(survey.seen.settled for survey in self.surveys)

    def _open_pool(self) -> DecodePool:
        return DecodePool(self._model.preprocess, workers=self._options.workers, deadline_s=self._options.deadline_s)


def _reference(model: Model) -> ModelRef:
    return ModelRef(model.name, model.fingerprint, model.dim)


def _embedding_bytes(model: Model) -> int:
    """What the tables keep of one picture's embedding: the vector in float16, and tokens of one byte a number."""
    itm = model.manifest.itm
    return 2 * model.dim + (0 if itm is None else itm.tokens * itm.token_dim)


def _manifest_or_new(directory: Path) -> CollectionManifest:
    """The manifest as it stands, to check arguments against before anything is created."""
    try:
        return manifests.read(directory)
    except CollectionNotFound:
        return CollectionManifest()


@contextmanager
def _wrapped_errors(directory: Path) -> Iterator[None]:
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


@contextmanager
def _opened(directory: Path, model: Model) -> Iterator[Workplace]:
    """The collection in `directory`, made if need be, with its tables open and without what a killed run left over."""
    manifests.create(directory)
    with WriterLock(directory):
        manifest = manifests.read(directory)
        manifests.require_model(directory, manifest, _reference(model))
        probe_hard_links(directory)
        with Store.open(directory, _reference(model)) as store:
            store.sweep()
            place = Workplace(directory, store, manifest)
            place.replace_manifest(replace(manifest, model=_reference(model)))
            yield place


def _surveys(place: Workplace, arguments: Sequence[roots.Argument]) -> list[Survey]:
    """A survey to make for each of `arguments`, whose roots are registered now, and one for each root inside those that
    is out of reach: it stays a root of its own until it is back.
    """
    place.replace_manifest(roots.register(place.manifest, arguments))
    place.replace_manifest(roots.adopt_inner_roots(place.manifest, place.store))
    by_id = {root.id: root for root in place.manifest.roots}
    scopes = roots.scopes(place.manifest, arguments)
    surveys = [Survey.begin(scope, by_id[scope.root_id]) for scope in scopes]
    inner = roots.inner_scopes(place.manifest, scopes)
    return surveys + [Survey.begin(scope, by_id[scope.root_id], unasked=True) for scope in inner]


def _optimize(store: Store) -> None:
    """Merges small files of the tables. That it fails, on a full disk above all, does not undo what was indexed."""
    try:
        store.optimize()
        store.sync()
    except (CollectionError, OSError) as error:
        _log.warning("the tables were not compacted: %s", error)


def _grouped(reads: Iterable[Read]) -> Iterator[list[Read]]:
    """`reads` in groups of some tens, or smaller ones when they come slowly."""
    group: list[Read] = []
    begun = time.monotonic()
    for each in reads:
        group.append(each)
        if len(group) >= _GROUP_FILES or time.monotonic() - begun >= _GROUP_SECONDS:
            yield group
            group, begun = [], time.monotonic()
    if group:
        yield group
