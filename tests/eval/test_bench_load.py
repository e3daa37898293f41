"""The bench of load: its runs are those it names, and its bad files are bad."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from mmsearch.eval.bench.__main__ import bench
from mmsearch.eval.bench.load import GOOD, MIXED, UNSYNCED, write_bad_files
from mmsearch.eval.bench.photo_files import SMALL, write_photos
from mmsearch.eval.bench.request import BenchRequest
from mmsearch.indexer.pipeline import IndexOptions, index
from mmsearch.model import load_model
from mmsearch.types import Reason


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three noisy pictures in the shape of Flickr8k's folder."""
    folder = tmp_path / "data" / "images"
    folder.mkdir(parents=True)
    for number in range(3):
        Image.effect_noise((50, 40), 40 + number).convert("RGB").save(folder / f"{number}.jpg")
    return folder.parent


def test_none_of_the_bad_files_can_be_read_as_a_whole_photo(tmp_path: Path, tiny_model_dir: Path, data: Path) -> None:
    photos = write_photos(tmp_path / "photos", 2, SMALL, data)
    bad = write_bad_files(tmp_path / "bad", 8, photos)
    report = index(tmp_path / "collection", [photos, bad], load_model(tiny_model_dir, threads=1), IndexOptions())
    assert {each.reason for each in report.skipped} >= {Reason.EMPTY, Reason.UNIDENTIFIED, Reason.TOO_LARGE}
    cut = 8 - len(report.skipped)
    assert cut == 0 or any("in part only" in sentence for sentence in report.warnings)
    assert report.indexed == 2 + cut


@pytest.mark.slow
def test_load_times_good_photos_alone_with_bad_ones_and_without_fsync(
    tmp_path: Path, tiny_model_dir: Path, data: Path
) -> None:
    asked = BenchRequest(data=data, model=str(tiny_model_dir), size=18, rounds=1, work=tmp_path / "work")
    result = bench("load")(asked)
    assert [row[:2] for row in result.rows] == [(GOOD, 18), (MIXED, 20), (UNSYNCED, 18)]
    pairs = [f"{MIXED} / {GOOD}", f"{GOOD} / {UNSYNCED}"]
    assert list(result.ratios) == [*pairs, *(f"CPU: {pair}" for pair in pairs)]
