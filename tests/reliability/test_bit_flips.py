"""A single flipped bit, anywhere in anything that is stored, is found, and the file is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from stored_collection import Stored, build, flip
from tiny_model import write_tiny_model

from mmsearch import segment_writer, vector_index
from mmsearch.indexer.check import check
from mmsearch.model import load_model

KINDS = (
    *("CURRENT", "collection.json", "checksums.json", "lock"),
    *("items.lance/data", "items.lance/_versions", "items.lance/_transactions", "items.lance/_deletions"),
    *("latest_version_hint.json", "vectors/", "snapshots/", "quarantine/"),
    *("rows.npy", "strings.bin", "dirs.npy", "vectors.npy", "tokens.npy", "index.faiss"),
)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, tiny_itm_model_dir: Path) -> Stored:
    """A collection with a file of every kind: two models, tokens, a FAISS index, something in quarantine."""
    base = tmp_path_factory.mktemp("flips")
    other = load_model(write_tiny_model(base / "other", seed=1), threads=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vector_index, "EXACT_MAX_ROWS", 6)
        patch.setattr(segment_writer, "FLOAT32_MAX_ROWS", 6)
        stored = build(base, load_model(tiny_itm_model_dir, threads=1), kept=other)
    (stored.directory / "quarantine").mkdir()
    (stored.directory / "quarantine" / "old.manifest").write_bytes(b"what was moved aside")
    return stored


def kind_of(path: Path, directory: Path) -> str | None:
    name = path.relative_to(directory).as_posix()
    return next((kind for kind in KINDS if kind in name), None)


def test_the_collection_has_a_file_of_every_kind_and_is_whole(stored: Stored) -> None:
    kinds = {kind_of(path, stored.directory) for path in stored.files()}
    assert kinds - {"index.faiss"} >= set(KINDS) - {"index.faiss"}
    for read_data in (False, True):
        report = check(stored.directory, read_data=read_data)
        assert report.ok, report.damaged
        assert report.unrecorded == 0
        assert report.quarantine == (str(stored.directory / "quarantine" / "old.manifest"),)


def missed(stored: Stored, flips_a_file: int) -> tuple[int, list[str]]:
    """How many bits were flipped, one at a time, and which were not found."""
    random = np.random.default_rng(7)
    tried, lost = 0, []
    for path in stored.files():
        if "quarantine" in path.parts:
            continue
        size = path.stat().st_size
        places = {*random.integers(0, size, flips_a_file).tolist(), 0, size - 1}
        for place in sorted(places)[: flips_a_file if flips_a_file < 3 else None]:
            bit = int(random.integers(8))
            flip(path, place, bit)
            report = check(stored.directory, read_data=True)
            if report.ok or all(Path(each.path) != path for each in report.damaged):
                lost.append(f"{path}: byte {place}, bit {bit}")
            flip(path, place, bit)
            tried += 1
    return tried, lost


@pytest.mark.case("F25")
@pytest.mark.promise("R7")
def test_every_flipped_bit_is_found_and_its_file_named(stored: Stored) -> None:
    tried, lost = missed(stored, 1)
    assert lost == []
    assert tried >= len(list(stored.files())) - 1
    assert check(stored.directory, read_data=True).ok


@pytest.mark.full
@pytest.mark.case("F25")
@pytest.mark.promise("R7")
def test_many_flipped_bits_are_found_in_every_file(stored: Stored) -> None:
    tried, lost = missed(stored, 12)
    assert lost == []
    assert tried > 1000
