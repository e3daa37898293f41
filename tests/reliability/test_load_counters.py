"""What indexing many files costs, in counts: work done twice, processes, syncs, memory of a walk, room on the disk."""

from __future__ import annotations

import os
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from figures import tell
from killed_commits import Killed
from killed_steps import killed_after_steps
from load_photos import write_bad_pictures, write_pictures
from same_process import SameProcessPool

from mmsearch.encoder import OnnxEncoder
from mmsearch.errors import CollectionError
from mmsearch.indexer import decode, pipeline, space
from mmsearch.indexer.discover import Scope, Walk
from mmsearch.indexer.pipeline import IndexOptions, index
from mmsearch.indexer.worker_process import WorkerProcess
from mmsearch.model import Model, load_model
from mmsearch.types import IndexReport

BATCH = 256


@pytest.fixture
def model(tiny_model_dir: Path) -> Model:
    return load_model(tiny_model_dir, threads=1)


@pytest.fixture
def in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read in this process, and nothing waits for the disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(pipeline, "DecodePool", lambda preprocess, **_: SameProcessPool(preprocess, lambda path: False))


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many pictures the model is asked to embed."""
    made: Counter[str] = Counter()
    encode = OnnxEncoder.encode_pixels_with_tokens

    def counting(self: OnnxEncoder, pixels: Any) -> Any:
        made["pictures"] += len(pixels)
        return encode(self, pixels)

    monkeypatch.setattr(OnnxEncoder, "encode_pixels_with_tokens", counting)
    return made


@pytest.mark.case("L2")
@pytest.mark.promise("R2")
@pytest.mark.usefixtures("in_one_process")
def test_going_on_after_a_kill_repeats_one_batch_at_most(
    tmp_path: Path, model: Model, embedded: Counter[str], pytestconfig: pytest.Config
) -> None:
    photos = write_pictures(tmp_path / "photos", 3 * BATCH)
    repeated = []
    for steps in (5, 8):
        embedded.clear()
        collection = tmp_path / f"collection-{steps}"
        with pytest.raises(Killed), killed_after_steps(steps):
            index(collection, [photos], model, IndexOptions())
        index(collection, [photos], model, IndexOptions())
        repeated.append(embedded["pictures"] - 3 * BATCH)
    tell(pytestconfig, f"L2: pictures embedded again after a kill: {repeated}")
    assert max(repeated) <= BATCH
    assert min(repeated) >= 0


@pytest.mark.case("L3")
def test_bad_files_are_read_once_and_end_no_decode_process(
    tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = write_pictures(tmp_path / "photos", 180)
    write_bad_pictures(photos / "bad", 20)
    started: Counter[str] = Counter()

    class Counted(WorkerProcess):
        def __init__(self, config: Any) -> None:
            started["processes"] += 1
            super().__init__(config)

        def decode(self, job: Any) -> Any:
            started["files"] += 1
            return super().decode(job)

    monkeypatch.setattr(decode, "WorkerProcess", Counted)
    first = index(tmp_path / "collection", [photos], model, IndexOptions(workers=1))
    assert (first.indexed, len(first.skipped)) == (180, 20)
    assert started == {"processes": 1, "files": 200}
    second = index(tmp_path / "collection", [photos], model, IndexOptions(workers=1))
    assert (second.unchanged, second.failed_before) == (180, 20)
    assert started == {"processes": 1, "files": 200}


@pytest.mark.case("L6")
@pytest.mark.usefixtures("in_one_process")
def test_syncs_follow_the_number_of_batches_not_of_files(
    tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    synced: Counter[str] = Counter()
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.update(["all"]))
    counts = []
    for batches in (1, 5):
        synced.clear()
        photos = write_pictures(tmp_path / f"photos-{batches}", batches * BATCH)
        index(tmp_path / f"collection-{batches}", [photos], model, IndexOptions())
        counts.append(synced["all"])
    tell(pytestconfig, f"L6: syncs of a run over 1 and over 5 batches of {BATCH} files: {counts}")
    assert counts[0] <= 80
    assert counts[1] - counts[0] <= 4 * 20


@pytest.mark.case("L1")
@pytest.mark.usefixtures("in_one_process")
def test_a_rescan_of_unchanged_files_loads_no_model_and_reads_no_file(
    tmp_path: Path, tiny_model_dir: Path, embedded: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = write_pictures(tmp_path / "photos", 300)
    index(tmp_path / "collection", [photos], load_model(tiny_model_dir, threads=1), IndexOptions())
    embedded.clear()

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a rescan needs neither a model nor the bytes of a file")

    monkeypatch.setattr(OnnxEncoder, "load_image_tower", refuse)
    monkeypatch.setattr(OnnxEncoder, "load_text_tower", refuse)
    monkeypatch.setattr(pipeline, "DecodePool", refuse)
    report = index(tmp_path / "collection", [photos], load_model(tiny_model_dir, threads=1), IndexOptions())
    assert (report.unchanged, report.indexed) == (300, 0)
    assert not embedded


@pytest.mark.case("L9")
def test_a_walk_takes_memory_for_its_depth_and_not_for_its_length(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    peaks = []
    for branches in (5, 50):
        root = tmp_path / f"{branches}"
        for branch in range(branches):
            for twig in range(10):
                folder = root / f"{branch}" / f"{twig}"
                folder.mkdir(parents=True)
                for number in range(100):
                    (folder / f"{number}.png").touch()
        peaks.append(walk_peak(root, branches * 1000))
    tell(
        pytestconfig, f"L9: a walk over 5,000 and 50,000 files takes {peaks[0] / 1000:.0f} and {peaks[1] / 1000:.0f} KB"
    )
    assert peaks[1] < peaks[0] + 16_384


def walk_peak(root: Path, expected: int) -> int:
    """The most memory, in bytes, that a walk over so many files holds at once."""
    walk = Walk(Scope(1, os.fsencode(root), b""))
    tracemalloc.start()
    try:
        assert sum(1 for _ in walk.files()) == expected
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Says how much room the disk has."""

    def room(bytes_: int) -> None:
        usage = Usage(1 << 40, 0, bytes_)
        monkeypatch.setattr(space, "shutil", type("disk", (), {"disk_usage": staticmethod(lambda path: usage)}))

    yield room


@pytest.mark.case("L7")
@pytest.mark.usefixtures("in_one_process")
def test_a_run_refuses_to_start_without_twice_the_room_that_its_rows_take(
    tmp_path: Path, model: Model, free: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = write_pictures(tmp_path / "photos", 1000)
    collection = tmp_path / "collection"
    index(collection, [photos], model, IndexOptions())
    rows = sum(path.stat().st_size for path in newest_rows(collection))
    monkeypatch.setattr(space, "SMALLEST_FREE", 0)
    before = {path: path.stat().st_mtime_ns for path in collection.rglob("*") if path.name != "lock"}
    free(2 * rows)
    with pytest.raises(CollectionError, match=r"MB are free on its disk, and indexing needs \d+ MB; make room"):
        index(collection, [photos], model, IndexOptions())
    assert before == {path: path.stat().st_mtime_ns for path in collection.rglob("*") if path.name != "lock"}
    free(20 * rows)
    report: IndexReport = index(collection, [photos], model, IndexOptions())
    assert report.unchanged == 1000


def newest_rows(collection: Path) -> list[Path]:
    """The files that hold the rows of the collection: it was filled in one run, so none is out of date."""
    return [path for path in collection.rglob("*.lance/data/*") if path.is_file()]
