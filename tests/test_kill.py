"""Indexing may be ended at any moment: the next run goes on, and nothing is lost, doubled, or embedded a second time.

The moments are spread over the events of an uninterrupted run, not over its time, so they mean the same on any machine.
`MMSEARCH_TEST_MODEL` names a model to use instead of the tiny one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
from photo_scenes import MODEL, Outcome, assert_same, change, fill, outcome, stored_items

from mmsearch import manifest as manifests
from mmsearch.errors import CollectionNotFound
from mmsearch.indexer.decode import DecodePool
from mmsearch.indexer.pipeline import IndexOptions, index
from mmsearch.model import Model, load_model
from mmsearch.snapshot import Snapshot

CHECKOUT = Path(__file__).resolve().parents[1]
AT_ONCE = 2


@dataclass(frozen=True)
class Scene:
    """A folder to index, what to index it with, and what the collection was before: `start`, None for nothing."""

    photos: Path
    model_name: str
    start: Path | None
    expected: Outcome
    events: int

    @property
    def model(self) -> Model:
        return load_model(self.model_name, threads=1)


# -- runs that are ended -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def running(scene_model: str, collection: Path, photos: Path) -> Iterator[subprocess.Popen[str]]:
    """A run in a process group of its own. At the end the whole group is gone, whatever happened."""
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, str(CHECKOUT / "tests/run_to_kill.py"), str(collection), scene_model, str(photos)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def events_of(scene_model: str, collection: Path, photos: Path) -> list[str]:
    """The events of a run that nobody ends."""
    with running(scene_model, collection, photos) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out.splitlines()


def end_at(scene: Scene, collection: Path, moment: int, number: signal.Signals, *, group: bool) -> str | None:
    """Ends a run a few milliseconds after event `moment`; the event, or None if the run came to its end before.

    No process of the run is left when this returns.
    """
    with running(scene.model_name, collection, scene.photos) as process:
        assert process.stdout is not None
        event = ""
        for _ in range(moment + 1):
            event = process.stdout.readline()
            if not event:
                break
        else:
            time.sleep(moment % 5 / 1000)
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        os.killpg(process.pid, number) if group else process.send_signal(number)
        process.communicate(timeout=60)
        _, alive = psutil.wait_procs(family, timeout=20)
        assert not alive, f"orphans of a run that was ended at event {moment} ({event.strip()}): {alive}"
    return event.strip() or None


def scene_of(base: Path, photos: Path, model_name: str, start: Path | None) -> Scene:
    """The scene, with what an uninterrupted run makes of it."""
    collection = base / "uninterrupted"
    if start is not None:
        shutil.copytree(start, collection)
    events = events_of(model_name, collection, photos)
    return Scene(photos, model_name, start, outcome(collection, load_model(model_name)), len(events))


@pytest.fixture(scope="module")
def model_name(tmp_path_factory: pytest.TempPathFactory, tiny_itm_model_dir: Path) -> str:
    return MODEL or str(tiny_itm_model_dir)


@pytest.fixture(scope="module")
def first_build(tmp_path_factory: pytest.TempPathFactory, model_name: str) -> Scene:
    """A folder that has never been indexed."""
    base = tmp_path_factory.mktemp("first")
    fill(base / "photos")
    return scene_of(base, base / "photos", model_name, None)


@pytest.fixture(scope="module")
def update(tmp_path_factory: pytest.TempPathFactory, model_name: str) -> Scene:
    """A folder that was indexed, and has changed since."""
    base = tmp_path_factory.mktemp("update")
    fill(base / "photos")
    start = base / "start"
    index(start, [base / "photos"], load_model(model_name), IndexOptions(workers=2))
    change(base / "photos")
    return scene_of(base, base / "photos", model_name, start)


def moments(scene: Scene, count: int) -> list[int]:
    """`count` events, from the first to the one before the last."""
    return [int(event) for event in np.linspace(0, scene.events - 2, count)]


def collection_at(base: Path, scene: Scene, moment: int) -> Path:
    collection = base / f"killed-{moment}"
    if scene.start is not None:
        shutil.copytree(scene.start, collection)
    return collection


@pytest.fixture
def one_pool(model_name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Runs in this process share one decode process, which takes longer to start than they take."""
    with DecodePool(load_model(model_name).preprocess, workers=1, deadline_s=20) as pool:
        monkeypatch.setattr(pool, "close", lambda: None)
        monkeypatch.setattr("mmsearch.indexer.pipeline.DecodePool", lambda *_, **__: pool)
        yield
        monkeypatch.undo()


@pytest.mark.case("F2")
@pytest.mark.promise("R2")
@pytest.mark.usefixtures("one_pool")
@pytest.mark.parametrize(("name", "count"), [("first_build", 20), ("update", 8)])
def test_a_run_killed_anywhere_and_repeated_ends_like_one_that_was_not(
    name: str, count: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    scene: Scene = request.getfixturevalue(name)
    chosen = moments(scene, count)
    collections = [collection_at(tmp_path, scene, moment) for moment in chosen]

    def kill(place: int) -> str | None:
        return end_at(scene, collections[place], chosen[place], signal.SIGKILL, group=place % 2 == 0)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        ended_at = list(pool.map(kill, range(len(chosen))))
    assert sum(event is not None for event in ended_at) >= len(chosen) - 2
    for collection, event in zip(collections, ended_at, strict=True):
        before = committed(collection, scene)
        report = index(collection, [scene.photos], scene.model, IndexOptions(workers=1))
        assert_same(outcome(collection, scene.model), scene.expected)
        if scene.start is None:
            files = len({key[0] for key, each in scene.expected.rows.items() if each[1] == "ok"})
            assert report.indexed == files - before, f"killed at {event}"
            assert report.unchanged == before, f"killed at {event}"


def committed(collection: Path, scene: Scene) -> int:
    """The number of good files in the tables of a collection that a killed run left."""
    try:
        manifest = manifests.read(collection)
    except CollectionNotFound:
        return 0
    if manifest.model is None:
        return 0
    return len({item.path for item in stored_items(collection, scene.model) if item.found})


@pytest.mark.case("F8")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_asked_to_stop_publishes_what_it_has(update: Scene, tmp_path: Path, number: signal.Signals) -> None:
    collection = collection_at(tmp_path, update, 0)
    assert end_at_progress(update, collection, number) == 130
    with Snapshot.open(collection) as snapshot:
        published = len(snapshot.live_keys()[0])
    assert published == sum(item.found for item in stored_items(collection, update.model))
    index(collection, [update.photos], update.model, IndexOptions(workers=1))
    assert_same(outcome(collection, update.model), update.expected)


def end_at_progress(scene: Scene, collection: Path, number: signal.Signals) -> int:
    """The exit code of a run whose whole group gets the signal in the middle of its files."""
    with running(scene.model_name, collection, scene.photos) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("put ends"):
                break
        family = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, number)
        out, err = process.communicate(timeout=60)
        assert not psutil.wait_procs(family, timeout=20)[1]
    assert "Traceback" not in err
    assert "finished" in out
    return process.returncode
