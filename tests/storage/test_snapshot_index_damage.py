"""A FAISS file that is damaged, lost or not ours alone is not used, and answers stay right."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from storage_builders import flip, publish, segment_row, unit_vectors

from mmsearch.snapshot import Snapshot

QUERY = unit_vectors(1, seed=99)


@pytest.mark.case("F26", "S27")
def test_flip_in_the_faiss_file_is_found_and_answers_stay_right(
    indexed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (path,) = indexed.rglob("index.faiss")
    with Snapshot.open(indexed) as snapshot:
        before = snapshot.search(QUERY, 10, kind="image")
    flip(path, path.stat().st_size // 2, 3)
    with Snapshot.open(indexed) as snapshot:
        assert snapshot.search(QUERY, 10, kind="image") == before
        assert snapshot.segments[0].index.kind == "exact"
        assert snapshot.verify() == [f"{path}: content does not fit its sha256"]
    assert "index.faiss: cannot be used" in caplog.text


@pytest.mark.case("F26")
@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_lost_faiss_file_costs_time_only_and_the_next_publication_makes_it_anew(indexed: Path, damage: str) -> None:
    (path,) = indexed.rglob("index.faiss")
    with Snapshot.open(indexed) as snapshot:
        before = snapshot.search(QUERY, 10, kind="image")
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    with Snapshot.open(indexed) as snapshot:
        assert snapshot.search(QUERY, 10, kind="image") == before
        assert any("index.faiss" in sentence for sentence in snapshot.verify())
    publish(indexed, [segment_row(3000)])
    with Snapshot.open(indexed) as snapshot:
        assert sorted(segment.index.kind for segment in snapshot.segments) == ["exact", "ivfpq"]
        assert snapshot.verify() == []


@pytest.mark.case("S27")
@pytest.mark.parametrize("open_to", [0o020, 0o002])
@pytest.mark.parametrize("place", ["index.faiss", "its directory", "segments", "collection"])
def test_faiss_file_that_others_can_replace_is_not_read(
    indexed: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, place: str, open_to: int
) -> None:
    (path,) = indexed.rglob("index.faiss")
    segment = path.parent
    loose = {"index.faiss": path, "its directory": segment, "segments": segment.parent, "collection": indexed}[place]
    with Snapshot.open(indexed) as snapshot:
        before = snapshot.search(QUERY, 10, kind="image")
        assert snapshot.segments[0].index.kind == "ivfpq"
    loose.chmod(loose.stat().st_mode | open_to)
    monkeypatch.setattr("mmsearch.segment.load_index", lambda *_, **__: pytest.fail("it was handed to FAISS"))
    with Snapshot.open(indexed) as snapshot:
        assert snapshot.search(QUERY, 10, kind="image") == before
        assert snapshot.segments[0].index.kind == "exact"
    assert f"{loose}: others can write to it" in caplog.text
    assert "chmod go-w" in caplog.text


@pytest.mark.case("S27")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_faiss_file_of_somebody_else_is_not_read(indexed: Path, caplog: pytest.LogCaptureFixture) -> None:
    (path,) = indexed.rglob("index.faiss")
    os.chown(path, 12345, -1)
    with Snapshot.open(indexed) as snapshot:
        assert snapshot.segments[0].index.kind == "exact"
    assert f"{path}: belongs to somebody else" in caplog.text
