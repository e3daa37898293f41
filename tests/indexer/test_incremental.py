"""However a folder came to be what it is, with runs in between, the collection is the one a fresh run would build."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from photo_library import Library

from mmsearch.indexer.decode import DecodePool
from mmsearch.indexer.pipeline import IndexOptions, index
from mmsearch.indexer.write import BatchLimits

FULL = os.environ.get("MMSEARCH_TEST_FULL") == "1"  # read now: tests run without the variables of whoever runs them
NAMES = st.sampled_from(["a.png", "b.png", "c.jpg", "d/a.png", "d/e/f.png", "n.csv", "d/n.csv", "m.txt"])
SEEDS = st.integers(0, 4)
FOLDERS = st.sampled_from(["d", "d/e", "x"])


class History(RuleBasedStateMachine):
    """A folder to which things happen, and runs of indexing in between."""

    base: Path
    model_directory: Path
    pool: DecodePool
    runs = 0

    @initialize()
    def begin(self) -> None:
        shutil.rmtree(self.base, ignore_errors=True)
        self.base.mkdir()
        self.library = Library(self.base, self.model_directory, self.pool)
        self.indexed = False

    @rule(name=NAMES, seed=SEEDS)
    def write(self, name: str, seed: int) -> None:
        path = self.library.photos / name
        assume(not path.is_dir() and not any(each.is_file() for each in path.parents))
        if name.endswith(".csv"):
            self.library.captions(name, *[f"text {number}" for number in range(seed + 1)])
        elif name.endswith(".txt"):
            self.library.data(name, b"text %d" % seed)
        elif seed == 4:
            self.library.data(name, b"<html>")
        else:
            self.library.photo(name, seed)

    @rule(name=NAMES)
    def remove(self, name: str) -> None:
        (self.library.photos / name).unlink(missing_ok=True)

    @rule(name=NAMES, other=NAMES)
    def rename(self, name: str, other: str) -> None:
        path, target = self.library.photos / name, self.library.photos / other
        assume(path.is_file() and path.suffix == target.suffix)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)

    @rule(name=NAMES, other=NAMES)
    def copy(self, name: str, other: str) -> None:
        path, target = self.library.photos / name, self.library.photos / other
        assume(path.is_file() and path.suffix == target.suffix and name != other)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)

    @rule(folder=FOLDERS, other=FOLDERS)
    def rename_folder(self, folder: str, other: str) -> None:
        path, target = self.library.photos / folder, self.library.photos / other
        assume(path.is_dir() and not target.exists() and target.parent.is_dir() and not target.is_relative_to(path))
        path.rename(target)

    @rule(folder=FOLDERS, prune=st.booleans(), verify=st.booleans(), batch=st.sampled_from([1, 2, 256]))
    def run_on_a_folder(self, folder: str, prune: bool, verify: bool, batch: int) -> None:
        assume((self.library.photos / folder).is_dir())
        self.run(self.library.photos / folder, prune=prune, verify=verify, batch=batch)

    @rule(prune=st.booleans(), verify=st.booleans(), batch=st.sampled_from([1, 2, 256]))
    def run_on_everything(self, prune: bool, verify: bool, batch: int) -> None:
        self.run(self.library.photos, prune=prune, verify=verify, batch=batch)
        self.indexed = True

    def run(self, path: Path, *, prune: bool, verify: bool, batch: int) -> None:
        limits = BatchLimits(files=batch)
        self.library.index(path, options=IndexOptions(prune=prune, force=prune, verify=verify, batch=limits))

    @invariant()
    def ids_and_keys_are_unique(self) -> None:
        if self.library.collection.exists():
            items = self.library.items()  # asserts that no key comes twice
            assert len({item.id for item in items.values()}) == len(items)

    def teardown(self) -> None:
        if not hasattr(self, "library"):
            return
        files = [path for path in self.library.photos.rglob("*") if path.is_file()]
        self.run(self.library.photos, prune=bool(files), verify=False, batch=256)
        fresh = Library.__new__(Library)
        fresh.__dict__.update(self.library.__dict__)
        fresh.collection = self.base / "fresh"
        index(fresh.collection, [self.library.photos], self.library.model, IndexOptions())
        if files:
            assert comparable(self.library) == comparable(fresh)
        found, expected = self.library.found(), fresh.found()
        assert found.keys() == expected.keys()
        assert all(found[key] @ expected[key] > 0.9999 for key in expected)


def comparable(library: Library) -> dict[tuple[bytes, int], tuple[object, ...]]:
    return {
        key: (item.hash, item.size, item.mtime_ns, item.kind, item.status, item.reason, item.text, item.locator)
        for key, item in library.items().items()
        if item.missing_since is None
    }


@pytest.mark.usefixtures("library")
def test_an_incremental_build_equals_a_fresh_one(tmp_path: Path, tiny_model_dir: Path, warm_pool: DecodePool) -> None:
    History.base, History.model_directory, History.pool = tmp_path / "history", tiny_model_dir, warm_pool
    run_state_machine_as_test(
        History,
        settings=settings(
            max_examples=100 if FULL else 8,
            stateful_step_count=25 if FULL else 12,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
