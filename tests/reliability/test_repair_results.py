"""Repair, and runs over other folders, take no results away that can be kept, and delete nothing that is damaged."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stored_collection import Stored, damage, marker, write_photos

from mmsearch import manifest as manifests
from mmsearch.indexer import reembed
from mmsearch.indexer.check import check
from mmsearch.indexer.pipeline import IndexOptions, index
from mmsearch.indexer.repair import Remake, repair
from mmsearch.model import load_model
from mmsearch.snapshot_manifest import CURRENT_FILE, read_current, read_manifest
from mmsearch.snapshot_writer import SnapshotWriter
from mmsearch.store import Store
from mmsearch.types import RepairReport


@pytest.fixture
def stored(tmp_path: Path, tiny_model_dir: Path) -> Stored:
    """Six photos, published once."""
    made = Stored(tmp_path / "collection", tmp_path / "photos", load_model(tiny_model_dir, threads=1))
    write_photos(made.photos, range(6))
    made.index()
    return made


def lose_embeddings(stored: Stored) -> None:
    """Damages the data file of the table of embeddings, and the same vectors in the snapshot by one bit."""
    fragment = stored.head("vectors").fragments[0]
    damage(stored.tables["vectors"] / next(iter(fragment.data)), "zeros")
    for vectors in stored.directory.glob("segments/*/vectors.npy"):
        content = bytearray(vectors.read_bytes())
        content[-1] ^= 1
        vectors.write_bytes(bytes(content))


def mended(stored: Stored) -> RepairReport:
    return repair(stored.directory, remake=Remake(lambda _: stored.model))


@pytest.mark.promise("R5", "R7")
def test_a_repair_that_is_interrupted_publishes_no_loss(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    lose_embeddings(stored)
    before = set(stored.found())
    real = reembed._Again._stream
    signals = iter([signal.SIGINT])

    def stream(self: reembed._Again, *arguments: object) -> None:
        for each in signals:
            os.kill(os.getpid(), each)
        real(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(reembed._Again, "_stream", stream)
        report = mended(stored)
    assert report.interrupted
    assert set(stored.found()) == before
    report = mended(stored)
    assert not report.interrupted and report.embedded == 6 and report.without_embedding == 0
    assert set(stored.found()) == before
    assert check(stored.directory, read_data=True).ok


@pytest.mark.promise("R7")
def test_damaged_parts_of_a_snapshot_are_moved_aside_and_never_deleted(stored: Stored) -> None:
    lose_embeddings(stored)
    content = next(stored.directory.glob("segments/*/vectors.npy")).read_bytes()
    manifest = next((stored.directory / "snapshots").glob("*.json")).read_bytes()
    stored.photos.rename(stored.photos.with_name("offline"))
    report = mended(stored)
    assert report.without_embedding == 6
    aside = [path.read_bytes() for path in (stored.directory / "quarantine").rglob("*") if path.is_file()]
    assert content in aside and manifest in aside
    stored.photos.with_name("offline").rename(stored.photos)
    assert mended(stored).embedded == 6
    assert len(stored.found()) == 6


@pytest.mark.promise("R7")
def test_a_damaged_older_snapshot_is_moved_aside_whole_or_garbled(stored: Stored) -> None:
    write_photos(stored.photos, range(6, 8))
    stored.index()
    older = stored.directory / "snapshots" / f"{read_current(stored.directory) - 1}.json"
    content = older.read_bytes()[:40]
    older.write_bytes(content)
    report = mended(stored)
    assert any(str(older) in sentence and "quarantine" in sentence for sentence in report.mended)
    assert not older.exists()
    assert content in [path.read_bytes() for path in (stored.directory / "quarantine").iterdir() if path.is_file()]
    assert len(stored.found()) == 8


@pytest.mark.promise("R7")
def test_items_come_back_from_a_snapshot_whose_vectors_are_damaged(stored: Stored) -> None:
    ids = {place: id for place, (id, _) in stored.found().items()}
    fragment = stored.head("items").fragments[0]
    damage(stored.tables["items"] / next(iter(fragment.data)), "zeros")
    lose_embeddings(stored)
    report = mended(stored)
    assert report.embedded == 6
    assert {place: id for place, (id, _) in stored.found().items()} == ids


def _changed(folder: Path, numbers: range) -> None:
    for number in numbers:
        pixels = np.random.default_rng(900 + number).integers(0, 256, (9, 9, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")


class _Killed(BaseException):
    pass


@pytest.fixture
def half_changed(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Stored, Path]]:
    """The photos have changed, and a run was killed between their rows and their embeddings; and another folder."""
    other = stored.photos.with_name("other")
    write_photos(other, range(50, 52))
    index(stored.directory, [other], stored.model, IndexOptions())
    _changed(stored.photos, range(6))
    real = Store._add_vectors

    def add(self: Store, rows: object, chosen: np.ndarray) -> None:
        if chosen.any():
            raise _Killed
        real(self, rows, chosen)

    with monkeypatch.context() as patched:
        patched.setattr(Store, "_add_vectors", add)
        with pytest.raises(_Killed):
            stored.index()
    yield stored, other


@pytest.mark.promise("R5")
def test_a_run_elsewhere_keeps_what_waits_for_an_absent_drive(half_changed: tuple[Stored, Path]) -> None:
    stored, other = half_changed
    before = stored.found()
    assert len(before) == 8
    stored.photos.rename(stored.photos.with_name("offline"))
    write_photos(other, range(52, 53))
    report = index(stored.directory, [other], stored.model, IndexOptions())
    assert report.items == 9
    after = stored.found()
    assert all(after[place][0] == id and np.array_equal(after[place][1], was) for place, (id, was) in before.items())
    assert len(after) == 9, "and what is new is found too"
    assert any("found as they were before" in warning for warning in report.warnings)
    assert check(stored.directory, read_data=True).ok
    stored.photos.with_name("offline").rename(stored.photos)
    report = stored.index()
    assert not any("as they were before" in warning for warning in report.warnings)
    again = stored.found()
    assert len(again) == 9
    changed = [place for place in before if not np.array_equal(again[place][1], before[place][1])]
    assert len(changed) == 6


@pytest.mark.promise("R5", "R7")
def test_repair_keeps_what_waits_for_an_absent_drive(half_changed: tuple[Stored, Path]) -> None:
    stored, _ = half_changed
    stored.photos.rename(stored.photos.with_name("offline"))
    segment = max(stored.directory.glob("segments/*/vectors.npy"), key=lambda path: path.stat().st_mtime_ns)
    rows = len(stored.found())
    damage(segment, "one bit")  # of the other folder's photos, which the tables have
    report = mended(stored)
    assert (report.items, report.without_embedding) == (rows, 6)
    assert len(stored.found()) == rows


def test_files_that_lost_their_embedding_are_one_survey_a_root(half_changed: tuple[Stored, Path]) -> None:
    from mmsearch.indexer.pipeline import _Run

    stored, other = half_changed
    seen = []
    real = _Run.take_in

    def take_in(self: _Run) -> None:
        seen.append(len(self.surveys))
        real(self)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_Run, "take_in", take_in)
        index(stored.directory, [other], stored.model, IndexOptions())
    assert seen == [2]
    assert all(np.isfinite(vector).all() for _, vector in stored.found().values())
    assert len(stored.found()) == 8
    assert stored.index().unchanged == 6


def test_a_marker_written_again_remembers_mounts(stored: Stored) -> None:
    mount = bytes(stored.photos / "stick")
    (stored.photos / "stick").mkdir()
    manifests.write(stored.directory, replace(marker(stored), mounts=(mount,)))
    write_photos(stored.photos, range(6, 7))
    stored.index()
    assert marker(stored).mounts == (mount,)
    (stored.directory / manifests.FILE_NAME).unlink()
    mended(stored)
    assert marker(stored).mounts == (mount,)


class _Full(OSError):
    pass


@pytest.mark.promise("R4")
def test_nothing_is_removed_before_a_new_snapshot_stands_when_current_is_garbled(stored: Stored) -> None:
    number = read_current(stored.directory)
    segments = {path.name for path in (stored.directory / "segments").iterdir()}
    (stored.directory / CURRENT_FILE).write_bytes(b"\0\0")
    head = read_manifest(stored.directory, number).head

    def blocks() -> Iterator[object]:
        raise _Full
        yield

    with pytest.raises(_Full):
        SnapshotWriter(stored.directory).publish(head, previous=None, added=blocks())  # type: ignore[arg-type]
    assert read_manifest(stored.directory, number)
    assert {path.name for path in (stored.directory / "segments").iterdir()} >= segments


def test_repair_finds_the_live_snapshot_again_when_current_is_garbled(stored: Stored) -> None:
    found, number = set(stored.found()), read_current(stored.directory)
    fragment = stored.head("vectors").fragments[0]
    damage(stored.tables["vectors"] / next(iter(fragment.data)), "zeros")
    (stored.directory / CURRENT_FILE).write_bytes(b"\0\0")
    stored.photos.rename(stored.photos.with_name("offline"))
    report = repair(stored.directory)
    assert report.without_embedding == 0 and number
    assert set(stored.found()) == found
