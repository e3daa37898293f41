"""A collection beside its oracle: each run is compared with what it should have done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stateful_disk import Content, Disk, Place
from stateful_oracle import FRESH, Forecast, Known, Run, counted, forecast, inherited, swept
from stateful_tables import Key, Shown, Tables, place_of, read_tables

from mmsearch import manifest as manifests
from mmsearch.collection import Collection
from mmsearch.errors import CollectionNotFound, PruneRefused
from mmsearch.indexer.check import check
from mmsearch.indexer.optimize import optimize
from mmsearch.indexer.pipeline import IndexOptions, index
from mmsearch.indexer.repair import repair
from mmsearch.indexer.switch import Wish
from mmsearch.indexer.write import BatchLimits
from mmsearch.manifest import CollectionManifest
from mmsearch.model import Model
from mmsearch.model_lookup import reference
from mmsearch.search import Target
from mmsearch.types import IndexReport

SAME = 0.9999


class CheckedCollection:
    """`rows` is what the tables hold, `published` what a query may find (None before the first publication), `counts`
    what `info` should tell.
    """

    def __init__(self, disk: Disk, models: tuple[Model, Model]) -> None:
        self.directory = disk.base / "collection"
        self.disk = disk
        self.models = {model.fingerprint: model for model in models}
        self.active = models[0].fingerprint
        self.rows: dict[Place, Known] = {}
        self.published: dict[Key, Shown] | None = None
        self.counts: dict[str, object] = {}
        self.registered: set[str] = set()
        self.largest_id = 0
        self.retired: set[int] = set()
        self.handle = Collection(self.directory)
        self._contents: dict[bytes, NDArray[np.uint8]] = {}
        self._embeddings: dict[tuple[str, bytes | str], NDArray[np.float32]] = {}

    # -- what embeddings should be -------------------------------------------------------------------------------

    def learn(self, content: Content) -> None:
        """`content` may turn up in a file from here on."""
        if content.pixels is not None:
            self._contents[content.digest] = content.pixels

    def embedding(self, model: str, embeds: bytes | str) -> NDArray[np.float32]:
        """What the model makes of a picture, given by its digest, or of a sentence."""
        key = model, embeds
        if key not in self._embeddings:
            encode = self.models[model]
            if isinstance(embeds, str):
                self._embeddings[key] = encode.encode_texts([embeds])[0]
            else:
                self._embeddings[key] = encode.encode_images([self._contents[embeds]])[0]
        return self._embeddings[key]

    # -- runs ----------------------------------------------------------------------------------------------------

    def index(self, run: Run, *, wish: Wish | None = None) -> None:
        """One run, to its end."""
        expected = forecast(self.rows, self.disk, run, self.registered | set(run.roots))
        try:
            report = self.run(run, wish)
        except PruneRefused:
            assert expected.refused, "nothing was removed, though nothing spoke against it"
            self.registered |= set(run.roots)
            self.compare(expected.rows)
            return
        assert not expected.refused, f"{run} should have been refused"
        self.registered |= set(run.roots)
        self.accept(expected, report, run)

    def run(self, run: Run, wish: Wish | None) -> IndexReport:
        """What the command does."""
        options = IndexOptions(
            prune=run.prune,
            force=run.force,
            verify=run.verify,
            retry_failed=run.retry_failed,
            batch=BatchLimits(files=3),
            publish_every_s=0.0 if run.verify else 60.0,
            models=wish or Wish(),
        )
        paths = [self.disk.base / root for root in run.roots]
        return index(self.directory, paths, self.models[run.model], options)

    def accept(self, expected: Forecast, report: IndexReport, run: Run) -> None:
        """A run came to its end, and did what was expected of it."""
        tables = self.tables()
        rows, moved = self._with_ids(expected, tables.rows, run)
        missing, removed = swept(rows, self.rows, self.disk, run)
        manifest = self.manifest()
        named = {each.fingerprint for each in manifest.models}
        for place, known in rows.items():
            rows[place] = _embedded_by(known, named)
        assert (report.missing, report.removed) == (missing, removed)
        assert report.moved == moved
        self.compare(rows, tables)
        lacking = [place for place, known in rows.items() if not known.missing and not _embedded(known, run.model)]
        done = run.model == self.active or not lacking
        assert done == (report.switch is None or report.switch.done), f"no embedding yet: {lacking}"
        self.rows = rows
        if done:
            self.active = run.model
            assert manifest.switch is None or run.model != manifest.switch.to.fingerprint
            assert manifest.model is not None and manifest.model.fingerprint == run.model
            self._publish()
            assert report.items == len(self.published or {})

    def _with_ids(self, expected: Forecast, actual: Mapping[Place, Known], run: Run) -> tuple[dict[Place, Known], int]:
        """The rows that were expected, those of moved files with their ids; and how many of those can be read."""
        rows, readable = dict(expected.rows), 0
        for digest, places in expected.new.items():
            donors = dict(expected.gone.get(digest, {}))
            moved = min(len(places), len(donors))
            for place in sorted(places):
                assert place in actual, f"{place} was not indexed"
                source = next((each for each, donor in donors.items() if donor.ids[0] == actual[place].ids[0]), None)
                if source is not None:
                    rows[place] = inherited(rows[place], donors.pop(source), run.model)
                    del rows[source]
                    moved -= 1
                    readable += rows[place].reason is None
            assert moved == 0, f"{places} have moved and did not keep their ids"
        return rows, readable

    def compare(self, rows: dict[Place, Known], tables: Tables | None = None) -> None:
        """The tables hold exactly `rows`, with embeddings that are true to the content; gives new rows their ids."""
        tables = tables or self.tables()
        actual = tables.rows
        assert actual.keys() == rows.keys()
        ids = [item.id for item in tables.items]
        assert len(ids) == len(set(ids)), "an id was given twice"
        for place, known in rows.items():
            seen = actual[place]
            assert len(seen.parts) == len(known.parts), place
            for part, other in zip(known.parts, seen.parts, strict=True):
                if part.id == FRESH:
                    assert other.id > self.largest_id, f"{place} got an id that was in use before"
                else:
                    assert other.id == part.id, f"{place} has lost its id"
                assert (other.embeds, other.by) == (part.embeds, part.by), place
            rows[place] = known = _numbered(known, seen)
            assert seen == known, place
        self.note_ids(set(ids))
        self.embeddings_are_true(tables)

    def embeddings_are_true(self, tables: Tables) -> None:
        """Every embedding in the tables belongs to a row, and is what its model makes of the content of that row."""
        items = {item.id: item for item in tables.items}
        for model, embeddings in tables.embeddings.items():
            for id, vector in embeddings.items():
                assert id in items and items[id].found, f"embedding {id} has no item"
                embeds = items[id].text if items[id].kind == "text" else items[id].hash
                assert embeds is not None
                assert vector @ self.embedding(model, embeds) > SAME, f"item {id} has the embedding of other content"

    def note_ids(self, ids: set[int]) -> None:
        """These ids are in use now; what was removed never comes back."""
        assert not ids & self.retired, f"ids of removed items are in use again: {ids & self.retired}"
        before = {part.id for known in self.rows.values() for part in known.parts}
        self.retired |= before - ids
        self.largest_id = max(self.largest_id, *ids, 0)

    def _publish(self) -> None:
        """From here on queries find what the tables hold."""
        self.published = {
            (place, number): Shown(part.id, known.missing, self.embedding(self.active, part.embeds))
            for place, known in self.rows.items()
            for number, part in enumerate(known.parts)
            if part.embeds is not None and self.active in part.by
        }
        self.counts = counted(self.rows)

    # -- mending and looking -------------------------------------------------------------------------------------

    def repair(self) -> None:
        """Nothing is damaged, so repairing publishes what the tables hold and no more."""
        self.handle.close()
        report = repair(self.directory)
        assert all("embeddings without an item" in sentence for sentence in report.mended)
        self.take_over()

    def compact(self) -> None:
        """Compacting changes nothing but the room that things take; it publishes what the tables hold."""
        self.handle.close()
        report = optimize(self.directory)
        assert not report.warnings
        self.take_over()

    def check(self) -> None:
        """Nothing has been damaged, whatever has been killed."""
        report = check(self.directory, read_data=True)
        assert report.ok, report.damaged

    def take_over(self) -> None:
        """After a command that publishes what the tables hold."""
        manifest = self.manifest()
        if manifest.model is not None:
            self.active = manifest.model.fingerprint
            self.compare(dict(self.rows))
            self._publish()

    def does_nothing_again(self, run: Run) -> None:
        """The same run once more writes nothing."""
        before = _versions(self.directory)
        self.index(run)
        assert _versions(self.directory) == before, "a run with nothing to do has written"

    def manifest(self) -> CollectionManifest:
        """`collection.json` as it stands."""
        return manifests.read(self.directory)

    def tables(self) -> Tables:
        """What the tables hold."""
        return read_tables(self.directory, self.disk.base, [reference(model) for model in self.models.values()])

    def check_answers(self, query: NDArray[np.uint8]) -> None:
        """A query finds what was published, hidden where a root can be believed that the file is gone."""
        targets: tuple[Target, ...] = ("images", "texts")
        for to in targets:
            expected = {
                key: row
                for key, row in (self.published or {}).items()
                if key[0][1].endswith(".csv") == (to == "texts") and (not row.missing or self.disk.trouble(key[0][0]))
            }
            try:
                hits = self.handle.search(image=query, k=1000, to=to, rerank=False)
            except CollectionNotFound:
                assert self.published is None
                continue
            found = {(place_of(hit.path, self.disk.base), hit.part): hit for hit in hits}
            assert len(found) == len(hits), "one item was found twice"
            assert found.keys() == expected.keys()
            assert [hit.similarity for hit in hits] == sorted((hit.similarity for hit in hits), reverse=True)
            asked = self.models[self.active].encode_images([query])[0]
            for key, hit in found.items():
                assert (hit.id, hit.missing) == (expected[key].id, expected[key].missing), key
                assert abs(hit.similarity - float(asked @ expected[key].embedding)) < 2e-3, key

    def check_info(self) -> None:
        """`info` tells the counts of what was published."""
        if self.published is not None:
            assert counts_of(self.handle) == self.counts
            assert self.handle.info().fingerprint == self.active

    def reopen(self) -> None:
        """Another process takes over."""
        self.handle.close()
        self.handle = Collection(self.directory)


def _versions(collection: Path) -> dict[str, int]:
    """What changes when something is written: every file but the lock, with the time of its last change."""
    files = [path for path in collection.rglob("*") if path.is_file() and path.name != "lock"]
    return {str(path): path.stat().st_mtime_ns for path in files}


def counts_of(handle: Collection) -> dict[str, Any]:
    """The counts that `info` tells."""
    info = handle.info()
    return {"images": info.images, "texts": info.texts, "missing": info.missing, "failed": dict(info.failed)}


def _numbered(known: Known, seen: Known) -> Known:
    parts = zip(known.parts, seen.parts, strict=True)
    return replace(known, parts=tuple(replace(part, id=other.id) for part, other in parts))


def _embedded_by(known: Known, named: set[str]) -> Known:
    """`known` without embeddings by models that are not kept."""
    return replace(known, parts=tuple(replace(part, by=part.by & named) for part in known.parts))


def _embedded(known: Known, model: str) -> bool:
    return known.reason is not None or all(model in part.by for part in known.parts)
