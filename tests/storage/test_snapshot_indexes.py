"""The index that a large segment has: which kind, when it is made anew, and that answers stay what they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from storage_builders import HEAD, block, publish, segment_row, unit_vectors

from mmsearch import segment_writer
from mmsearch.checked_json import dump_checked, load_checked
from mmsearch.snapshot import Snapshot
from mmsearch.snapshot_writer import SnapshotWriter


def test_stored_index_answers_like_exact_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmsearch.vector_index.EXACT_MAX_ROWS", 100)
    monkeypatch.setattr("mmsearch.vector_index.SQFP16_MAX_ROWS", 100)
    monkeypatch.setattr("mmsearch.vector_index.FEW_ALLOWED", 100)
    monkeypatch.setattr(segment_writer, "FLOAT32_MAX_ROWS", 100)
    rows = [segment_row(id) for id in range(1, 6001)]
    publish(tmp_path, rows)
    with Snapshot.open(tmp_path) as snapshot:
        info = snapshot.segments[0].info
        assert (info.index.kind, "index.faiss" in info.files, info.index.recall >= 0.99) == ("ivfpq", True, True)
        answers = snapshot.search(unit_vectors(20, seed=5), 10, kind="image")
        (tmp_path / "segments" / info.name / "index.faiss").unlink()
        assert answers == snapshot.search(unit_vectors(20, seed=5), 10, kind="image")


def test_kind_of_index_that_is_asked_for_replaces_what_large_segments_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmsearch.vector_index.EXACT_MAX_ROWS", 100)
    small, large = [segment_row(id, kind="text") for id in range(1, 91)], [segment_row(id) for id in range(91, 391)]
    publish(tmp_path, [*small, *large])
    assert kinds(tmp_path) == {"text": "exact", "image": "sqfp16"}
    for asked, expected in (("exact", "exact"), (None, "exact"), ("ivfpq", "ivfpq"), ("sqfp16", "sqfp16")):
        with Snapshot.open(tmp_path) as previous:
            writer = SnapshotWriter(tmp_path, threads=1, index=asked)  # type: ignore[arg-type]
            due = [writer.index_is_due(segment) for segment in previous.segments]
            writer.publish(HEAD, previous=previous, added=[])
        assert any(due) == (asked is not None)
        assert kinds(tmp_path) == {"text": "exact", "image": expected}


def test_kind_that_falls_short_of_its_recall_is_not_built_again_at_every_publication(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmsearch.vector_index.EXACT_MAX_ROWS", 100)
    monkeypatch.setattr("mmsearch.vector_index.RECALL_WANTED", 1.1)
    writer = SnapshotWriter(tmp_path, threads=1, index="ivfpq")
    writer.publish(HEAD, previous=None, added=[block([segment_row(id) for id in range(1, 301)])])
    with Snapshot.open(tmp_path) as previous:
        info = previous.segments[0].info.index
        assert (info.kind, info.instead_of) == ("exact", "ivfpq")
        assert writer.publish(HEAD, previous=previous, added=[]) == previous.number
        assert SnapshotWriter(tmp_path, threads=1, index="sqfp16").index_is_due(previous.segments[0])


def test_segment_with_an_index_of_a_kind_that_is_not_made_any_more_answers_and_gets_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("EXACT_MAX_ROWS", "SQFP16_MAX_ROWS"):
        monkeypatch.setattr(f"mmsearch.vector_index.{name}", 100)
    publish(tmp_path, [segment_row(id) for id in range(1, 6001)])
    manifest = tmp_path / "snapshots" / "1.json"
    body = load_checked(manifest.read_bytes())
    body["segments"][0]["index"] = {"kind": "rabitq", "k_factor": 30, "recall": 0.99}
    body["format"] = 1
    manifest.write_bytes(dump_checked(body))
    assert kinds(tmp_path) == {"image": "exact"}
    with Snapshot.open(tmp_path) as snapshot:
        assert len(snapshot.search(unit_vectors(1, seed=5), 10, kind="image")[0]) == 10
    publish(tmp_path)
    assert kinds(tmp_path) == {"image": "ivfpq"}


def kinds(directory: Path) -> dict[str, str]:
    with Snapshot.open(directory) as snapshot:
        return {segment.info.kind: segment.info.index.kind for segment in snapshot.segments}
