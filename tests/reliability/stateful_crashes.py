"""Runs that are killed, and what they may leave: what was there before, or what was to come, and nothing lost."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path

from killed_commits import Killed
from killed_steps import killed_after_steps
from stateful_collection import SAME, CheckedCollection, counts_of
from stateful_disk import Place
from stateful_oracle import Forecast, Known, Run, forecast
from stateful_tables import Tables, read_snapshot

from mmsearch.errors import CollectionNotFound, PruneRefused
from mmsearch.indexer.switch import Wish
from mmsearch.snapshot_manifest import active_model


def crash(checked: CheckedCollection, run: Run, steps: int, *, wish: Wish | None = None) -> None:
    """A run that is killed after so many steps on the disk, if it takes more than that."""
    expected = forecast(checked.rows, checked.disk, run, checked.registered | set(run.roots))
    try:
        with killed_after_steps(steps):
            report = checked.run(run, wish)
    except PruneRefused:
        assert expected.refused
    except Killed:
        checked.handle.close()
        _take_stock(checked, expected, run)
        return
    else:
        checked.accept(expected, report, run)
    checked.registered |= set(run.roots)


def crash_command(checked: CheckedCollection, command: Callable[[Path], object], steps: int) -> None:
    """A command that publishes what the tables hold, killed after so many steps, if it takes more than that."""
    checked.handle.close()
    try:
        with killed_after_steps(steps):
            command(checked.directory)
    except Killed:
        _take_stock(checked, Forecast(dict(checked.rows)), Run(checked.active, ()))
    else:
        checked.take_over()


def _take_stock(checked: CheckedCollection, expected: Forecast, run: Run) -> None:
    """After a kill: what is there was there before, or is as it should become; nothing that was known is lost."""
    try:
        manifest = checked.manifest()
    except CollectionNotFound:
        assert not checked.rows and checked.published is None
        return
    checked.registered = {Path(root.path.decode()).name for root in manifest.roots}
    active = active_model(checked.directory, manifest)
    if active is None:
        return
    tables = checked.tables()
    _nothing_is_lost(checked, tables.rows, expected, run)
    checked.note_ids({item.id for item in tables.items})
    _vectors_are_true(checked, tables)
    _snapshot_is_explained(checked, expected, tables, active.fingerprint)
    checked.rows, checked.active = tables.rows, active.fingerprint


def _nothing_is_lost(checked: CheckedCollection, actual: Mapping[Place, Known], expected: Forecast, run: Run) -> None:
    ids = {id for known in actual.values() for id in known.ids}
    for place, known in checked.rows.items():
        file = checked.disk.files.get(place)
        if file is not None and checked.disk.is_there(place) and file.content.digest == known.digest:
            assert place in actual and actual[place].ids == known.ids, f"{place} was lost in a crash"
        elif not run.prune:
            assert known.ids[0] in ids, f"{place} was lost in a crash"
    for place, seen in actual.items():
        wanted = {part.embeds for part in expected.rows[place].parts} if place in expected.rows else set()
        wanted |= {part.embeds for part in checked.rows[place].parts} if place in checked.rows else set()
        assert {part.embeds for part in seen.parts} <= wanted | {None}, f"{place} holds what it never held"


def _vectors_are_true(checked: CheckedCollection, tables: Tables) -> None:
    """As `embeddings_are_true`, but a kill may leave embeddings whose items were not written any more."""
    ids = {item.id for item in tables.items if item.found}
    for model, embeddings in tables.embeddings.items():
        tables.embeddings[model] = {id: vector for id, vector in embeddings.items() if id in ids}
    checked.embeddings_are_true(tables)


def _snapshot_is_explained(checked: CheckedCollection, expected: Forecast, tables: Tables, active: str) -> None:
    snapshot = read_snapshot(checked.directory, checked.disk.base)
    if snapshot is None:
        assert checked.published is None
        return
    fingerprint, shown = snapshot
    assert fingerprint == active
    for (place, number), row in shown.items():
        before = (checked.published or {}).get((place, number))
        true = [before.embedding] if before is not None and before.embedding.shape == row.embedding.shape else []
        for rows in (checked.rows, tables.rows, expected.rows):
            parts = rows[place].parts if place in rows else ()
            true += [checked.embedding(active, part.embeds) for part in parts[number:][:1] if part.embeds is not None]
        assert any(row.embedding @ each > SAME for each in true), f"{place} is found by what it never held"
    if fingerprint == checked.active:
        lost = {key for key in checked.published or {} if key not in shown and key[0] in tables.rows}
        lost -= {key for key in lost if tables.rows[key[0]] != checked.rows.get(key[0])}
        assert not lost, f"{lost} were found before the crash"
    checked.published = shown
    with contextlib.suppress(CollectionNotFound):
        checked.counts = counts_of(checked.handle)
