"""What indexing should make of a folder, in plain dictionaries: rows by place, ids that stay, what a query may find."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from stateful_disk import Disk, File, Place

from mmsearch.types import Kind, Reason

FRESH = 0
"""Stands for an id that nobody has had before."""


@dataclass(frozen=True)
class Part:
    """One row of a file. `embeds` is what its embedding depends on, None for a file that could not be read; `by` are
    the models, by fingerprint, that have embedded it.
    """

    id: int
    embeds: bytes | str | None
    by: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Known:
    """What the tables hold of one file."""

    kind: Kind
    digest: bytes | None
    stat: tuple[int, int]
    parts: tuple[Part, ...]
    reason: Reason | None = None
    missing: bool = False
    torn: bool = False
    """Its rows do not belong together, as a killed run may leave them."""
    headless: bool = False
    """It has lost its first row, by which it would be found when it moves."""

    def is_whole(self, model: str) -> bool:
        """Whether nothing of it has to be read again for `model`."""
        return not self.torn and (self.reason is not None or all(model in part.by for part in self.parts))

    @property
    def ids(self) -> list[int]:
        """The ids of its rows, by part."""
        return [part.id for part in self.parts]


@dataclass(frozen=True)
class Run:
    """What a run is asked to do."""

    model: str
    roots: tuple[str, ...]
    verify: bool = False
    retry_failed: bool = False
    prune: bool = False
    force: bool = False


@dataclass
class Forecast:
    """What a run should leave: `rows`, with FRESH for new ids. `new` are places that were not known, by content, which
    take over the rows of as many of `gone`, places that have lost the same content, as there are.
    """

    rows: dict[Place, Known]
    new: dict[bytes, set[Place]] = field(default_factory=dict)
    gone: dict[bytes, dict[Place, Known]] = field(default_factory=dict)
    refused: bool = False


def forecast(rows: Mapping[Place, Known], disk: Disk, run: Run, registered: set[str]) -> Forecast:
    """What `run` makes of `rows`."""
    if _is_refused(rows, disk, run):
        return Forecast(dict(rows), refused=True)
    found = disk.walked(run.roots)
    after = Forecast(dict(rows))
    for place in found:
        file, known = disk.files[place], rows.get(place)
        after.rows[place] = _settled(place, file, known, run)
        if known is None and not file.locked:
            after.new.setdefault(file.content.digest, set()).add(place)
    for place, known in rows.items():
        is_gone = place not in disk.files and place[0] in registered and not disk.trouble(place[0])
        if is_gone and known.digest in after.new and not known.headless:
            after.gone.setdefault(known.digest, {})[place] = known
    return after


def swept(rows: dict[Place, Known], before: Mapping[Place, Known], disk: Disk, run: Run) -> tuple[int, int]:
    """Marks or removes in `rows` what a walk should have found; the numbers of files missing and removed."""
    walked = set(disk.walked(run.roots))
    gone = [
        place
        for place in before
        if place in rows and place not in walked and place[0] in run.roots and _is_proven(place, disk, run)
    ]
    for place in gone:
        if run.prune:
            del rows[place]
        else:
            rows[place] = replace(rows[place], missing=True)
    return (0, len(gone)) if run.prune else (len(gone), 0)


def _is_proven(place: Place, disk: Disk, run: Run) -> bool:
    if disk.trouble(place[0]):
        return run.prune and run.force
    return not disk.is_closed(place)


def _is_refused(rows: Mapping[Place, Known], disk: Disk, run: Run) -> bool:
    in_trouble = {root for root in run.roots if disk.trouble(root)}
    return run.prune and not run.force and any(place[0] in in_trouble for place in rows)


def _settled(place: Place, file: File, known: Known | None, run: Run) -> Known:
    """What is known of a file that a walk came across."""
    if known is None:
        return _read(place, file, None, run)
    same = known.stat == file.stat
    if known.reason is Reason.PERMISSION and file.locked and not run.retry_failed:
        return replace(known, missing=False)
    again = known.reason is not None and (run.retry_failed or known.reason is Reason.PERMISSION)
    if same and known.is_whole(run.model) and not again and not run.verify:
        return replace(known, missing=False)
    if file.locked and known.reason is None and same:
        # It cannot be read now, which says nothing about what it was.
        return replace(known, missing=False)
    return _read(place, file, known, run)


def _read(place: Place, file: File, known: Known | None, run: Run) -> Known:
    kind: Kind = "text" if place[1].endswith(".csv") else "image"
    reads_as = Reason.PERMISSION if file.locked else file.content.reads_as(place[1])
    digest = None if file.locked else file.content.digest
    embeds: tuple[bytes | str | None, ...] = (None,) if isinstance(reads_as, Reason) else reads_as
    old = known.parts if known is not None else ()
    parts = []
    for number, each in enumerate(embeds):
        before = old[number] if number < len(old) else Part(FRESH, None)
        kept = before.by if known is not None and (known.kind, before.embeds) == (kind, each) else frozenset()
        parts.append(Part(before.id, each, frozenset() if each is None else kept | {run.model}))
    reason = reads_as if isinstance(reads_as, Reason) else None
    return Known(kind, digest, file.stat, tuple(parts), reason)


def inherited(known: Known, donor: Known, model: str) -> Known:
    """`known`, at a new place, with the ids and embeddings of `donor`, whose place it was."""
    parts = []
    for number, part in enumerate(known.parts):
        before = donor.parts[number] if number < len(donor.parts) else Part(FRESH, None)
        kept = before.by if (donor.kind, before.embeds) == (known.kind, part.embeds) else frozenset()
        parts.append(Part(before.id, part.embeds, frozenset() if part.embeds is None else kept | {model}))
    return replace(known, parts=tuple(parts))


def counted(rows: Mapping[Place, Known]) -> dict[str, object]:
    """What `Collection.info` should tell of `rows`."""
    numbers: Counter[str] = Counter(images=0, texts=0, missing=0)
    failed: Counter[Reason] = Counter()
    for known in rows.values():
        if known.reason is None:
            numbers["images" if known.kind == "image" else "texts"] += len(known.parts)
            numbers["missing"] += known.missing * len(known.parts)
        elif not known.missing:
            failed[known.reason] += 1
    return {**numbers, "failed": dict(failed)}
