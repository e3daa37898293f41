"""A table keeps a version for each batch of a day, and each names every file: thousands of times thousands of names."""

from __future__ import annotations

from pathlib import Path

import pytest
from stored_collection import Stored, build

from mmsearch import store_manifest
from mmsearch.examination import Examination
from mmsearch.indexer.check import check
from mmsearch.model import load_model
from mmsearch.store_checksums import TableRecord
from mmsearch.store_manifest import Fragment
from mmsearch.store_prune import manifests, prune_old_versions
from mmsearch.store_repair import look


@pytest.fixture
def stored(tmp_path: Path, tiny_model_dir: Path) -> Stored:
    return build(tmp_path, load_model(tiny_model_dir, threads=1))


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The fragments that are parsed from now on, as they are stored."""
    bodies: list[bytes] = []
    real = store_manifest._fragment

    def counting(body: bytes) -> Fragment:
        bodies.append(body)
        return real(body)

    monkeypatch.setattr(store_manifest, "_fragment", counting)
    return bodies


def test_repair_parses_what_versions_share_once_and_keeps_the_newest_only(stored: Stored, parsed: list[bytes]) -> None:
    table = stored.tables["items"]
    sound = look(table, TableRecord())
    assert len(parsed) == len(set(parsed)) > 2
    assert sound.head is not None and sound.head.number == stored.head("items").number
    assert sound.manifests == tuple(manifests(table))
    assert [version.number for _, version in sound.versions()] == [
        store_manifest.read_version(path).number for path in manifests(table)
    ]


def test_dropping_old_versions_parses_what_the_kept_ones_share_once(stored: Stored, parsed: list[bytes]) -> None:
    assert prune_old_versions(stored.tables["items"], len(manifests(stored.tables["items"])) - 1, -1) > 0
    assert len(parsed) == len(set(parsed)) > 2


def test_however_many_files_are_gone_each_version_is_asked_once(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = stored.tables["items"]
    gone = [path for path in table.rglob("*") if path.parent.name in ("data", "_deletions")]
    for path in gone:
        path.unlink()
    read: list[Path] = []
    real = Path.read_bytes

    def reading(path: Path) -> bytes:
        read.append(path)
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", reading)
    damaged = {each.path for each in check(stored.directory).damaged}
    assert {str(path) for path in gone} <= damaged
    for manifest in manifests(table)[1:]:
        assert read.count(manifest) == 1


def test_blaming_ten_thousand_files_looks_each_up_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Examination()
    names = [tmp_path / str(number) for number in range(10_000)]
    for path in (*names, *names):
        found.blame(path, "is gone", "nothing")
    assert [each.path for each in found.damaged] == [str(path) for path in names]
