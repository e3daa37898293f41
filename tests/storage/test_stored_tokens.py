"""What a matching head reads of each picture: stored beside its vector, published with it, and never without it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from killed_commits import Killed, killed_after
from storage_builders import (
    DIM,
    HEAD,
    MODEL,
    TOKEN_SHAPE,
    block,
    item,
    publish,
    segment_row,
    tokens_of,
    unit_vectors,
    vector_of,
)

from mmsearch import segment_writer
from mmsearch.checked_json import dump_checked, load_checked
from mmsearch.errors import CollectionDamaged, ModelError
from mmsearch.segment_writer import SegmentShape, SegmentWriter
from mmsearch.snapshot import Candidate, Snapshot
from mmsearch.snapshot_writer import SnapshotWriter
from mmsearch.store import Store

QUERY = unit_vectors(1, seed=99)


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def put(store: Store, *numbers: int, version: int = 1, tokens: bool = True) -> None:
    store.put(
        [item(id) for id in numbers],
        {id: vector_of(id, version) for id in numbers},
        {id: tokens_of(id, version) for id in numbers} if tokens else {},
    )


def candidates(snapshot: Snapshot) -> list[Candidate]:
    """Every picture, in the order of an answer."""
    return snapshot.search(QUERY, 1000, kind="image")[0]


def assert_own_tokens(directory: Path, count: int) -> None:
    """All pictures of the live snapshot have the vectors and the tokens that tests give them."""
    with Snapshot.open(directory) as snapshot:
        found = candidates(snapshot)
        assert len(found) == count
        tokens = snapshot.tokens(found)
        assert tokens is not None and tokens.dtype == np.int8
        np.testing.assert_array_equal(tokens, [tokens_of(near.id) for near in found])
        np.testing.assert_allclose(snapshot.vectors(found), [vector_of(near.id) for near in found], atol=1e-6)


# -- the tables ------------------------------------------------------------------------------------------------------


def test_tokens_come_back_beside_their_vectors_in_the_order_asked_for(tmp_path: Path) -> None:
    with Store.open(tmp_path, MODEL) as store:
        put(store, 1, 2, 3)
    with Store.open(tmp_path, MODEL, read_only=True) as store:
        np.testing.assert_array_equal(store.vectors(ids(3, 1)), [vector_of(3), vector_of(1)])
        np.testing.assert_array_equal(store.tokens(ids(3, 1)), [tokens_of(3), tokens_of(1)])
        assert store.tokens(ids()) == []
        with pytest.raises(KeyError):
            store.tokens(ids(4))


def test_a_table_gets_the_column_with_the_first_tokens(tmp_path: Path) -> None:
    with Store.open(tmp_path, MODEL) as store:
        put(store, 1, 2, tokens=False)
        assert store.tokens(ids(1, 2)) == [None, None]
        assert columns(store) == ["id", "embedding"]
    with Store.open(tmp_path, MODEL) as store:
        put(store, 3)
        put(store, 4, tokens=False)
        assert columns(store) == ["id", "embedding", "tokens"]
    with Store.open(tmp_path, MODEL) as store:
        assert store.warnings == ()
        np.testing.assert_array_equal(store.vectors(ids(1, 2, 3, 4)), [vector_of(id) for id in range(1, 5)])
        first, second, third, fourth = store.tokens(ids(1, 2, 3, 4))
        assert first is second is fourth is None
        np.testing.assert_array_equal(third, tokens_of(3))


def columns(store: Store) -> list[str]:
    names: list[str] = store._vectors.schema.names
    return names


def test_a_new_vector_brings_its_own_tokens_or_none(tmp_path: Path) -> None:
    with Store.open(tmp_path, MODEL) as store:
        put(store, 1, 2, 3)
        put(store, 1, version=2)
        put(store, 2, version=2, tokens=False)
        store.put([item(3, path=b"moved.jpg")], {})
        one, two, three = store.tokens(ids(1, 2, 3))
        np.testing.assert_array_equal(one, tokens_of(1, 2))
        assert two is None
        np.testing.assert_array_equal(three, tokens_of(3))
        store.delete(ids(1))
        with pytest.raises(KeyError):
            store.tokens(ids(1))


def test_a_kill_after_the_column_came_leaves_a_table_that_goes_on(tmp_path: Path) -> None:
    with Store.open(tmp_path, MODEL) as store:
        put(store, 1, tokens=False)
        with pytest.raises(Killed), killed_after(0):
            put(store, 2)
    with Store.open(tmp_path, MODEL) as store:
        assert store.warnings == ()
        assert store.known_files().has_vector.tolist() == [True]
        put(store, 2)
        assert store.tokens(ids(1))[0] is None
        np.testing.assert_array_equal(store.tokens(ids(2))[0], tokens_of(2))


def test_merging_small_files_keeps_tokens(tmp_path: Path) -> None:
    with Store.open(tmp_path, MODEL) as store:
        put(store, 100, tokens=False)
        for id in range(1, 25):
            put(store, id)
        store.optimize(force=True)
        np.testing.assert_array_equal(store.tokens(np.arange(1, 25)), [tokens_of(id) for id in range(1, 25)])
        assert store.tokens(ids(100)) == [None]


@pytest.mark.parametrize("bad", [np.zeros(8, np.int8), np.zeros((2, 4), np.float32), np.zeros((0, 4), np.int8)])
def test_tokens_that_no_model_should_give_are_refused_before_anything_is_written(
    tmp_path: Path, bad: np.ndarray
) -> None:
    with Store.open(tmp_path, MODEL) as store:
        with pytest.raises(ModelError, match="expected int8 of two dimensions"):
            store.put([item(1)], {1: vector_of(1)}, {1: bad})
        with pytest.raises(ValueError, match="tokens 1 come without a vector"):
            store.put([item(1)], {}, {1: tokens_of(1)})
        assert len(store.known_files()) == 0


@pytest.mark.parametrize("cell", [b"", b"\x04\x00", b"\x04\x00\x08\x00" + bytes(31), b"\x00\x00\x08\x00"])
def test_tokens_damaged_in_the_table_are_named_when_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cell: bytes
) -> None:
    monkeypatch.setattr("mmsearch.store_vectors._to_cell", lambda tokens: cell)
    with Store.open(tmp_path, MODEL) as store:
        put(store, 7)
        with pytest.raises(CollectionDamaged, match=r"tokens of item 7 are damaged.*mmsearch repair"):
            store.tokens(ids(7))


# -- the snapshot ----------------------------------------------------------------------------------------------------


def test_published_tokens_follow_any_order_of_candidates_through_segments_and_merges(tmp_path: Path) -> None:
    rows = [segment_row(id) for id in np.random.default_rng(1).permutation(np.arange(1, 90)).tolist()]
    publish(tmp_path, rows[:60], tokens=True)
    publish(tmp_path, rows[60:70], tokens=True)
    with Snapshot.open(tmp_path) as snapshot:
        assert [segment.info.tokens for segment in snapshot.segments] == [TOKEN_SHAPE] * 2
        assert snapshot.verify() == []
    assert_own_tokens(tmp_path, 70)
    publish(tmp_path, rows[70:], dead=[(rows[0].id, 1)], tokens=True)
    with Snapshot.open(tmp_path) as snapshot:
        assert {segment.info.rows for segment in snapshot.segments} != {60, 10, 19}
    assert_own_tokens(tmp_path, 88)


def test_tokens_of_large_segments_are_put_in_order_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_writer, "FLOAT32_MAX_ROWS", 50)
    monkeypatch.setattr(segment_writer, "_BLOCK_ROWS", 16)
    order = np.random.default_rng(0).permutation(np.arange(1, 201)).tolist()
    blocks = [block([segment_row(id) for id in order[at : at + 40]], tokens=True) for at in range(0, 200, 40)]
    SnapshotWriter(tmp_path).publish(HEAD, previous=None, added=blocks)
    assert_own_tokens(tmp_path, 200)
    publish(tmp_path, dead=[(id, 1) for id in range(1, 80)])
    assert_own_tokens(tmp_path, 121)


def test_tokens_go_to_the_disk_as_they_come(tmp_path: Path) -> None:
    with SegmentWriter(tmp_path, "image-1-a", SegmentShape("image", DIM, TOKEN_SHAPE)) as writer:
        for id in range(2000, 0, -1):
            rows, vectors, tokens = block([segment_row(id)], tokens=True)
            writer.append(rows, vectors, tokens)
        spooled = (tmp_path / "image-1-a" / "tokens.spool").stat().st_size
        assert spooled > 0.75 * 2000 * np.prod(TOKEN_SHAPE)
        info = writer.finish(threads=1)
    assert info.tokens == TOKEN_SHAPE
    assert sorted(info.files) == sorted(path.name for path in (tmp_path / "image-1-a").iterdir())


def test_pictures_with_and_without_tokens_never_share_a_segment(tmp_path: Path) -> None:
    publish(tmp_path, [segment_row(id) for id in range(1, 11)])
    publish(tmp_path, [segment_row(id) for id in range(11, 21)], tokens=True)
    publish(tmp_path, [segment_row(id, kind="text") for id in range(21, 31)])
    with Snapshot.open(tmp_path) as snapshot:
        assert len(snapshot.segments) == 3
        found = candidates(snapshot)
        assert len(found) == 20
        assert snapshot.tokens(found) is None
        with_tokens = [near for near in found if near.id > 10]
        np.testing.assert_array_equal(snapshot.tokens(with_tokens), [tokens_of(near.id) for near in with_tokens])
        assert snapshot.tokens(snapshot.search(QUERY, 5, kind="text")[0]) is None


def test_no_candidates_have_no_tokens_and_no_vectors(tmp_path: Path) -> None:
    publish(tmp_path, [segment_row(1)], tokens=True)
    with Snapshot.open(tmp_path) as snapshot:
        assert snapshot.tokens([]) is None
        assert snapshot.vectors([]).shape == (0, DIM)


@pytest.mark.parametrize(
    "tokens", [None, np.zeros((2, 4, 8), np.int8), np.zeros((1, 4, 8), np.float32), np.zeros((1, 8, 4), np.int8)]
)
def test_a_segment_takes_rows_of_its_own_shape_only(tmp_path: Path, tokens: np.ndarray | None) -> None:
    rows, vectors, _ = block([segment_row(1)])
    with (
        SegmentWriter(tmp_path, "image-1-a", SegmentShape("image", DIM, TOKEN_SHAPE)) as writer,
        pytest.raises(ValueError, match="tokens"),
    ):
        writer.append(rows, vectors, tokens)


def test_a_snapshot_without_tokens_says_what_it_always_said(tmp_path: Path) -> None:
    number = publish(tmp_path, [segment_row(1)])
    (entry,) = json.loads((tmp_path / "snapshots" / f"{number}.json").read_bytes())["segments"]
    assert sorted(entry) == ["dead", "directories", "files", "index", "kind", "missing", "name", "rows", "vectors"]
    assert "tokens.npy" not in entry["files"]


@pytest.mark.parametrize("shape", [None, [4], [4, 8, 2], [0, 8], [8, 4], [-4, -8], [1 << 40, 8]])
def test_a_shape_that_no_publisher_gives_is_damage(tmp_path: Path, shape: object) -> None:
    number = publish(tmp_path, [segment_row(1)], tokens=True)
    path = tmp_path / "snapshots" / f"{number}.json"
    body = load_checked(path.read_bytes())
    body["segments"][0]["tokens"] = shape
    path.write_bytes(dump_checked(body))
    with pytest.raises(CollectionDamaged):
        Snapshot.open(tmp_path)


def test_tokens_that_the_manifest_does_not_mention_are_damage(tmp_path: Path) -> None:
    number = publish(tmp_path, [segment_row(1)], tokens=True)
    path = tmp_path / "snapshots" / f"{number}.json"
    body = load_checked(path.read_bytes())
    del body["segments"][0]["tokens"]
    path.write_bytes(dump_checked(body))
    with pytest.raises(CollectionDamaged, match="but not both"):
        Snapshot.open(tmp_path)
