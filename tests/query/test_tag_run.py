"""Which snapshots a run of tagging holds, and when it lets go of them."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest
from small_collection import SmallCollection, write_small_collection
from tiny_model import COLOURS, write_tiny_model

from mmsearch.collection import Collection
from mmsearch.errors import CollectionMismatch, ModelError
from mmsearch.model import Model, load_model
from mmsearch.settings import Settings
from mmsearch.snapshot import Snapshot
from mmsearch.tag_run import TagRequest, open_stored, run_tag

SETTINGS = Settings(threads=1, workers=1)
REQUEST = TagRequest(tuple(COLOURS), templates=("{}",))


@pytest.fixture(scope="module")
def tiny(tiny_model_dir: Path) -> Model:
    return load_model(tiny_model_dir, threads=1)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, tiny: Model) -> SmallCollection:
    return write_small_collection(tmp_path_factory.mktemp("small"), tiny)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Snapshot]:
    """Every snapshot that is opened."""
    snapshots: list[Snapshot] = []
    real = Snapshot.open

    def open_and_remember(directory: Path, **options: object) -> Snapshot:
        snapshots.append(real(directory, **options))  # type: ignore[arg-type]
        return snapshots[-1]

    monkeypatch.setattr(Snapshot, "open", open_and_remember)
    return snapshots


def is_closed(snapshot: Snapshot) -> bool:
    return snapshot.segments == ()


def fail(*_: object, **__: object) -> None:
    raise ModelError("the text tower is broken")


@pytest.mark.parametrize("end", ["the last photo", "close"])
def test_the_snapshot_is_closed_with_the_photos(tiny: Model, small: SmallCollection, end: str) -> None:
    snapshot = Snapshot.open(small.directory)
    photos = run_tag(tiny, REQUEST, settings=SETTINGS, snapshot=snapshot)
    next(photos)
    assert not is_closed(snapshot)
    assert len(list(photos)) == 7 if end == "the last photo" else photos.close() is None  # type: ignore[attr-defined]
    assert is_closed(snapshot)


def test_photos_that_nobody_asks_for_take_the_snapshot_with_them(tiny: Model, small: SmallCollection) -> None:
    snapshot = Snapshot.open(small.directory)
    segment = weakref.ref(snapshot.segments[0])
    photos = run_tag(tiny, REQUEST, settings=SETTINGS, snapshot=snapshot)
    del snapshot, photos
    gc.collect()
    assert segment() is None


def test_labels_that_cannot_be_embedded_close_the_snapshot(
    tiny: Model, small: SmallCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = Snapshot.open(small.directory)
    monkeypatch.setattr(Model, "encode_texts", fail)
    with pytest.raises(ModelError, match="is broken"):
        run_tag(tiny, REQUEST, settings=SETTINGS, snapshot=snapshot)
    assert is_closed(snapshot)


def test_another_model_closes_the_snapshot(tmp_path: Path, small: SmallCollection) -> None:
    other = load_model(write_tiny_model(tmp_path / "other", seed=1), threads=1)
    snapshot = Snapshot.open(small.directory)
    with pytest.raises(CollectionMismatch):
        run_tag(other, REQUEST, settings=SETTINGS, snapshot=snapshot)
    assert is_closed(snapshot)


def test_a_model_that_is_not_found_closes_the_snapshot(
    tmp_path: Path, small: SmallCollection, opened: list[Snapshot], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError):
        open_stored(small.directory, str(tmp_path / "nowhere"), SETTINGS)
    monkeypatch.setattr("mmsearch.model_lookup.load_model", fail)
    with pytest.raises(ModelError, match="is not found"):
        Collection.open(small.directory, settings=SETTINGS).tag(["a", "b"])
    assert [is_closed(each) for each in opened] == [True, True]
