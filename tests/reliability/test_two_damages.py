"""Two things are damaged at once: the newest versions of a table, or a table and the snapshot that could restore it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from stored_collection import DAMAGES, Stored, build, damage

from mmsearch.indexer.check import check
from mmsearch.indexer.repair import Remake, repair
from mmsearch.model import load_model
from mmsearch.snapshot import Snapshot
from mmsearch.store_prune import manifests


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Stored:
    """Eleven photos and two texts, indexed in four runs. Shared, so only copied."""
    return build(tmp_path_factory.mktemp("twice"), load_model(tiny_model_dir, threads=1))


@pytest.fixture
def stored(built: Stored, tmp_path: Path) -> Stored:
    return built.copy(tmp_path)


def repaired(stored: Stored) -> None:
    repair(stored.directory, remake=Remake(lambda _: stored.model))


@pytest.mark.case("F23")
@pytest.mark.promise("R3")
@pytest.mark.parametrize("how", [each for each in DAMAGES if each != "one bit"])
@pytest.mark.parametrize("table", ["items", "vectors"])
@pytest.mark.parametrize("heal", [repaired, Stored.index])
def test_the_two_newest_versions_of_a_table_are_lost_and_everything_is_found(
    stored: Stored, table: str, how: str, heal: Callable[[Stored], object]
) -> None:
    before = stored.found()
    newest = manifests(stored.tables[table])[:2]
    for manifest in newest:
        damage(manifest, how)
    assert str(newest[0]) in {each.path for each in check(stored.directory).damaged}
    heal(stored)
    stored.index()
    after = stored.found()
    assert {place: id for place, (id, _) in after.items()} == {place: id for place, (id, _) in before.items()}
    assert all(np.allclose(after[place][1], vector, atol=2e-3) for place, (_, vector) in before.items())
    assert check(stored.directory, read_data=True).ok


@pytest.mark.case("F24")
@pytest.mark.promise("R7")
@pytest.mark.parametrize("file", ["vectors.npy", "rows.npy"])
@pytest.mark.parametrize("table", ["items", "vectors"])
def test_a_part_of_the_snapshot_and_of_a_table_cost_no_more_than_what_both_held(
    stored: Stored, table: str, file: str
) -> None:
    """The originals are away, so whatever is found afterwards came from what is left."""
    before = stored.found()
    fragment = max(stored.head(table).fragments, key=lambda each: each.id)
    with Snapshot.open(stored.directory) as snapshot:
        part = max(snapshot.segments, key=lambda each: each.info.rows).info
    damage(stored.tables[table] / min(fragment.data), "cut")
    damage(stored.directory / "segments" / part.name / file, "one bit")
    away = stored.photos.rename(stored.photos.with_name("away"))
    try:
        repaired(stored)
    finally:
        away.rename(stored.photos)
    after = stored.found()
    assert after.keys() <= before.keys()
    assert len(after) >= len(before) - min(fragment.rows, part.rows), (
        len(after),
        len(before),
        fragment.rows,
        part.rows,
    )
    assert all(np.allclose(vector, before[place][1], atol=2e-3) for place, (_, vector) in after.items())
    assert check(stored.directory, read_data=True).ok
    stored.index()
    assert stored.found().keys() == before.keys()
