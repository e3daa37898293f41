"""Tables and snapshots together, under any sequence of changes, kills and reopenings, against a plain dict."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from killed_commits import Killed, killed_after
from storage_builders import HEAD, MODEL, item, tokens_of, unit_vectors, vector_of

from mmsearch.segment import SegmentRow
from mmsearch.snapshot import Candidate, Snapshot
from mmsearch.snapshot_writer import Block, SnapshotWriter
from mmsearch.store import Item, Store
from mmsearch.types import Reason


def publish_difference(directory: Path, store: Store) -> None:
    """What architecture.md says of publishing: new (id, revision) pairs come in, those that the table lacks go."""
    previous = Snapshot.open(directory) if (directory / "CURRENT").exists() else None
    wanted = set(zip(*(column.tolist() for column in store.revisions()), strict=True))
    standing = set()
    if previous is not None:
        standing = set(zip(*(column.tolist() for column in previous.live_keys()), strict=True))
    new = np.array(sorted(id for id, _ in wanted - standing), np.int64)
    dead = np.array(sorted(standing - wanted), np.int64).reshape(-1, 2)
    rows, vectors, tokens = [segment_row_of(found) for found in store.items(new)], store.vectors(new), store.tokens(new)
    added = []
    for have in (True, False):
        places = [place for place, each in enumerate(tokens) if (each is not None) is have]
        some = [each for place in places if (each := tokens[place]) is not None]
        block = Block([rows[place] for place in places], vectors[places], np.stack(some) if some else None)
        added += [block] if places else []
    SnapshotWriter(directory, threads=1).publish(HEAD, previous=previous, added=added, dead=(dead[:, 0], dead[:, 1]))


def tokens_for(vectors: Iterable[int], version: int) -> dict[int, np.ndarray]:
    """Most of the items with a new vector have tokens; in a collection that several models filled, some lack them."""
    return {id: tokens_of(id, version) for id in vectors if id % 5}


def segment_row_of(found: Item) -> SegmentRow:
    return SegmentRow(
        id=found.id,
        revision=found.revision,
        kind=found.kind,
        root_id=found.root_id,
        path=found.path,
        part=found.part,
        status=found.status,
        missing=found.missing_since is not None,
    )


class Collection(RuleBasedStateMachine):
    """`model`: id -> path, version of the vector (None when the item is an error), missing since."""

    @initialize()
    def start(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="mmsearch-model-"))
        self.store = Store.open(self.directory, MODEL)
        self.model: dict[int, tuple[bytes, int | None, int | None]] = {}
        self.next_id = 1
        self.version = 0

    def teardown(self) -> None:
        if hasattr(self, "directory"):
            self.store.close()
            shutil.rmtree(self.directory)

    @rule(new=st.integers(0, 12), share=st.integers(0, 3))
    def put(self, new: int, share: int) -> None:
        """Add new items, and change every share-th of the old ones: new vector, or only a new path."""
        self.version += 1
        old = [id for id in self.model if share and id % 3 == share % 3]
        items, vectors = [], {}
        for id in [*range(self.next_id, self.next_id + new), *old]:
            path = b"v%d/%d" % (self.version, id)
            _, vector_version, _ = self.model.get(id, (b"", None, None))
            if vector_version is None or id % 2:
                vector_version = self.version
                vectors[id] = vector_of(id, vector_version)
            items.append(item(id, path=path))
            self.model[id] = (path, vector_version, None)
        self.next_id += new
        self.store.put(items, vectors, tokens_for(vectors, self.version))

    @rule(modulus=st.integers(2, 5))
    def fail(self, modulus: int) -> None:
        """Some files have become unreadable."""
        broken = [id for id in self.model if id % modulus == 0]
        self.store.put([item(id, path=b"bad", status="error", reason=Reason.EMPTY) for id in broken], {})
        self.model |= dict.fromkeys(broken, (b"bad", None, None))

    @rule(modulus=st.integers(2, 5), since=st.none() | st.integers(1, 9))
    def mark(self, modulus: int, since: int | None) -> None:
        """Some files vanished, or are back."""
        marked = [id for id in self.model if id % modulus == 1]
        self.store.mark_missing(np.array(marked, np.int64), since)
        self.model |= {id: (*self.model[id][:2], since) for id in marked}

    @rule(modulus=st.integers(2, 6))
    def delete(self, modulus: int) -> None:
        gone = [id for id in self.model if id % modulus == 0]
        self.store.delete(np.array(gone, np.int64))
        for id in gone:
            del self.model[id]

    @rule()
    def kill_between_vectors_and_items(self) -> None:
        """A put that dies half-way, and a new process: the vectors are there, the items are not."""
        self.version += 1
        lost = range(self.next_id, self.next_id + 3)
        self.next_id = lost.stop
        with contextlib.suppress(Killed), killed_after(1):
            vectors = {id: vector_of(id) for id in lost}
            self.store.put([item(id) for id in lost], vectors, tokens_for(vectors, 1))
        self.reopen()
        assert self.store.sweep() == 3

    @rule(commits=st.integers(0, 3))
    def kill_while_vectors_are_replaced(self, commits: int) -> None:
        """A put of new content that dies anywhere, and a new process that repeats it."""
        self.version += 1
        changed = [id for id in self.model if id % 4 == 2]
        items = [item(id, path=b"w%d/%d" % (self.version, id)) for id in changed]
        vectors = {id: vector_of(id, self.version) for id in changed}
        with contextlib.suppress(Killed), killed_after(commits):
            self.store.put(items, vectors, tokens_for(vectors, self.version))
        self.reopen()
        self.store.put(items, vectors, tokens_for(vectors, self.version))
        self.model |= {each.id: (each.path, self.version, None) for each in items}

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = Store.open(self.directory, MODEL)
        assert self.store.warnings == ()

    @precondition(lambda self: self.version % 3 == 0)
    @rule()
    def optimise(self) -> None:
        self.store.optimize(force=True)

    @rule()
    def publish(self) -> None:
        """The snapshot says what the model says, and answers like brute force over it."""
        publish_difference(self.directory, self.store)
        live = {id: state for id, state in self.model.items() if state[1] is not None}
        query = unit_vectors(1, seed=self.version)
        with Snapshot.open(self.directory) as snapshot:
            assert snapshot.live_keys()[0].tolist() == sorted(live)
            found = snapshot.search(query, 1000, kind="image", include_missing={1})[0]
            assert [near.id for near in found] == by_brute_force(live, query)
            for near in found:
                path, _, since = live[near.id]
                row = snapshot.row(near)
                assert (row.path, row.missing) == (b"/photos/" + path, since is not None)
            self.tokens_are_those_of_the_vectors(snapshot, [near for near in found if near.id % 5])
            assert all(snapshot.tokens([near]) is None for near in found if near.id % 5 == 0)
            visible = {id: state for id, state in live.items() if state[2] is None}
            hidden = snapshot.search(query, 7, kind="image")[0]
            assert [near.id for near in hidden] == by_brute_force(visible, query)[:7]

    def tokens_are_those_of_the_vectors(self, snapshot: Snapshot, found: list[Candidate]) -> None:
        if found:
            tokens = snapshot.tokens(found)
            assert tokens is not None
            for near, some in zip(found, tokens, strict=True):
                np.testing.assert_array_equal(some, tokens_of(near.id, self.model[near.id][1] or 0))

    @invariant()
    def tables_say_what_the_model_says(self) -> None:
        known = self.store.known_files()
        said = {
            int(id): (known.path(row), bool(known.has_vector[row]), int(known.missing_since[row]))
            for row, id in enumerate(known.ids)
        }
        assert said == {
            id: (path, version is not None, -1 if since is None else since)
            for id, (path, version, since) in self.model.items()
        }


def by_brute_force(state: dict[int, tuple[bytes, int | None, int | None]], query: np.ndarray) -> list[int]:
    cosines = {
        id: np.float32(vector_of(id, version or 0).astype(float) @ query[0]) for id, (_, version, _) in state.items()
    }
    return sorted(cosines, key=lambda id: (-cosines[id], id))


TestCollection = Collection.TestCase
TestCollection.settings = settings(
    max_examples=15, stateful_step_count=12, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
