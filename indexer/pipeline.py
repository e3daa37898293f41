"""The spine of indexing: discover -> plan -> read -> settle -> embed -> write -> publish.

Files stream through in small groups, so memory does not grow with their number. Every commit is complete in itself, so
a run may end anywhere: the next one plans what is left.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mmsearch import manifest as manifests
from mmsearch.errors import CollectionNotFound, PruneRefused, UsageError
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
from mmsearch.indexer.publish import Publisher, published_items
from mmsearch.indexer.regain import Regain
from mmsearch.indexer.settle import Settler
from mmsearch.indexer.space import require_space
from mmsearch.indexer.survey import Survey, mounts_after, mounts_during
from mmsearch.indexer.switch import Wish, finished, is_complete, pending, progress_of, remark
from mmsearch.indexer.tally import Tally
from mmsearch.indexer.workplace import Workplace, opened, wrapped_errors
from mmsearch.indexer.write import BatchLimits, Writer
from mmsearch.manifest import CollectionManifest
from mmsearch.model import Model
from mmsearch.progress import ProgressCallback
from mmsearch.root_health import root_trouble
from mmsearch.safe_text import safe_path
from mmsearch.snapshot_writer import SnapshotWriter
from mmsearch.store import Item
from mmsearch.types import IndexKind, IndexReport, SwitchInfo

# Files settled at once, or after so many seconds: what settling asks of the tables takes as long for one as for many.
# A few batches of the model, so that sentences of like lengths get together.
_GROUP_FILES = 32
_GROUP_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class IndexOptions:
    """What a run may be told. `deadline_s` is for one file; a snapshot is published at most every `publish_every_s`
    seconds while the run goes on; `progress` hears how far it is. `models` is what it may do about the collection's
    model. `index` is the kind of index that large parts get, None the one for their size; `threads` build it, None is
    FAISS's own number.
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
    models: Wish = field(default_factory=Wish)
    index: IndexKind | None = None
    threads: int | None = None


def index(directory: Path, paths: Iterable[roots.PathInput] | None, model: Model, options: IndexOptions) -> IndexReport:
    """What one run over `paths` did to the collection in `directory`, which is created if it is not there. Without
    `paths` it is over all folders that were indexed before.

    Where `options.models` lets `model` take the place of another one, that one answers until all is embedded anew.

    Raises:
        UsageError: a path cannot be indexed, or there are none; nothing was done.
        CollectionBusy: another process is writing.
        CollectionMismatch: the collection was built by another model, and is not to be given this one.
        CollectionError: the collection cannot be written, for want of room above all.
        PruneRefused: too much is gone to be removed without `force`; everything else was done, and `report` says what.
    """
    started = time.monotonic()
    arguments = _arguments(directory, paths)
    with wrapped_errors(directory):
        # Before anything is created. How much more a collection needs that holds something is known once it is open.
        require_space(directory, items=0, embedding_bytes=_embedding_bytes(model))
    with (
        interruptible() as interrupt,
        wrapped_errors(directory),
        opened(directory, model, options.models) as place,
    ):
        versions = place.store.versions()
        run = _Run(place, model, options, interrupt, _surveys(place, arguments))
        run.take_in()
        gone = run.settle_gone()
        items = run.publish()
        if place.store.versions() != versions and not interrupt.requested:
            place.optimize()
    ignored = roots.count_ignored(arguments)
    report = run.tally.report(run.surveys, gone, items=items, ignored=ignored, seconds=time.monotonic() - started)
    warnings = (*place.warnings, *report.warnings, *run.remarks)
    report = replace(report, interrupted=interrupt.requested, warnings=warnings, switch=run.switch)
    if gone.refusal is not None:
        raise PruneRefused(gone.refusal, report)
    return report


class _Run:
    """The stages of one run, and what passes between them."""

    def __init__(
        self, place: Workplace, model: Model, options: IndexOptions, interrupt: Interrupt, surveys: Sequence[Survey]
    ) -> None:
        store, roots_now = place.store, place.manifest.roots
        files = store.known_files()
        self._regain = Regain(place.directory, place.model, files)
        self.surveys = self._regain.surveys(roots_now, surveys)
        self.tally = Tally()
        self.switch: SwitchInfo | None = None
        self.remarks: tuple[str, ...] = ()
        self._place = place
        self._model = model
        self._options = options
        self._interrupt = interrupt
        self._known = KnownIndex(files, {each.id: each.reason for each in store.errors() if each.reason})
        healthy = [root.id for root in roots_now if root_trouble(root.path, root.device) is None]
        origins = Origins(self._known, {root.id: root.path for root in roots_now}, healthy)
        self._settler = Settler(store, self._known, origins)
        self._embedder = Embedder(model, interrupt)
        self._writer = Writer(place.directory, store, self._committed, options.batch)
        self._publisher = Publisher(
            place.directory,
            store,
            place.model,
            every_s=options.publish_every_s,
            hold=place.switching,
            writer=SnapshotWriter(place.directory, threads=options.threads, index=options.index),
        )
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
        mounts = mounts_after(self._place.manifest.mounts, self.surveys, forget=options.prune and options.force)
        self._place.replace_manifest(replace(self._place.manifest, roots=roots_now, mounts=mounts))
        return gone

    def publish(self) -> int:
        """Publishes what the tables hold; the number of items that can be found."""
        self._meter.publishing(done=False)
        items = self._switch_model() if self._place.switching else self._publish_own()
        self._meter.publishing(done=True)
        return items

    def _publish_own(self) -> int:
        manifest = self._place.manifest
        items = self._publisher.publish(manifest)
        under_way = pending(manifest)
        lost = self._regain.remarks(manifest.roots, carried=self._publisher.carried)
        self.remarks = lost if under_way is None else (*lost, under_way)
        return items

    def _switch_model(self) -> int:
        """Lets the new model answer, if everything is embedded by it, or else the old one as before."""
        place = self._place
        complete = is_complete(place.store) and not self._interrupt.requested
        self.switch = progress_of(place.model, place.store.known_files(), done=complete)
        if not complete:
            self._publisher.sync()
            scopes = [survey.scope for survey in self.surveys]
            self.remarks = (remark(place.manifest, place.store, scopes=scopes, interrupted=self._interrupt.requested),)
            return published_items(place.directory)
        items = self._publisher.publish(place.manifest)
        place.replace_manifest(finished(place.manifest))
        place.remove_unlisted_models()
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
        mounts = mounts_during(self._place.manifest.mounts, self.surveys)
        self._place.replace_manifest(replace(self._place.manifest, mounts=mounts))
        self._regain.note(changes)
        self._publisher.publish_if_due(self._place.manifest)

    def _done(self) -> int:
        return self.tally.files + sum(survey.seen.settled for survey in self.surveys)

    def _open_pool(self) -> DecodePool:
        return DecodePool(self._model.preprocess, workers=self._options.workers, deadline_s=self._options.deadline_s)


def _embedding_bytes(model: Model) -> int:
    """What the tables keep of one picture's embedding: the vector in float16, and tokens of one byte a number."""
    itm = model.manifest.itm
    return 2 * model.dim + (0 if itm is None else itm.tokens * itm.token_dim)


def _arguments(directory: Path, paths: Iterable[roots.PathInput] | None) -> list[roots.Argument]:
    """What is to be indexed, checked before anything is created."""
    try:
        manifest = manifests.read(directory)
    except CollectionNotFound:
        manifest = CollectionManifest()
    if paths is None:
        paths = [root.path for root in manifest.roots]
        if not paths:
            raise UsageError(f"{safe_path(str(directory))}: nothing has been indexed yet: say which folders or files")
    return roots.read_arguments(paths, manifest)


def _surveys(place: Workplace, arguments: Sequence[roots.Argument]) -> list[Survey]:
    """A survey to make for each of `arguments`, whose roots are registered now, and one for each root inside those that
    is out of reach: it stays a root of its own until it is back.
    """
    place.replace_manifest(roots.register(place.manifest, arguments))
    place.replace_manifest(roots.adopt_inner_roots(place.manifest, place.store))
    by_id = {root.id: root for root in place.manifest.roots}
    scopes = roots.scopes(place.manifest, arguments)
    mounts = place.manifest.mounts
    surveys = [Survey.begin(scope, by_id[scope.root_id], mounts=mounts) for scope in scopes]
    inner = roots.inner_scopes(place.manifest, scopes)
    return surveys + [Survey.begin(scope, by_id[scope.root_id], unasked=True, mounts=mounts) for scope in inner]


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
