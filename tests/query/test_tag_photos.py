"""Photos on the disk, not indexed: read by real decode processes, tagged, and not kept."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_model import COLOURS

from mmsearch import encoder, tag_photos
from mmsearch.collection import Collection
from mmsearch.errors import ModelError, UsageError
from mmsearch.progress import Progress
from mmsearch.settings import Settings
from mmsearch.types import PhotoTags, Reason, Skipped

SETTINGS = Settings(threads=1, workers=1)
BARE = ["{}"]


def paint(folder: Path, name: str, colour: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 12), COLOURS[colour]).save(path)
    return path


@pytest.fixture
def collection(tmp_path: Path, tiny_model_dir: Path) -> Iterator[Collection]:
    with Collection.open(tmp_path / "collection", model=tiny_model_dir, settings=SETTINGS) as opened:
        yield opened
    assert not (tmp_path / "collection").exists(), "tagging photos on the disk makes no collection"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Every colour twice, in two folders, with things that are no photos between them."""
    folder = tmp_path / "photos"
    for number, colour in enumerate(COLOURS):
        paint(folder, f"{number}.png", colour)
        paint(folder, f"more/{colour}.jpg", colour)
    (folder / "notes.txt").write_text("red", encoding="utf-8")
    (folder / "film.mov").write_bytes(b"moov")
    return folder


def test_each_photo_gets_its_label_in_the_order_of_the_walk(collection: Collection, photos: Path) -> None:
    found = list(collection.tag(COLOURS, paths=photos, k=1, templates=BARE))
    names = [*(f"{number}.png" for number in range(8)), *(f"more/{colour}.jpg" for colour in sorted(COLOURS))]
    assert [each.path for each in found] == [str(photos / name) for name in names]
    assert [each.tags[0].label for each in found] == [*COLOURS, *sorted(COLOURS)]
    assert all((each.id, each.missing, each.skipped) == (None, False, None) for each in found)


def test_fresh_and_stored_embeddings_agree(tmp_path: Path, photos: Path, tiny_model_dir: Path) -> None:
    labels = [*COLOURS, "a red dog", "something blue"]
    with Collection.open(tmp_path / "indexed", model=tiny_model_dir, settings=SETTINGS) as collection:
        collection.add(photos)
        fresh = {each.path: each.tags for each in collection.tag(labels, paths=[photos])}
        stored = {each.path: each.tags for each in collection.tag(labels, under=photos)}
        assert fresh.keys() == stored.keys()
        assert len(fresh) == 16
        for path, tags in fresh.items():
            expected = {tag.label: tag.probability for tag in tags}
            # The tables keep half precision.
            assert {tag.label: tag.probability for tag in stored[path]} == pytest.approx(expected, abs=0.01)
            assert stored[path][0].similarity == pytest.approx(tags[0].similarity, abs=1e-3)


def test_what_cannot_be_read_is_skipped_in_its_place_and_costs_only_itself(
    collection: Collection, photos: Path
) -> None:
    (photos / "0.png").write_bytes(b"<html>")
    (photos / "1.png").write_bytes(b"")
    (photos / "2.png").unlink()
    os.mkfifo(photos / "2.png")
    found = list(collection.tag(COLOURS, paths=[photos], templates=BARE))
    assert len(found) == 16
    assert [each.skipped.reason for each in found[:3] if each.skipped] == [
        Reason.UNIDENTIFIED,
        Reason.EMPTY,
        Reason.UNIDENTIFIED,
    ]
    assert found[2].skipped == Skipped(str(photos / "2.png"), Reason.UNIDENTIFIED, "a FIFO, not a regular file")
    assert all((each.tags == ()) == (each.skipped is not None) for each in found)
    assert all(each.skipped is None for each in found[3:])


def test_a_folder_of_nothing_but_rubbish_asks_the_model_nothing(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder, "IMAGES_AT_ONCE", 2)
    for number in range(5):
        (tmp_path / f"{number}.jpg").write_bytes(b"rubbish")
    found = list(collection.tag(["red", "blue"], paths=tmp_path))
    assert [each.skipped and each.skipped.reason for each in found] == [Reason.UNIDENTIFIED] * 5


def test_a_folder_with_nothing_to_decode_still_says_what_is_there(collection: Collection, tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()
    os.mkfifo(tmp_path / "odd/pipe.png")
    (found,) = collection.tag(["red", "blue"], paths=tmp_path / "odd")
    assert found.skipped is not None
    assert "FIFO" in found.skipped.detail


def test_a_single_file_is_tried_whatever_its_name(collection: Collection, photos: Path) -> None:
    picture = (photos / "more/red.jpg").rename(photos / "picture.txt")
    found = list(collection.tag(COLOURS, paths=[picture, photos / "film.mov"], templates=BARE, k=1))
    by_name = {Path(each.path).name: each for each in found}
    assert [tag.label for tag in by_name["picture.txt"].tags] == ["red"]
    assert by_name["film.mov"].skipped is not None


def test_folders_inside_others_are_not_tagged_twice(collection: Collection, photos: Path) -> None:
    found = list(collection.tag(COLOURS, paths=[photos / "more", photos, photos / "0.png"]))
    assert len({each.path for each in found}) == len(found) == 16


def test_names_of_any_bytes_can_be_opened(collection: Collection, tmp_path: Path) -> None:
    odd = paint(tmp_path / "odd", "red.png", "red").rename(tmp_path / "odd" / os.fsdecode(b"\xff\n.png"))
    (found,) = collection.tag(COLOURS, paths=[os.fsencode(tmp_path / "odd")], templates=BARE)
    assert found.path == str(odd)
    assert Path(found.path).exists()


def test_a_folder_that_cannot_be_listed_is_skipped(
    collection: Collection, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.scandir

    def scandir(path: bytes) -> object:
        if path.endswith(b"/more"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = list(collection.tag(COLOURS, paths=[photos]))
    assert len(found) == 9
    assert found[-1].skipped == Skipped(str(photos / "more"), Reason.PERMISSION, "cannot be read: Permission denied")


def test_links_are_not_followed_and_that_is_said(
    collection: Collection, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (photos / "link.png").symlink_to(photos / "0.png")
    assert len(list(collection.tag(COLOURS, paths=[photos]))) == 16
    assert [each.getMessage() for each in caplog.records] == [
        "1 link was not followed: give the folders they lead into"
    ]
    with pytest.raises(UsageError, match="is a link"):
        collection.tag(COLOURS, paths=[photos / "link.png"])


def test_a_path_that_is_not_there_is_refused_at_once(collection: Collection, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere: there is no such folder or file"):
        collection.tag(COLOURS, paths=tmp_path / "nowhere")


def test_a_slow_photo_holds_back_those_behind_it_and_no_pixels(collection: Collection, photos: Path) -> None:
    def photo(number: int) -> PhotoTags:
        return PhotoTags(str(number), ())

    given: list[int] = []

    def finished() -> Iterator[tuple[int, PhotoTags]]:
        for number in (1, 2, 0, 4, 3):
            given.append(number)
            yield number, photo(number)

    ordered = tag_photos._in_order(finished())
    assert next(ordered) == photo(0)
    assert given == [1, 2, 0]
    assert list(ordered) == [photo(number) for number in (1, 2, 3, 4)]


def test_a_model_that_fails_ends_the_run_with_its_complaint(
    collection: Collection, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object, pixels: np.ndarray) -> np.ndarray:
        raise ModelError("the image tower is broken")

    monkeypatch.setattr("mmsearch.encoder.OnnxEncoder.encode_pixels", fail)
    with pytest.raises(ModelError, match="is broken"):
        list(collection.tag(COLOURS, paths=[photos]))


def test_stopping_early_ends_the_decode_processes(
    collection: Collection, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools = []

    class Pool(tag_photos.DecodePool):
        def close(self) -> None:
            pools.append(self)
            super().close()

    monkeypatch.setattr(tag_photos, "DecodePool", Pool)
    found = collection.tag(COLOURS, paths=[photos])
    next(found)
    found.close()
    assert len(pools) == 1
    assert pools[0]._lanes == []


def test_progress_counts_photos_without_knowing_how_many_there_will_be(collection: Collection, photos: Path) -> None:
    heard: list[Progress] = []
    list(collection.tag(COLOURS, paths=[photos], progress=heard.append))
    told = [each for each in heard if each.phase == "tag"]
    assert told[0] == Progress("tag", 1, None)
    assert told[-1] == Progress("tag", 16, 16)
