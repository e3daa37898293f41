"""What a query sees of a published snapshot: order, filters, catalog, keys."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from storage_builders import DIM, HEAD, ROOT, block, publish, segment_row, unit_vectors, vector_of

from mmsearch.errors import CollectionNotFound
from mmsearch.manifest import Root
from mmsearch.segment import SegmentRow
from mmsearch.snapshot import Snapshot
from mmsearch.snapshot_manifest import SnapshotHead, SnapshotManifest, read_manifest
from mmsearch.snapshot_writer import Block, SnapshotWriter

QUERY = unit_vectors(1, seed=99)


def found_ids(snapshot: Snapshot, k: int = 100, **options: object) -> list[int]:
    return [near.id for near in snapshot.search(QUERY, k, kind="image", **options)[0]]  # type: ignore[arg-type]


def by_brute_force(rows: list[SegmentRow]) -> list[int]:
    cosines = {row.id: np.float32(vector_of(row.id, row.revision).astype(float) @ QUERY[0]) for row in rows}
    return sorted(cosines, key=lambda id: (-cosines[id], id))


def test_candidates_of_all_segments_come_in_one_exact_order(tmp_path: Path) -> None:
    rows = [segment_row(id) for id in range(1, 91)]
    publish(tmp_path, rows[:70])
    publish(tmp_path, rows[70:])
    with Snapshot.open(tmp_path) as snapshot:
        assert len(snapshot.segments) == 2
        assert found_ids(snapshot) == by_brute_force(rows)
        assert found_ids(snapshot, k=5) == by_brute_force(rows)[:5]


def test_equal_similarities_come_by_id_across_segments(tmp_path: Path) -> None:
    copies = np.repeat(vector_of(1)[np.newaxis], 30, axis=0)
    writer = SnapshotWriter(tmp_path)
    writer.publish(HEAD, previous=None, added=[Block([segment_row(id) for id in range(2, 60, 2)], copies[:29])])
    with Snapshot.open(tmp_path) as previous:
        writer.publish(HEAD, previous=previous, added=[Block([segment_row(id) for id in (3, 1)], copies[:2])])
    with Snapshot.open(tmp_path) as snapshot:
        assert len(snapshot.segments) == 2
        assert [near.id for near in snapshot.search(copies[:1], 5, kind="image")[0]] == [1, 2, 3, 4, 6]


def test_kinds_are_apart(tmp_path: Path) -> None:
    publish(tmp_path, [segment_row(1), segment_row(2, kind="text"), segment_row(3)])
    with Snapshot.open(tmp_path) as snapshot:
        assert sorted(found_ids(snapshot)) == [1, 3]
        assert [near.id for near in snapshot.search(QUERY, 5, kind="text")[0]] == [2]


def test_every_query_gets_its_own_answer(tmp_path: Path) -> None:
    publish(tmp_path, [segment_row(id) for id in range(1, 30)])
    queries = np.array([vector_of(7), vector_of(3)])
    with Snapshot.open(tmp_path) as snapshot:
        answers = snapshot.search(queries, 1, kind="image")
    assert [answer[0].id for answer in answers] == [7, 3]
    assert answers[0][0].similarity == pytest.approx(1, abs=1e-6)
    assert answers[0][0].similarity <= 1


@pytest.mark.case("S16")
@pytest.mark.parametrize(
    ("under", "expected"),
    [
        (b"/photos", {1, 2, 3, 4, 5, 6}),
        (b"/", {1, 2, 3, 4, 5, 6, 7}),
        (b"/photos/a", {2, 3, 4}),
        (b"/photos/a/b", {4}),
        (b"/photos/a/", {2, 3, 4}),
        (b"/photos/a0", {6}),
        (b"/photos/a-b", {5}),
        (b"/photos/\xff", set()),
        (b"/pho", set()),
        (b"/photos2", set()),
        (b"/other", {7}),
        (b"/other/x", {7}),
    ],
)
def test_under_is_a_prefix_on_a_directory_boundary(tmp_path: Path, under: bytes, expected: set[int]) -> None:
    paths = {1: b"top.jpg", 2: b"a/1.jpg", 3: b"a/2.jpg", 4: b"a/b/3.jpg", 5: b"a-b/4.jpg", 6: b"a0/5.jpg"}
    rows = [segment_row(id, path=path) for id, path in paths.items()]
    rows.append(segment_row(7, path=b"x/1.jpg", root_id=5))
    head = SnapshotHead(HEAD.fingerprint, HEAD.model_name, DIM, (ROOT, Root(5, b"/other", 1)))
    SnapshotWriter(tmp_path).publish(head, previous=None, added=[block(rows)])
    with Snapshot.open(tmp_path) as snapshot:
        assert set(found_ids(snapshot, under=under)) == expected


def test_missing_rows_are_hidden_unless_their_root_is_named(tmp_path: Path) -> None:
    rows = [segment_row(1), segment_row(2, missing=True), segment_row(3, missing=True, root_id=5)]
    head = SnapshotHead(HEAD.fingerprint, HEAD.model_name, DIM, (ROOT, Root(5, b"/other", 1)))
    SnapshotWriter(tmp_path).publish(head, previous=None, added=[block(rows)])
    with Snapshot.open(tmp_path) as snapshot:
        assert set(found_ids(snapshot)) == {1}
        assert set(found_ids(snapshot, include_missing={5})) == {1, 3}
        assert set(found_ids(snapshot, include_missing={1, 5}, under=b"/photos")) == {1, 2}
        assert snapshot.live_keys()[0].tolist() == [1, 2, 3]


def test_catalog_row_says_everything_with_the_exact_path(tmp_path: Path) -> None:
    rows = [
        segment_row(1, path=b"d\xff/\n\xfe.jpg"),
        segment_row(2, kind="text", path=b"notes.txt"),
        SegmentRow(id=3, revision=1, kind="text", root_id=1, path=b"", part=4, status="partial", missing=True, text=""),
    ]
    publish(tmp_path, rows)
    with Snapshot.open(tmp_path) as snapshot:
        (image,) = snapshot.search(QUERY, 5, kind="image")[0]
        texts = {near.id: near for near in snapshot.search(QUERY, 5, kind="text", include_missing={1})[0]}
        shown = snapshot.row(image)
        assert (shown.path, shown.width, shown.height, shown.text) == (b"/photos/d\xff/\n\xfe.jpg", 640, 480, None)
        shown = snapshot.row(texts[2])
        assert (shown.path, shown.text, shown.locator) == (b"/photos/notes.txt", "caption 2", "line 2")
        shown = snapshot.row(texts[3])
        assert (shown.path, shown.part, shown.status, shown.missing) == (b"/photos", 4, "partial", True)
        assert (shown.text, shown.locator, shown.width) == ("", None, None)


def test_embeddings_can_be_had_by_id_and_by_kind(tmp_path: Path) -> None:
    publish(tmp_path, [segment_row(id) for id in (5, 1, 9)])
    publish(tmp_path, [segment_row(9, revision=2)], dead=[(5, 1)])
    with Snapshot.open(tmp_path) as snapshot:
        assert snapshot.vector(5) is None
        found = {
            id: vector for ids, vectors in snapshot.blocks("image") for id, vector in zip(ids, vectors, strict=True)
        }
        assert sorted(found) == [1, 9]
        np.testing.assert_array_equal(found[9], vector_of(9, 2))
        vector = snapshot.vector(1)
        assert vector is not None
        np.testing.assert_array_equal(vector, vector_of(1))


def test_empty_snapshot_answers_nothing(tmp_path: Path) -> None:
    publish(tmp_path)
    with Snapshot.open(tmp_path) as snapshot:
        assert found_ids(snapshot) == []
        assert len(snapshot.live_keys()[0]) == 0
        assert (snapshot.number, snapshot.roots, snapshot.counts) == (1, (ROOT,), {"image": 1})


def test_nothing_published_is_told_with_the_command_to_publish(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "absent"):
        with pytest.raises(CollectionNotFound, match="mmsearch index"):
            Snapshot.open(place)


@pytest.mark.parametrize(
    "queries",
    [np.ones((1, DIM)), np.zeros((1, DIM)), np.full((1, DIM), np.nan), unit_vectors(1)[0], unit_vectors(1, dim=5)],
)
def test_queries_that_are_no_unit_vectors_are_refused(tmp_path: Path, queries: np.ndarray) -> None:
    publish(tmp_path, [segment_row(1)])
    with Snapshot.open(tmp_path) as snapshot, pytest.raises(ValueError, match="queries must"):
        snapshot.search(queries, 1, kind="image")


def test_query_path_imports_nothing_heavy(tmp_path: Path) -> None:
    publish(tmp_path, [segment_row(id) for id in range(1, 9)])
    program = (
        "import sys, numpy as np; from pathlib import Path; from mmsearch.snapshot import Snapshot\n"
        "with Snapshot.open(Path(sys.argv[1])) as snapshot:\n"
        f"    near = snapshot.search(np.eye(1, {DIM}, dtype=np.float32), 3, kind='image')[0]\n"
        "    print(len(near), snapshot.row(near[0]).path is not None)\n"
        "heavy = {'pyarrow', 'lancedb', 'faiss', 'torch', 'onnxruntime', 'PIL'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    run = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert run.stdout == "3 True\n[]\n"


def test_reader_starts_over_when_a_publisher_removes_what_it_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path, [segment_row(1)])
    overtaken: list[int] = []

    def read_late(directory: Path, number: int) -> SnapshotManifest:
        if not overtaken:
            overtaken.append(number)
            for revision in (2, 3):
                publish(directory, [segment_row(1, revision=revision)])
        return read_manifest(directory, number)

    monkeypatch.setattr("mmsearch.snapshot.read_manifest", read_late)
    with Snapshot.open(tmp_path) as snapshot:
        assert overtaken == [1]
        assert snapshot.number == 3
