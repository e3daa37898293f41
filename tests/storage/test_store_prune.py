"""Old versions: kept by number and age, dropped even when there is no room to merge, never one file too many."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from small_disk import files_of_at_most
from storage_builders import MODEL, item, vector_of

from mmsearch import store_compaction
from mmsearch.store import Store
from mmsearch.store_manifest import read_version
from mmsearch.store_prune import kept_manifests, manifest_number, manifests, prune_old_versions

DAY = 24 * 3600


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    """A table of 30 puts of one item after 20 that were deleted, all but the last 12 versions three days old."""
    with Store.open(tmp_path, MODEL) as store:
        for id in range(1, 51):
            store.put([item(id)], {id: vector_of(id)})
            if id == 20:
                store.delete(np.arange(1, 21))
    for table in tables(tmp_path):
        for manifest in manifests(table)[12:]:
            os.utime(manifest, (time.time() - 3 * DAY,) * 2)
    return tmp_path


def tables(collection: Path) -> list[Path]:
    return [collection / "items.lance", collection / "vectors" / f"{MODEL.fingerprint}.lance"]


def check_content(collection: Path) -> None:
    with Store.open(collection, MODEL) as store:
        assert store.warnings == ()
        assert store.revisions()[0].tolist() == list(range(21, 51))
        assert len(store.items(np.arange(21, 51))) == 30
        assert store.vectors(np.arange(21, 51)).shape == (30, 16)


def test_ten_versions_and_those_of_a_day_are_kept(collection: Path) -> None:
    table = collection / "items.lance"
    assert kept_manifests(table, 10, DAY) == manifests(table)[:12]
    assert kept_manifests(table, 20, DAY) == manifests(table)[:20]
    assert kept_manifests(table, 10, 4 * DAY) == manifests(table)


def test_versions_are_numbered_from_the_newest(collection: Path) -> None:
    with Store.open(collection, MODEL) as store:
        newest = store.versions()["items"]
    names = [int(path.stem) for path in manifests(collection / "items.lance")]
    assert [2**64 - 1 - name for name in names] == list(range(newest, 0, -1))


def test_pruning_drops_old_versions_and_the_files_only_they_need(collection: Path) -> None:
    for table in tables(collection):
        data_before = set((table / "data").iterdir())
        kept = manifests(table)[:12]
        freed = prune_old_versions(table, 10, DAY)
        assert freed > 0
        assert manifests(table) == kept
        assert len(data_before - set((table / "data").iterdir())) == 20
    check_content(collection)


@pytest.mark.parametrize("place", [0, 5])
def test_pruning_does_nothing_when_a_kept_manifest_is_not_understood(
    collection: Path, place: int, caplog: pytest.LogCaptureFixture
) -> None:
    table = collection / "items.lance"
    manifest = manifests(table)[place]
    content = manifest.read_bytes()
    for damaged in (content[:-1], content[:8] + content[-16:], b""):
        manifest.write_bytes(damaged)
        before = sorted(table.rglob("*"))
        assert prune_old_versions(table, 10, DAY) == 0
        assert sorted(table.rglob("*")) == before
    assert f"{manifest.name} cannot be read" in caplog.text


def test_optimise_drops_old_versions_and_keeps_ten_of_whatever_age(
    collection: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_compaction, "KEPT_SECONDS", 0)
    time.sleep(1.5)
    with Store.open(collection, MODEL) as store:
        for place in range(12):  # a new vector for an old item is two commits, so six make as many
            store.put([item(50)], {50: vector_of(50)} if place % 2 else {})
        store.optimize()
    for table in tables(collection):
        assert 10 <= len(manifests(table)) <= 14
    check_content(collection)


@pytest.mark.case("F17")
def test_old_versions_are_dropped_although_there_is_no_room_to_merge(
    collection: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Store.open(collection, MODEL) as store:
        # Enough for a manifest's neighbours, too little to merge fifty files, and for the record of what is left.
        with files_of_at_most(2000), pytest.raises(OSError, match="File too large"):
            store.optimize()
        assert store.revisions()[0].tolist() == list(range(21, 51))
    assert caplog.text.count("could not be merged") == 2
    assert all(len(manifests(table)) == 12 for table in tables(collection))
    check_content(collection)


@pytest.mark.parametrize("steps", [1, 5, 20, 40])
def test_a_prune_that_is_killed_leaves_versions_with_all_their_files(
    collection: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    table = collection / "items.lance"
    left = iter(range(steps))
    real = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        real(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.raises(KeyboardInterrupt):
        prune_old_versions(table, 10, DAY)
    monkeypatch.undo()
    numbers = [manifest_number(path) for path in manifests(table)]
    assert numbers == list(range(numbers[0], numbers[-1] - 1, -1))
    for manifest in manifests(table):
        assert all((table / name).exists() for name in read_version(manifest).files)
    check_content(collection)
