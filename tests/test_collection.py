"""The object users hold: opening, adding, searching, and what it says about itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_model import COLOURS, write_tiny_model

import mmsearch
from mmsearch import manifest as manifests
from mmsearch.collection import Collection
from mmsearch.durable import WriterLock
from mmsearch.settings import Settings

SETTINGS = Settings(threads=1, workers=1)
LONG_AGO_NS = 1_500_000_000 * 10**9


def paint(folder: Path, name: str, colour: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 12), COLOURS[colour]).save(path)
    os.utime(path, ns=(LONG_AGO_NS, LONG_AGO_NS))
    return path


@dataclass(frozen=True)
class Place:
    """A folder of photos, the directory of its collection, and the model that built it."""

    photos: Path
    directory: Path
    model: Path

    def open(self) -> Collection:
        return Collection.open(self.directory, model=self.model, settings=SETTINGS)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Place:
    """Three pictures, two captions and a file that cannot be read, indexed. Shared, so only read it."""
    base = tmp_path_factory.mktemp("built")
    for colour in ("red", "green", "blue"):
        paint(base / "photos", f"{colour}.png", colour)
    (base / "photos/captions.csv").write_text("caption\nred and white\nblack\n", encoding="utf-8")
    (base / "photos/broken\udcff.jpg").write_bytes(b"<html>")
    for name in os.listdir(base / "photos"):
        os.utime(base / "photos" / name, ns=(LONG_AGO_NS, LONG_AGO_NS))
    place = Place(base / "photos", base / "collection", tiny_model_dir)
    with place.open() as collection:
        report = collection.add([place.photos])
    assert (report.indexed, report.items, len(report.skipped)) == (4, 5, 1)
    return place


@pytest.fixture
def place(built: Place, tmp_path: Path) -> Place:
    """`built`, to write to."""
    shutil.copytree(built.directory, tmp_path / "collection")
    return Place(built.photos, tmp_path / "collection", built.model)


@pytest.fixture
def open_built(built: Place) -> Iterator[Collection]:
    with built.open() as collection:
        yield collection


def test_opening_makes_nothing_and_asking_says_how_to_make_it(tmp_path: Path, tiny_model_dir: Path) -> None:
    directory = tmp_path / "new"
    with Collection.open(directory, model=tiny_model_dir) as collection:
        for ask in (lambda: collection.search("red"), collection.info, lambda: list(collection.errors())):
            with pytest.raises(mmsearch.CollectionNotFound, match=r"mmsearch index"):
                ask()
    assert not directory.exists()


def test_the_first_add_makes_it_and_says_what_it_did(tmp_path: Path, tiny_model_dir: Path) -> None:
    paint(tmp_path / "photos", "red.png", "red")
    with Collection.open(tmp_path / "new", model=tiny_model_dir, settings=SETTINGS) as collection:
        report = collection.add(tmp_path / "photos")
        assert (report.indexed, report.items) == (1, 1)
        assert [hit.path for hit in collection.search("red")] == [str(tmp_path / "photos/red.png")]
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_every_direction_finds_what_it_should(open_built: Collection, built: Place) -> None:
    def names(hits: list[mmsearch.Hit]) -> list[str]:
        return [hit.text or Path(hit.path).name for hit in hits]

    assert names(open_built.search("green", k=1)) == ["green.png"]
    assert names(open_built.search(image=built.photos / "blue.png", k=1)) == ["blue.png"]
    assert names(open_built.search(image=np.zeros((8, 8, 3), np.uint8), to="texts", k=1)) == ["black"]
    assert names(open_built.search("red white", to="texts", k=1)) == ["red and white"]
    assert names(open_built.search("red", image=built.photos / "red.png", k=1)) == ["red.png"]


def test_the_options_of_a_search_reach_it(open_built: Collection, built: Place) -> None:
    assert len(open_built.search("red", k=2)) == 2
    assert [hit.similarity >= 0.9 for hit in open_built.search("red", min_similarity=0.9)] == [True]
    assert open_built.search("red", under=built.photos.parent / "collection") == []
    with pytest.raises(mmsearch.UsageError, match="nowhere: there is no such folder"):
        open_built.search("red", under=built.photos / "nowhere")
    with pytest.raises(mmsearch.UsageError):
        open_built.search()


def test_what_another_process_adds_is_found_by_the_next_search(place: Place, tmp_path: Path) -> None:
    with place.open() as reader, place.open() as writer:
        assert [hit.similarity > 0.99 for hit in reader.search("yellow", k=1)] == [False]
        paint(tmp_path / "more", "yellow.png", "yellow")
        assert writer.add([tmp_path / "more"]).indexed == 1
        assert [hit.path for hit in reader.search("yellow", k=1)] == [str(tmp_path / "more/yellow.png")]
        assert reader.info().images == 4


def test_another_model_is_refused_by_name_and_with_a_way_out(built: Place, tmp_path: Path) -> None:
    other = write_tiny_model(tmp_path / "other", name="other", seed=1)
    with pytest.raises(mmsearch.CollectionMismatch, match=r"'tiny'.*'other'.*new collection"):
        Collection.open(built.directory, model=other)


def test_a_model_of_another_name_with_the_same_embeddings_is_the_same_model(built: Place, tmp_path: Path) -> None:
    twin = write_tiny_model(tmp_path / "twin", name="twin")
    with Collection.open(built.directory, model=twin) as collection:
        assert len(collection.search("red", k=3)) == 3


def test_without_a_model_it_tells_about_itself(built: Place) -> None:
    with Collection.open(built.directory, model=None) as collection:
        assert collection.info().model == "tiny"
        assert len(list(collection.errors())) == 1


def test_a_folder_of_something_else_is_refused(tmp_path: Path, tiny_model_dir: Path) -> None:
    (tmp_path / "letter.txt").touch()
    with pytest.raises(mmsearch.CollectionError, match="not a collection"):
        Collection.open(tmp_path, model=tiny_model_dir)


def test_info_counts_what_can_be_found_and_what_failed(built: Place, open_built: Collection) -> None:
    info = open_built.info()
    assert (info.images, info.texts, info.partial, info.missing) == (3, 2, 0, 0)
    assert info.failed == ((mmsearch.Reason.UNIDENTIFIED, 1),)
    assert (info.model, info.dim, info.fingerprint) == ("tiny", 16, open_built.model.fingerprint)
    assert info.roots == (mmsearch.RootInfo(str(built.photos), None),)
    assert (info.format, info.snapshot, info.index_kinds, info.segments) == (1, 1, ("exact",), 2)
    assert info.path == str(built.directory)
    assert info.disk_bytes == sum(path.stat().st_size for path in built.directory.rglob("*") if path.is_file())


def test_info_and_errors_leave_out_what_is_gone(place: Place, tmp_path: Path) -> None:
    moved = tmp_path / "photos"
    shutil.copytree(place.photos, moved, copy_function=shutil.copy2)
    with place.open() as collection:
        collection.add(moved)
        assert len(list(collection.errors())) == 2
        (moved / "broken\udcff.jpg").unlink()
        (moved / "red.png").unlink()
        collection.add(moved)
        info = collection.info()
        assert (info.images, info.missing, dict(info.failed)) == (6, 1, {mmsearch.Reason.UNIDENTIFIED: 1})
        assert [each.path for each in collection.errors()] == [f"{place.photos}/broken\udcff.jpg"]


@pytest.mark.promise("R4")
def test_errors_name_path_reason_and_detail(built: Place, open_built: Collection) -> None:
    (error,) = open_built.errors()
    assert error.path == f"{built.photos}/broken\udcff.jpg"
    assert Path(error.path).exists()
    assert error.reason is mmsearch.Reason.UNIDENTIFIED
    assert "<html>" in error.detail


def test_errors_can_be_read_beside_a_run(built: Place, open_built: Collection) -> None:
    with WriterLock(built.directory):
        assert len(list(open_built.errors())) == 1


def test_reading_errors_keeps_no_writer_out(built: Place, open_built: Collection) -> None:
    errors = open_built.errors()
    next(errors)
    with WriterLock(built.directory):
        assert list(errors) == []


def test_reading_errors_makes_no_tables(place: Place) -> None:
    shutil.rmtree(place.directory / "items.lance")
    shutil.rmtree(place.directory / "vectors")
    before = sorted(place.directory.rglob("*"))
    with place.open() as collection:
        assert list(collection.errors()) == []
    assert sorted(place.directory.rglob("*")) == before


def test_a_refused_prune_still_tells_what_was_done(place: Place, tmp_path: Path) -> None:
    folder = tmp_path / "more"
    for number in range(30):
        paint(folder, f"{number}.png", "red")
    with place.open() as collection:
        collection.add(folder)
        for number in range(25):
            (folder / f"{number}.png").unlink()
        paint(folder, "new.png", "blue")
        with pytest.raises(mmsearch.PruneRefused) as caught:
            collection.add(folder, prune=True)
    report = caught.value.report
    assert report is not None
    assert (report.indexed, report.unchanged, report.removed) == (1, 5, 0)


def test_a_collection_that_was_never_published_holds_nothing(place: Place) -> None:
    (place.directory / "CURRENT").unlink()
    shutil.rmtree(place.directory / "snapshots")
    marker = manifests.read(place.directory)
    (place.directory / manifests.FILE_NAME).unlink()
    manifests.write(place.directory, replace(marker, published=False))
    with place.open() as collection:
        info = collection.info()
        assert (info.snapshot, info.images, info.segments, info.model) == (0, 0, 0, "tiny")
        assert len(list(collection.errors())) == 1
        assert collection.add(place.photos).items == 5
        assert collection.info().images == 3


def test_options_of_an_add_reach_the_run(place: Place, tmp_path: Path) -> None:
    folder = tmp_path / "more"
    red = paint(folder, "red.png", "red")
    (folder / "bad.png").write_bytes(b"<html>")
    heard: list[mmsearch.Progress] = []
    with place.open() as collection:
        assert collection.add(folder, progress=heard.append).indexed == 1
        assert heard[-1] == mmsearch.Progress("publish", 1, 1)
        assert collection.add(folder).failed_before == 1
        assert [each.reason for each in collection.add(folder, retry_failed=True).skipped] == ["unidentified"]
        assert collection.add(folder, verify=True).unchanged == 1
        red.unlink()
        assert collection.add(folder, prune=True).removed == 1
        (folder / "bad.png").unlink()
        with pytest.raises(mmsearch.PruneRefused):
            collection.add(folder, prune=True)
        assert collection.add(folder, prune=True, force=True).removed == 1


def test_a_closed_collection_opens_again_when_it_is_used(built: Place) -> None:
    collection = built.open()
    with collection:
        first = collection.search("red", k=1)
    assert collection.search("red", k=1) == first
    collection.close()


def test_a_name_leads_to_the_users_data_directory(tiny_model_dir: Path) -> None:
    collection = mmsearch.open("holiday", model=tiny_model_dir)
    assert collection.directory == Path(os.environ["XDG_DATA_HOME"], "mmsearch", "collections", "holiday")


def test_opening_and_importing_load_nothing_heavy(built: Place) -> None:
    code = (
        "import sys, mmsearch, mmsearch.collection\n"
        f"collection = mmsearch.open({str(built.directory)!r}, model={str(built.model)!r})\n"
        "heavy = {'torch', 'lancedb', 'lance', 'faiss', 'onnxruntime', 'pyarrow', 'tokenizers'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "collection.info()\n"
        "assert collection.search('red', k=1)\n"
        "print(sorted({'torch', 'lancedb', 'lance', 'pyarrow'} & set(sys.modules)))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.splitlines() == ["[]", "[]"]


def test_search_passes_on_whether_to_rerank_and_how_much_the_text_counts(
    tmp_path: Path, tiny_itm_model_dir: Path
) -> None:
    for colour in ("red", "green", "blue"):
        paint(tmp_path / "photos", f"{colour}.png", colour)
    place = Place(tmp_path / "photos", tmp_path / "collection", tiny_itm_model_dir)
    with place.open() as collection:
        collection.add(place.photos)
        assert collection.info().matchable == 3
        assert all(hit.match_prob is not None for hit in collection.search("red"))
        assert all(hit.match_prob is None for hit in collection.search("red", rerank=False))
        for weight, colour in ((0.0, "green"), (1.0, "red")):
            first, *_ = collection.search("red", image=place.photos / "green.png", text_weight=weight)
            assert first.path == str(place.photos / f"{colour}.png")
