"""Publishing by difference: what is merged, kept, removed; what a killed publisher leaves behind."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from storage_builders import DIM, HEAD, block, keys, publish, segment_row, unit_vectors, vector_of

from mmsearch import segment_writer
from mmsearch.durable import fsync_file
from mmsearch.errors import CollectionDamaged
from mmsearch.segment import SegmentRow
from mmsearch.snapshot import Snapshot
from mmsearch.snapshot_manifest import SnapshotHead, read_manifest
from mmsearch.snapshot_writer import SnapshotWriter, choose_merge

KILL_PROGRAM = Path(__file__).with_name("publish_killed.py")


def segment_names(directory: Path) -> set[str]:
    return {path.name for path in (directory / "segments").iterdir()}


def contents(directory: Path) -> dict[int, tuple[int, bytes, bool, bytes]]:
    """Everything the live snapshot says of its rows, by id."""
    with Snapshot.open(directory) as snapshot:
        found = {}
        for number, segment in enumerate(snapshot.segments):
            for row in snapshot.live_rows(number):
                said = segment.row(int(row))
                assert said.id not in found
                vector = snapshot.vector(said.id)
                assert vector is not None
                found[said.id] = (said.revision, said.path, said.missing, vector.tobytes())
        assert snapshot.live_keys()[0].tolist() == sorted(found)
        return found


def expected_contents(rows: dict[int, SegmentRow]) -> dict[int, tuple[int, bytes, bool, bytes]]:
    return {
        id: (row.revision, row.path, row.missing, vector_of(id, row.revision).tobytes()) for id, row in rows.items()
    }


def test_small_publication_writes_a_small_segment(tmp_path: Path) -> None:
    publish(tmp_path, [segment_row(id) for id in range(1, 301)])
    before = segment_names(tmp_path)
    publish(tmp_path, [segment_row(id) for id in range(301, 311)], dead=[(4, 1)])
    with Snapshot.open(tmp_path) as snapshot:
        assert before < segment_names(tmp_path)
        assert sorted(segment.info.rows for segment in snapshot.segments) == [10, 300]
        assert len(snapshot.live_keys()[0]) == 309


def test_dead_takes_exactly_the_revision_that_is_meant(tmp_path: Path) -> None:
    publish(tmp_path, [segment_row(id) for id in range(1, 10)])
    publish(tmp_path, dead=[(3, 7), (4, 1), (99, 1)])
    with Snapshot.open(tmp_path) as snapshot:
        assert snapshot.live_keys()[0].tolist() == [1, 2, 3, 5, 6, 7, 8, 9]


def test_row_that_comes_again_replaces_the_old_one(tmp_path: Path) -> None:
    publish(tmp_path, [segment_row(id) for id in range(1, 10)])
    publish(tmp_path, [segment_row(3, revision=2, path=b"moved/3.jpg")])
    assert contents(tmp_path)[3] == (2, b"moved/3.jpg", False, vector_of(3, 2).tobytes())


def test_publishing_no_change_writes_nothing(tmp_path: Path) -> None:
    assert publish(tmp_path, [segment_row(1)]) == 1
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert publish(tmp_path, dead=[(7, 7)]) == 1
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == files


def test_changed_head_is_published_without_new_segments(tmp_path: Path) -> None:
    publish(tmp_path, [segment_row(1)])
    head = SnapshotHead(HEAD.fingerprint, HEAD.model_name, DIM, HEAD.roots, {"image": 2}, {"items": 4})
    with Snapshot.open(tmp_path) as previous:
        assert SnapshotWriter(tmp_path).publish(head, previous=previous, added=[]) == 2
    with Snapshot.open(tmp_path) as snapshot:
        assert snapshot.head == head
        assert len(snapshot.segments) == 1


def test_previous_snapshot_is_kept_and_older_ones_go(tmp_path: Path) -> None:
    for id in range(1, 6):
        publish(tmp_path, [segment_row(id)], dead=[(id - 1, 1)])
    assert {path.name for path in (tmp_path / "snapshots").iterdir()} == {"4.json", "5.json"}
    needed = {info.name for number in (4, 5) for info in read_manifest(tmp_path, number).segments}
    assert segment_names(tmp_path) == needed


@pytest.mark.case("S37")
def test_everything_is_private(tmp_path: Path) -> None:
    publish(tmp_path, [segment_row(1)])
    for path in tmp_path.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.parametrize(
    ("live", "rows", "merged"),
    [
        ([100], [100], set()),
        ([100_000, 100], [100_000, 100], set()),
        ([100_000, 100, 100], [100_000, 100, 100], {1, 2}),
        ([100, 200, 400, 5000], [100, 200, 400, 5000], {0, 1, 2}),
        ([74], [100], {0}),
        ([76], [100], set()),
        ([700, 10], [1000, 10], {0}),
        ([700, 10, 10], [1000, 10, 10], {0, 1, 2}),
        ([], [], set()),
    ],
)
def test_small_and_worn_segments_are_merged(live: list[int], rows: list[int], merged: set[int]) -> None:
    assert choose_merge(live, rows) == merged


def test_segments_stay_few_and_are_rarely_copied() -> None:
    sizes: list[int] = []
    copied = 0
    for _ in range(1000):
        sizes.append(100)
        merged = choose_merge(sizes, sizes)
        if merged:
            total = sum(sizes[place] for place in merged)
            copied += total
            sizes = [size for place, size in enumerate(sizes) if place not in merged] + [total]
    assert len(sizes) <= 12
    assert copied <= 100_000 * 12


def test_model_cannot_change_within_a_series(tmp_path: Path) -> None:
    publish(tmp_path, [segment_row(1)])
    with Snapshot.open(tmp_path) as previous, pytest.raises(ValueError, match="not of 'other'"):
        SnapshotWriter(tmp_path).publish(SnapshotHead("other", "o", DIM, ()), previous=previous, added=[])


def test_publishing_on_top_of_an_old_snapshot_is_refused(tmp_path: Path) -> None:
    publish(tmp_path, [segment_row(1)])
    with Snapshot.open(tmp_path) as old:
        publish(tmp_path, [segment_row(2)])
        with pytest.raises(ValueError, match="not the live one"):
            SnapshotWriter(tmp_path).publish(HEAD, previous=old, added=[])


def test_publishing_afresh_forgets_what_was_there(tmp_path: Path) -> None:
    publish(tmp_path, [segment_row(1)])
    assert SnapshotWriter(tmp_path).publish(HEAD, previous=None, added=[block([segment_row(2)])]) == 2
    assert sorted(contents(tmp_path)) == [2]


def test_an_id_twice_is_refused_and_leaves_no_litter(tmp_path: Path) -> None:
    publish(tmp_path, [segment_row(1)])
    names = segment_names(tmp_path)
    with pytest.raises(ValueError, match="different ids"):
        publish(tmp_path, [segment_row(2), segment_row(2)])
    assert segment_names(tmp_path) == names
    assert sorted(contents(tmp_path)) == [1]


@pytest.mark.case("F17")
def test_full_disk_keeps_the_old_snapshot_and_leaves_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path, [segment_row(1)])
    names = segment_names(tmp_path)

    def full_disk(path: Path) -> None:
        if path.name == "vectors.npy":
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync_file(path)

    with monkeypatch.context() as patched:
        patched.setattr(segment_writer, "fsync_file", full_disk)
        with pytest.raises(OSError, match="No space left"):
            publish(tmp_path, [segment_row(2)])
    assert segment_names(tmp_path) == names
    publish(tmp_path, [segment_row(2)])
    assert sorted(contents(tmp_path)) == [1, 2]


def test_damage_is_not_copied_into_a_merged_segment(tmp_path: Path) -> None:
    publish(tmp_path, [segment_row(id) for id in range(1, 10)])
    (vectors,) = tmp_path.glob("segments/*/vectors.npy")
    data = bytearray(vectors.read_bytes())
    data[-1] ^= 1
    vectors.write_bytes(data)
    with pytest.raises(CollectionDamaged, match=r"vectors\.npy"):
        publish(tmp_path, [segment_row(id) for id in range(10, 20)])
    SnapshotWriter(tmp_path).publish(HEAD, previous=None, added=[block([segment_row(1)])])
    assert sorted(contents(tmp_path)) == [1]


def test_large_segments_keep_float16_with_an_index_and_merge_without_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment_writer, "FLOAT32_MAX_ROWS", 50)
    ids = np.random.default_rng(0).permutation(np.arange(1, 201)).tolist()
    blocks = [block([segment_row(id) for id in ids[start : start + 40]]) for start in range(0, 200, 40)]
    SnapshotWriter(tmp_path).publish(HEAD, previous=None, added=blocks)
    with Snapshot.open(tmp_path) as snapshot:
        assert snapshot.segments[0].vectors.dtype == np.float16
        assert snapshot.segments[0].ids.tolist() == sorted(ids)
    rows = {id: segment_row(id) for id in ids}
    assert contents(tmp_path) == expected_contents(rows)
    before = contents(tmp_path)
    publish(tmp_path, dead=[(id, 1) for id in range(1, 80)])
    with Snapshot.open(tmp_path) as snapshot:
        assert [segment.info.rows for segment in snapshot.segments] == [121]
        assert snapshot.segments[0].vectors.dtype == np.float16
    assert contents(tmp_path) == {id: said for id, said in before.items() if id >= 80}


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_sequence_of_publications_equals_a_plain_dict(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("sequence")
    model: dict[int, SegmentRow] = {}
    next_id = 1
    for revision in range(1, data.draw(st.integers(2, 7), label="publications")):
        known = sorted(model)
        changed = data.draw(st.sets(st.sampled_from(known)) if known else st.just(set()), label="changed")
        gone = data.draw(st.sets(st.sampled_from(known)) if known else st.just(set()), label="gone") - changed
        new = range(next_id, next_id + data.draw(st.integers(0, 30), label="new"))
        next_id = new.stop
        dead = [(id, model.pop(id).revision) for id in sorted(changed | gone)]
        added = [
            segment_row(id, revision, kind="text" if id % 4 == 0 else "image", missing=data.draw(st.booleans()))
            for id in data.draw(st.permutations(sorted(changed | set(new))))
        ]
        model |= {row.id: row for row in added}
        publish(directory, added, dead)
        assert contents(directory) == expected_contents(model)
    fresh = tmp_path_factory.mktemp("fresh")
    publish(fresh, [model[id] for id in sorted(model)])
    query = unit_vectors(1, seed=3)
    with Snapshot.open(directory) as grown, Snapshot.open(fresh) as built:
        assert grown.verify() == []
        for options in ({}, {"include_missing": {1}}, {"under": b"/photos/dir1"}):
            answers = [
                [(near.id, near.similarity) for near in snapshot.search(query, 15, kind="image", **options)[0]]
                for snapshot in (grown, built)
            ]
            assert answers[0] == answers[1]


def test_dead_keys_may_come_as_empty_arrays(tmp_path: Path) -> None:
    SnapshotWriter(tmp_path).publish(HEAD, previous=None, added=[], dead=keys([]))
    with Snapshot.open(tmp_path) as previous:
        assert SnapshotWriter(tmp_path).publish(HEAD, previous=previous, added=[block([])], dead=keys([])) == 1
