"""Files that were read -> the rows to write for them, with every embedding that exists already."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from mmsearch.images import DecodedImage
from mmsearch.indexer.change import Change, Embedding, Outcome, Row, skipped
from mmsearch.indexer.discover import DRIVE_GONE
from mmsearch.indexer.items import error_item, image_item, passage_item, same_content_item, stands_as
from mmsearch.indexer.jobs import Decoded, Failed
from mmsearch.indexer.known import KnownIndex, content_key
from mmsearch.indexer.lookup import Lookup
from mmsearch.indexer.origin import Origin, Origins
from mmsearch.indexer.plan import Planned, Step
from mmsearch.store import Item, Store

Result: TypeAlias = Decoded | Failed

_VANISHED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
_WRITTEN_ALIKE = 4


@dataclass(frozen=True, slots=True)
class Draft:
    """One file on its way: what was planned, what reading gave, where its rows come from."""

    planned: Planned
    result: Result
    origin: Origin


class Settler:
    """Settles the files of one run.

    A file that was to be copied from rows which have changed since has to be read once more, in full: `take_stale`.
    """

    def __init__(self, store: Store, known: KnownIndex, origins: Origins) -> None:
        self._store = store
        self._known = known
        self._origins = origins
        self._written = Lookup()
        self._stale: list[Planned] = []

    def settle(self, reads: Sequence[tuple[Planned, Result]]) -> list[Change]:
        """What becomes of each file. Only rows for which the model has to be asked lack their embedding."""
        changes = []
        drafts = []
        for planned, result in reads:
            if isinstance(result, Failed) and self._proves_nothing(planned, result):
                changes.append(self._unproven(planned, result))
            else:
                drafts.append(Draft(planned, result, self._origins.of(planned, result.hash)))
        items = self._stored_items(drafts)
        for draft in drafts:
            change = self._change(draft, items)
            if change is not None:
                changes.append(change)
            else:
                self._origins.release(draft.origin)
                self._stale.append(replace(draft.planned, known_hashes=()))
        self._copy_embeddings(changes)
        return changes

    def take_stale(self) -> Iterator[Planned]:
        """The files to read once more, each once. Ask when all others are settled."""
        while self._stale:
            yield self._stale.pop()

    def note_committed(self, changes: Iterable[Change], items: Iterable[Item]) -> None:
        """`changes` are in the tables, as `items`: pictures of the same content may copy from these from now on."""
        for change in changes:
            if change.rows:
                self._known.note_rewritten(change.takes_over)
        for item in items:
            if item.kind == "image" and item.found and item.hash is not None:
                self._written.add(content_key(item.hash), item.id)

    def _proves_nothing(self, planned: Planned, failed: Failed) -> bool:
        """Whether a failure says nothing about the content: the file is gone, or what is stored may well still hold."""
        if failed.errno in _VANISHED:
            return True
        rows = planned.rows
        stored = len(rows) > 0 and not bool(self._known.failed[rows].any())
        # In a change of models every file is read, whether or not it changed.
        looks_the_same = failed.hash is None and (
            planned.step is Step.CHECK
            or (stored and self._known.looks_stored(rows, planned.found.size, planned.found.mtime_ns))
        )
        return stored and (failed.errno in DRIVE_GONE or looks_the_same)

    def _unproven(self, planned: Planned, failed: Failed) -> Change:
        if failed.errno in _VANISHED:
            return Change(planned.found, "vanished")
        rows = planned.rows
        if self._known.looks_stored(rows, planned.found.size, planned.found.mtime_ns):
            # It is there again, whether or not it can be read.
            self._known.returned[rows] = self._known.missing[rows]
        return Change(planned.found, "failed", skipped=skipped(planned.found, failed.reason, failed.detail))

    def _stored_items(self, drafts: Sequence[Draft]) -> dict[int, Item]:
        """The items by id that `drafts` may copy from, fetched at once."""
        wanted: set[int] = set()
        for draft in drafts:
            if isinstance(draft.result, Decoded):
                wanted.update(self._copy_ids(draft, draft.result))
                wanted.update(self._standing_ids(draft, draft.result))
        ids = np.asarray(sorted(wanted), np.int64)
        return {item.id: item for item in self._store.items(ids)} if wanted else {}

    def _copy_ids(self, draft: Draft, result: Decoded) -> list[int]:
        """Ids of rows that the file of `draft` may have something from: whole items, or embeddings."""
        origin = draft.origin
        if result.outcome == "image" and not len(origin.donor):
            return [int(each) for each in self._written.find(content_key(result.hash), limit=_WRITTEN_ALIKE)]
        rows = np.union1d(origin.donor, origin.takes_over)
        if result.outcome != "known":
            rows = rows[self._known.embedded[rows]]
        return [int(each) for each in self._known.ids[rows]]

    def _change(self, draft: Draft, items: Mapping[int, Item]) -> Change | None:
        """What becomes of the file of `draft`, None when it has to be read once more."""
        result = draft.result
        if isinstance(result, Failed):
            return self._failed(draft, result)
        if result.outcome == "known":
            return self._same_content(draft, result, items)
        if result.image is not None:
            return self._picture(draft, result, result.image, items)
        return self._text(draft, result, items)

    def _failed(self, draft: Draft, failed: Failed) -> Change:
        found = draft.planned.found
        row = Row(error_item(found, failed, draft.planned.planned_ns))
        ids = self._known.ids[draft.origin.takes_over]
        return Change(found, "failed", [row], ids, skipped=skipped(found, failed.reason, failed.detail))

    def _same_content(self, draft: Draft, result: Decoded, items: Mapping[int, Item]) -> Change | None:
        """The rows of a file whose bytes are those of stored rows: they change their place, and nothing is decoded."""
        found, origin = draft.planned.found, draft.origin
        ids = self._known.ids[origin.takes_over]
        if origin.same_file and self._known.is_whole(origin.takes_over):
            outcome: Outcome = "failed_before" if self._known.failed[origin.takes_over].any() else "unchanged"
            if self._known.describe(origin.takes_over).is_current(result.size, result.mtime_ns):
                return Change(found, outcome)
            return Change(found, outcome, [Row(same_content_item(items[each], found, result)) for each in ids], ids)
        if not len(origin.donor):
            return None
        rows = [Row(same_content_item(items[each], found, result)) for each in self._known.ids[origin.donor]]
        if not origin.keeps_embeddings:
            for row, donor in zip(rows, self._known.ids[origin.donor].tolist(), strict=True):
                row.copy_from = donor
        self._note_standing(draft, result, rows, items)
        return Change(found, "moved" if origin.moved else "indexed", rows, ids)

    def _picture(self, draft: Draft, result: Decoded, image: DecodedImage, items: Mapping[int, Item]) -> Change:
        found, origin = draft.planned.found, draft.origin
        row = Row(image_item(found, result, image))
        if not origin.keeps_embeddings:
            alike = (
                each for each in self._copy_ids(draft, result) if items[each].found and items[each].hash == result.hash
            )
            row.copy_from = next(alike, None)
            row.pixels = image.pixels if row.copy_from is None else None
        self._note_standing(draft, result, [row], items)
        return Change(found, _outcome(origin), [row], self._known.ids[origin.takes_over], note=image.note)

    def _text(self, draft: Draft, result: Decoded, items: Mapping[int, Item]) -> Change:
        """Passages that the file, or one with the same bytes, had before are not embedded again."""
        found, origin = draft.planned.found, draft.origin
        embedded = {text: each for each in self._copy_ids(draft, result) if (text := items[each].text)}
        rows = [Row(passage_item(found, result, passage)) for passage in result.passages]
        for row in rows:
            row.copy_from = embedded.get(row.item.text or "")
            row.embeds_text = row.copy_from is None
        self._note_standing(draft, result, rows, items)
        return Change(found, _outcome(origin), rows, self._known.ids[origin.takes_over])

    def _standing_ids(self, draft: Draft, result: Decoded) -> list[int]:
        """Ids of the rows that say already what reading the file again may show, and only lack embeddings."""
        origin = draft.origin
        if not origin.same_file or origin.keeps_embeddings:
            return []
        current = self._known.describe(origin.takes_over).is_current(result.size, result.mtime_ns)
        return [int(each) for each in self._known.ids[origin.takes_over]] if current else []

    def _note_standing(self, draft: Draft, result: Decoded, rows: Sequence[Row], items: Mapping[int, Item]) -> None:
        """Notes in `rows` that the table has them all, so that they need not be written: only their embeddings."""
        ids = self._standing_ids(draft, result)
        if ids and len(ids) == len(rows):
            standing = all(stands_as(row.item, items[id]) for row, id in zip(rows, ids, strict=True))
            for row in rows:
                row.stands = standing

    def _copy_embeddings(self, changes: Iterable[Change]) -> None:
        copies = [row for change in changes for row in change.rows if row.copy_from is not None]
        if not copies:
            return
        sources = np.unique(np.asarray([row.copy_from for row in copies], np.int64))
        stored = zip(self._store.vectors(sources), self._store.tokens(sources), strict=True)
        embeddings = dict(zip(sources.tolist(), (Embedding(*each) for each in stored), strict=True))
        for row in copies:
            row.give(embeddings[row.copy_from])


def _outcome(origin: Origin) -> Outcome:
    if origin.moved:
        return "moved"
    return "unchanged" if origin.keeps_embeddings else "indexed"
