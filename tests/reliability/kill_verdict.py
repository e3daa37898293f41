"""What a kill has cost: acknowledged rows that are lost, rows that come twice, steps that only a person can take."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from fault_server import Ended, FaultServer
from kill_scenes import KillScene, found_ids
from numpy.typing import NDArray
from photo_scenes import Key, Outcome, assert_same, outcome

from mmsearch.errors import CollectionNotFound
from mmsearch.indexer.check import check
from mmsearch.model import load_model
from mmsearch.snapshot import Candidate, Snapshot

TENTHS = 10


@dataclass
class Tally:
    """The sum over all points of a sweep. `where` is how far into its run each kill came, from 0 to 1."""

    points: int = 0
    ended_before: int = 0
    lost: int = 0
    duplicates: int = 0
    manual: int = 0
    where: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.points} points tried, {self.lost} acknowledged rows lost, {self.duplicates} duplicates,"
            f" {self.manual} manual steps; points by tenth of the run: {self.by_tenth()}"
        )

    def by_tenth(self) -> list[int]:
        """How many points lie in each tenth of the runs."""
        tenths = Counter(min(int(place * TENTHS), TENTHS - 1) for place in self.where)
        return [tenths[tenth] for tenth in range(TENTHS)]

    def add(self, other: Tally) -> None:
        """Counts the points of `other` in."""
        for name in ("points", "ended_before", "lost", "duplicates", "manual"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.where += other.where
        self.wrong += other.wrong

    def assert_clean(self, least: int) -> None:
        """At least `least` points were tried, and none of them cost anything."""
        assert self.wrong == []
        assert (self.lost, self.duplicates, self.manual) == (0, 0, 0), str(self)
        assert self.points >= least, str(self)


Found = dict[Key, list[NDArray[np.float32]]]


def found_rows(collection: Path) -> Found:
    """What a query may find: all embeddings of each key. More than one for a key is a duplicate."""
    rows: Found = {}
    with Snapshot.open(collection) as snapshot:
        for number, segment in enumerate(snapshot.segments):
            for place in snapshot.live_rows(number).tolist():
                row = snapshot.row(Candidate(number, place, int(segment.ids[place]), 0.0))
                rows.setdefault((row.path, row.part), []).append(np.array(segment.vectors[place], np.float32))
    return rows


def judge(scene: KillScene, collection: Path, ended: Ended, server: FaultServer, tally: Tally) -> None:
    """Looks at what a killed command left, brings it to its end as its user would, and adds what that cost to `tally`.

    `scene` has been measured: it knows what is expected.
    """
    expected = scene.expected
    assert expected is not None
    # Rows of files that were removed or have changed on the disk since are not what must be there.
    acknowledged = {key for key in ended.acknowledged if key in expected.embeddings}
    if not scene.damaged:
        _judge_as_it_is(scene, collection, acknowledged, server, tally)
    for words in scene.then:
        again = server.run(*words, "--collection", collection, environment=scene.settings)
        if again.code != 0:
            tally.manual += 1
            tally.wrong.append(f"{words[0]} after the kill: {again.code}, {again.err}")
            return
    damaged = check(collection, read_data=True).damaged
    tally.wrong += [f"{scene.name}: damaged in the end: {each.path} {each.what}" for each in damaged]
    ids = found_ids(collection)
    changed = [key for key, id in scene.ids.items() if ids.get(key, id) != id]
    tally.wrong += [f"{scene.name}: {key} had the id {scene.ids[key]}, and has {ids[key]}" for key in changed]
    found = found_rows(collection)
    tally.duplicates += sum(len(each) - 1 for each in found.values())
    tally.lost += len(scene.ids.keys() - found.keys())
    tally.lost += len(expected.embeddings.keys() - found.keys())
    try:
        assert_same(outcome(collection, load_model(scene.model, threads=1)), expected)
    except AssertionError as error:
        tally.wrong.append(f"{scene.name}: {str(error)[:500]}")


def _judge_as_it_is(
    scene: KillScene, collection: Path, acknowledged: set[Key], server: FaultServer, tally: Tally
) -> None:
    """Asks what the kill has left, before anything is run again."""
    expected = scene.expected
    assert expected is not None
    before = {} if scene.start is None else found_rows(scene.start)
    try:
        found = found_rows(collection)
    except CollectionNotFound:
        found = {}
        if before:
            tally.wrong.append(f"{scene.name}: no snapshot is left")
    promised = acknowledged or (before.keys() & expected.embeddings.keys())
    tally.lost += len(promised - found.keys())
    tally.duplicates += sum(len(each) - 1 for each in found.values())
    for key, vectors in found.items():
        if not any(_alike(vectors[0], each) for each in _known(key, before, expected)):
            tally.wrong.append(f"{scene.name}: {key} has an embedding of another content")
    asked = server.run("query", "--text", "red", "-k", "1000", "--json", "--collection", collection)
    if found and asked.code != 0:
        tally.wrong.append(f"{scene.name}: a query fails: {asked.err}")


def _known(key: Key, before: Found, expected: Outcome) -> list[NDArray[np.float32]]:
    return [*before.get(key, []), *([expected.embeddings[key]] if key in expected.embeddings else [])]


def _alike(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    return one.shape == other.shape and float(one @ other) > 0.999
