"""The tables as the system of record: put, change, read, count, sync, optimise."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from killed_commits import Killed, killed_after
from storage_builders import DIM, MODEL, item, unit_vectors, vector_of

from mmsearch.errors import CollectionDamaged, ModelError
from mmsearch.manifest import ModelRef
from mmsearch.store import Item, Store
from mmsearch.store_rows import items_from_arrow, items_to_arrow
from mmsearch.types import Reason


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def put(store: Store, *numbers: int, **changes: object) -> None:
    store.put([item(id, **changes) for id in numbers], {id: vector_of(id) for id in numbers})


def failed(id: int) -> Item:
    return item(id, status="error", reason=Reason.TRUNCATED, detail="cut at \udcff", hash=None, size=-1)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path, MODEL)


def test_items_and_vectors_come_back_as_they_were(store: Store) -> None:
    full = item(
        3,
        path=b"d\xff/it's \n.jpg",
        part=2,
        kind="text",
        status="partial",
        width=3,
        height=4,
        taken_at=-5,
        latitude=-90.0,
        longitude=12.5,
        text="Ünïcode \N{GRINNING FACE}",
        locator="line 2",
        missing_since=77,
    )
    store.put([full, item(1), failed(2)], {1: vector_of(1), 3: vector_of(3)})
    read = store.items(ids(3, 2, 1))
    assert [found.id for found in read] == [3, 2, 1]
    assert read[0] == replace(full, revision=read[0].revision)
    assert (read[1].reason, read[1].detail, read[1].size) == (Reason.TRUNCATED, "cut at \\udcff", -1)
    np.testing.assert_array_equal(store.vectors(ids(3, 1)), [vector_of(3), vector_of(1)])


def test_tables_are_found_again_with_everything_in_them(tmp_path: Path) -> None:
    with Store.open(tmp_path, MODEL) as store:
        put(store, 1, 2, 3)
    with Store.open(tmp_path, MODEL) as store:
        assert store.warnings == ()
        assert stat.S_IMODE((tmp_path / "vectors").stat().st_mode) == 0o700
        assert store.known_files().ids.tolist() == [1, 2, 3]
        np.testing.assert_array_equal(store.vectors(ids(2)), [vector_of(2)])


def test_every_write_gives_a_larger_revision_even_after_reopening(tmp_path: Path) -> None:
    seen = [0]
    for _ in range(2):
        with Store.open(tmp_path, MODEL) as store:
            for change in ("put", "mark", "put again"):
                if change == "mark":
                    store.mark_missing(ids(1), 5)
                else:
                    put(store, 1, 2)
                newest = int(store.revisions()[1].max())
                assert newest > seen[-1]
                seen.append(newest)


@pytest.mark.case("F42")
def test_revisions_grow_although_the_clock_goes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.open(tmp_path, MODEL) as store:
        put(store, 1)
        before = int(store.revisions()[1][0])
    monkeypatch.setattr("time.time_ns", lambda: 1000)
    with Store.open(tmp_path, MODEL) as store:
        put(store, 1)
        assert int(store.revisions()[1][0]) > before


def test_put_replaces_by_id_and_keeps_the_vector_unless_a_new_one_comes(store: Store) -> None:
    put(store, 1, 2)
    store.put([item(1, path=b"moved.jpg")], {})
    assert store.items(ids(1))[0].path == b"moved.jpg"
    np.testing.assert_array_equal(store.vectors(ids(1)), [vector_of(1)])
    store.put([item(1)], {1: vector_of(1, 2)})
    np.testing.assert_array_equal(store.vectors(ids(1)), [vector_of(1, 2)])
    assert store.known_files().ids.tolist() == [1, 2]


def test_item_that_turns_unreadable_loses_its_vector(store: Store) -> None:
    put(store, 1, 2)
    store.put([failed(1)], {})
    assert store.revisions()[0].tolist() == [2]
    assert store.revisions(found_only=False)[0].tolist() == [1, 2]
    with pytest.raises(KeyError, match="id 1"):
        store.vectors(ids(1))
    put(store, 1)
    assert store.revisions()[0].tolist() == [1, 2]


def test_deleted_items_are_gone_with_their_vectors(store: Store) -> None:
    put(store, *range(1, 20))
    store.delete(ids(3, 5, 99))
    assert store.known_files().ids.tolist() == [id for id in range(1, 20) if id not in (3, 5)]
    assert store.sweep() == 0
    with pytest.raises(KeyError):
        store.vectors(ids(3))


def test_missing_is_noted_and_taken_back(store: Store) -> None:
    put(store, 1, 2, 3)
    before = dict(zip(*store.revisions(), strict=True))
    store.mark_missing(ids(2, 3), 1234)
    assert store.known_files().missing_since.tolist() == [-1, 1234, 1234]
    after = dict(zip(*store.revisions(), strict=True))
    assert after[1] == before[1]
    assert after[2] > before[2]
    store.mark_missing(ids(3), None)
    assert store.known_files().missing_since.tolist() == [-1, 1234, -1]
    assert store.items(ids(2))[0].missing_since == 1234
    np.testing.assert_array_equal(store.vectors(ids(2)), [vector_of(2)])


def test_unknown_ids_are_named(store: Store) -> None:
    put(store, 1)
    for ask in (store.items, store.vectors, lambda wanted: store.mark_missing(wanted, 1)):
        with pytest.raises(KeyError, match="id 7"):
            ask(ids(1, 7))
    assert store.items(ids()) == []
    assert store.vectors(ids()).shape == (0, DIM)


def test_known_files_are_columns_with_single_rows_on_demand(store: Store) -> None:
    store.put([item(5, path=b"\xff\n.jpg", hash=b"h" * 32), failed(2)], {5: vector_of(5)})
    known = store.known_files()
    assert len(known) == 2
    assert known.ids.tolist() == [2, 5]
    assert [known.path(row) for row in range(2)] == [b"dir/file2.jpg", b"\xff\n.jpg"]
    assert [known.digest(row) for row in range(2)] == [None, b"h" * 32]
    assert known.statuses.tolist() == ["error", "ok"]
    assert known.sizes.tolist() == [-1, 1005]
    assert known.has_vector.tolist() == [False, True]
    assert [str(column.dtype) for column in (known.parts, known.root_ids, known.sizes)] == ["int32", "int32", "int64"]


def test_empty_store_has_empty_columns(store: Store) -> None:
    known = store.known_files()
    assert (len(known), known.statuses.tolist(), known.paths.to_pylist()) == (0, [], [])
    assert store.counts() == {}
    assert list(store.errors()) == []
    assert store.sweep() == 0
    assert len(store.revisions()[0]) == 0


def test_counts_and_errors(store: Store) -> None:
    put(store, 1, 2, 3)
    store.put([failed(4), failed(5), item(6, kind="text", status="partial")], {6: vector_of(6)})
    store.mark_missing(ids(2), 9)
    assert store.counts() == {
        ("image", "ok", None, False): 2,
        ("image", "ok", None, True): 1,
        ("image", "error", "truncated", False): 2,
        ("text", "partial", None, False): 1,
    }
    assert sorted(error.id for error in store.errors()) == [4, 5]


@pytest.mark.parametrize(
    "vector",
    [
        np.full(DIM, np.nan, np.float32),
        np.full(DIM, np.inf, np.float32),
        np.zeros(DIM, np.float32),
        2 * unit_vectors(1)[0],
        unit_vectors(1, dim=DIM + 1)[0],
        unit_vectors(1),
    ],
    ids=["nan", "inf", "zero", "long", "other dim", "two dims"],
)
def test_vector_that_is_no_embedding_is_refused_and_nothing_is_written(store: Store, vector: np.ndarray) -> None:
    with pytest.raises(ModelError, match="embedding"):
        store.put([item(1), item(2)], {1: vector, 2: vector_of(2)[: len(vector)] if vector.ndim == 1 else vector})
    assert len(store.known_files()) == 0
    assert store.sweep() == 0


@pytest.mark.parametrize(
    ("items", "vectors", "complaint"),
    [
        ([item(1), item(1)], [1], "twice"),
        ([item(1)], [1, 2], "vector 2 belongs to no item"),
        ([failed(1)], [1], "vector 1 belongs to no item"),
        ([item(1), item(2)], [1], "item 2 can be found but has no vector"),
    ],
)
def test_put_refuses_what_would_not_fit_together(
    store: Store, items: list[Item], vectors: list[int], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        store.put(items, {id: vector_of(id) for id in vectors})
    assert len(store.known_files()) == 0


def test_stored_vectors_are_unit_length_again(tmp_path: Path) -> None:
    model = ModelRef("big", "ffff", 384)
    vectors = unit_vectors(50, dim=384)
    with Store.open(tmp_path, model) as store:
        store.put([item(id) for id in range(50)], dict(enumerate(vectors)))
        read = store.vectors(np.arange(50))
    assert read.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(read, axis=1), 1, atol=1e-6)
    assert ((read * vectors).sum(axis=1) > 0.99999).all()


def test_damaged_vector_is_named_when_it_is_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmsearch.store_vectors._not_unit", lambda embeddings: None)
    store.put([item(1), item(2)], {1: vector_of(1), 2: np.zeros(DIM, np.float32)})
    monkeypatch.undo()
    with pytest.raises(CollectionDamaged, match=r"item 2 .*mmsearch repair"):
        store.vectors(ids(1, 2))


def test_vectors_of_another_model_stay_and_do_not_answer_for_this_one(tmp_path: Path) -> None:
    with Store.open(tmp_path, MODEL) as store:
        put(store, 1, 2)
    with Store.open(tmp_path, ModelRef("other", "eeee", 8)) as store:
        assert store.known_files().has_vector.tolist() == [False, False]
        assert len(store.revisions()[0]) == 0
        store.put([item(1)], {1: unit_vectors(1, dim=8)[0]})
        assert store.revisions()[0].tolist() == [1]
    with Store.open(tmp_path, MODEL) as store:
        np.testing.assert_array_equal(store.vectors(ids(1, 2)), [vector_of(1), vector_of(2)])


def test_fingerprint_that_is_no_file_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="fingerprint"):
        Store.open(tmp_path, ModelRef("m", "../x", 8))


def test_vectors_that_a_killed_put_left_are_swept(store: Store) -> None:
    put(store, 1)
    with pytest.raises(Killed, match="items"), killed_after(1):
        put(store, 2, 3)
    assert store.known_files().ids.tolist() == [1]
    assert store.sweep() == 2
    put(store, 2)
    assert store.revisions()[0].tolist() == [1, 2]


@pytest.mark.parametrize("commits", range(6))
def test_a_vector_never_stands_beside_a_row_of_another_content(store: Store, commits: int) -> None:
    """Item 1 has its vector, 2 has lost it, 3 failed, 4 is new: whatever a kill leaves, no vector belongs elsewhere."""
    put(store, 1, 2)
    store.put([failed(3)], {})
    store._vectors.delete(ids(2))
    new = {id: vector_of(id, 2) for id in (1, 2, 3, 4)}
    with pytest.raises(Killed) if commits < 5 else nullcontext(), killed_after(commits) as made:
        store.put([item(id, hash=b"new") for id in new], new)
    known = store.known_files()
    for row in np.flatnonzero(known.has_vector).tolist():
        id = int(known.ids[row])
        expected = new[id] if known.digest(row) == b"new" else vector_of(id)
        np.testing.assert_array_equal(store.vectors(ids(id)), [expected])
    assert len(made) == min(commits, 5)
    assert set(store.revisions()[0].tolist()) == set(known.ids[known.has_vector].tolist())
    store.sweep()
    store.put([item(id, hash=b"new") for id in new], new)
    np.testing.assert_array_equal(store.vectors(ids(*new)), list(new.values()))


def test_unreadable_item_whose_vector_a_killed_put_left_is_not_published(store: Store) -> None:
    put(store, 1, 2)
    with pytest.raises(Killed, match="delete"), killed_after(1):
        store.put([failed(1)], {})
    assert store.revisions()[0].tolist() == [2]
    assert store.known_files().has_vector.tolist() == [False, True]
    assert store.sweep() == 1


@pytest.mark.case("F29")
@pytest.mark.promise("R3")
def test_sync_reaches_every_file_of_both_tables_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr("mmsearch.durable._fsync", lambda path, flags, **_: synced.append(path))
    with Store.open(tmp_path, MODEL) as store:
        put(store, 1, 2)
        store.sync()
        files = {path for path in tmp_path.rglob("*") if path.is_file() and path.parent != tmp_path}
        assert files <= set(synced)
        directories = {path for path in tmp_path.rglob("*") if path.is_dir() and any(path.iterdir())}
        assert directories | {tmp_path} <= set(synced)
        synced.clear()
        store.sync()
        assert [path for path in synced if path.is_file()] == []
        put(store, 3)
        store.sync()
        new = {path for path in tmp_path.rglob("*") if path.is_file() and path.parent != tmp_path} - files
        assert len(new) >= 4
        assert new <= set(synced)


def test_optimise_merges_many_small_files_and_changes_no_row(store: Store, tmp_path: Path) -> None:
    for id in range(1, 41):
        put(store, id)
    store.delete(ids(5))
    before = (store.known_files().ids.tolist(), store.versions())
    store.optimize()
    assert len(list((tmp_path / "items.lance" / "data").iterdir())) > 1, "old versions of the last day stay"
    assert store.versions()["items"] > before[1]["items"]
    versions = store.versions()
    store.optimize()
    assert store.versions() == versions
    assert store.known_files().ids.tolist() == before[0]
    assert [found.id for found in store.items(ids(40, 1))] == [40, 1]
    put(store, 41)
    np.testing.assert_array_equal(store.vectors(ids(41, 7)), [vector_of(41), vector_of(7)])


@pytest.mark.case("S15")
def test_no_sql_is_written_anywhere() -> None:
    package = Path(__file__).parents[2] / "mmsearch"
    for source in package.glob("store*.py"):
        text = source.read_text()
        assert not re.search(r"\.(where|delete|count_rows)\(\s*(f?[\"']|[\"'])", text), source
        assert "values_sql" not in text


def test_lancedb_says_nothing_on_its_own(tmp_path: Path) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\nfrom storage_builders import MODEL, item, vector_of\n"
        "from mmsearch.store import Store\n"
        "with Store.open(Path(sys.argv[1]), MODEL) as store:\n"
        "    store.put([item(1)], {1: vector_of(1)}); store.optimize(force=True)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "LANCEDB_LOG"}
    command = [sys.executable, "-W", "error", "-c", program, str(tmp_path), str(Path(__file__).parent)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


TEXT = st.none() | st.text(max_size=20)


@settings(max_examples=100, deadline=None)
@given(
    path=st.binary(max_size=30),
    text=TEXT,
    locator=TEXT,
    number=st.none() | st.integers(-(2**31), 2**31 - 1),
    large=st.integers(-(2**63), 2**63 - 1),
    place=st.none() | st.floats(-180, 180),
    reason=st.none() | st.sampled_from(Reason),
)
def test_any_item_survives_the_table_form(
    path: bytes,
    text: str | None,
    locator: str | None,
    number: int | None,
    large: int,
    place: float | None,
    reason: Reason | None,
) -> None:
    original = item(
        7, path=path, text=text, locator=locator, width=number, size=large, latitude=place, reason=reason, revision=3
    )
    (read,) = items_from_arrow(items_to_arrow([original], 3))
    assert read == original
