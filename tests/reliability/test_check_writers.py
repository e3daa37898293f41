"""`check` beside a writer: what is under way is no damage, and what is damaged is found all the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from stored_collection import Stored, build, write_photos

from mmsearch.examination import Examination
from mmsearch.indexer.check import check
from mmsearch.indexer.optimize import optimize
from mmsearch.indexer.pipeline import IndexOptions
from mmsearch.indexer.repair import repair
from mmsearch.model import load_model
from mmsearch.store_manifest import read_version
from mmsearch.store_prune import manifests, prune_old_versions


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Stored:
    """Eleven photos and two texts, indexed in four runs. Shared, so only copied."""
    return build(tmp_path_factory.mktemp("written"), load_model(tiny_model_dir, threads=1))


@pytest.fixture
def stored(built: Stored, tmp_path: Path) -> Stored:
    return built.copy(tmp_path)


def published_twice(stored: Stored) -> None:
    for _ in range(2):
        repair(stored.directory)
        (stored.directory / "CURRENT").unlink()
        repair(stored.directory)


def pruned(stored: Stored) -> None:
    """Old versions are gone, and the record does not say so yet: that comes with the end of the run."""
    for table in stored.tables.values():
        assert prune_old_versions(table, 2, -1) > 0


def optimized(stored: Stored) -> None:
    optimize(stored.directory)
    pruned(stored)
    optimize(stored.directory)


def indexed(stored: Stored) -> None:
    write_photos(stored.photos, range(50, 53))
    assert stored.index().indexed == 3
    for number in range(50, 53):
        (stored.photos / f"{number:03}.png").unlink()
    assert stored.index(IndexOptions(prune=True)).removed == 3


@pytest.mark.parametrize("writer", [published_twice, pruned, optimized, indexed])
def test_a_writer_at_work_is_no_damage(
    stored: Stored, monkeypatch: pytest.MonkeyPatch, writer: Callable[[Stored], None]
) -> None:
    real = Examination.compare
    looks = []

    def writing_meanwhile(self: Examination, *rest: object) -> None:
        looks.append(self)
        if len(looks) == 1:
            writer(stored)
        real(self, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Examination, "compare", writing_meanwhile)
    report = check(stored.directory, read_data=True)
    assert report.ok, report.damaged
    assert looks


def test_files_that_go_after_their_versions_are_no_damage(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them go while the rest is compared, and nothing else tells of it."""
    for table in stored.tables.values():
        for manifest in manifests(table)[2:]:
            manifest.unlink()
    real = Examination.compare

    def pruning_meanwhile(self: Examination, *rest: object) -> None:
        if not gone:
            gone.extend(each for each in self.expected if each.path.parent.name == "data")
            pruned(stored)
        real(self, *rest)  # type: ignore[arg-type]

    gone: list[object] = []
    monkeypatch.setattr(Examination, "compare", pruning_meanwhile)
    report = check(stored.directory, read_data=True)
    assert report.ok, report.damaged
    assert gone


@pytest.mark.parametrize("folder", ["data", "_deletions", "_versions"])
def test_a_file_that_an_older_version_needs_is_missed(stored: Stored, folder: str) -> None:
    optimize(stored.directory)
    table = stored.tables["items"]
    needed = {f"_versions/{path.name}" for path in manifests(table)[1:-1]}
    needed |= {name for path in manifests(table)[1:] for name in read_version(path).files} - stored.head("items").files
    lost = min(name for name in needed if name.startswith(folder))
    (table / lost).unlink()
    assert [each.path for each in check(stored.directory).damaged] == [str(table / lost)]
