"""What stands where a file belongs and is none is never waited for: it is named, and `repair` moves it aside."""

from __future__ import annotations

import faulthandler
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from stored_collection import Stored, build, write_photos

from mmsearch.collection import Collection
from mmsearch.errors import CollectionDamaged
from mmsearch.indexer.check import check
from mmsearch.indexer.repair import Remake, repair
from mmsearch.model import load_model
from mmsearch.settings import Settings
from mmsearch.snapshot import Snapshot
from mmsearch.store_prune import manifests
from mmsearch.types import RepairReport

# Far more than any of this takes. What waits inside of a library for a FIFO hears no signal.
_SECONDS = 120


def _directory(path: Path) -> None:
    path.mkdir()
    (path / "letter.txt").write_text("dear")


def _socket(path: Path) -> None:
    # The name of a socket is short.
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(before)


KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "FIFO": (os.mkfifo, "is a FIFO, not a file"),
    "socket": (_socket, "is a socket, not a file"),
    "directory": (_directory, "is a directory, not a file"),
    "circle": (lambda path: path.symlink_to(path.name), "is a link that leads in a circle, not a file"),
    "nowhere": (lambda path: path.symlink_to("/not/anywhere"), "is a link that leads nowhere, not a file"),
}
PLACES = {
    "record": "checksums.json",
    "lock": "lock",
    "current": "CURRENT",
    "marker": "collection.json",
    "snapshot": "snapshots/*.json",
    "segment": "segments/*/vectors.npy",
    "hint": "items.lance/_versions/latest_version_hint.json",
    "transaction": "items.lance/_transactions/*.txn",
    "items": "items.lance/data/*.lance",
    "vectors": "vectors/*/data/*.lance",
    "newest": "",
}
CASES = [(place, "FIFO") for place in PLACES]
CASES += [(place, kind) for place in ("record", "lock", "hint", "vectors") for kind in KINDS if kind != "FIFO"]
CASES += [("segment", "directory"), ("transaction", "circle"), ("current", "nowhere")]


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """A test that waits for ever ends the run, and says where it waited."""
    faulthandler.dump_traceback_later(_SECONDS, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Stored:
    return build(tmp_path_factory.mktemp("places"), load_model(tiny_model_dir, threads=1))


@pytest.fixture
def stored(built: Stored, tmp_path: Path) -> Stored:
    return built.copy(tmp_path)


def mended(stored: Stored) -> RepairReport:
    return repair(stored.directory, remake=Remake(lambda _: stored.model))


def replaced(stored: Stored, place: str, kind: str) -> Path:
    """The path of a file that is a `kind` now."""
    path = max(stored.directory.glob(PLACES[place])) if PLACES[place] else manifests(stored.tables["items"])[0]
    path.unlink()
    KINDS[kind][0](path)
    return path


@pytest.mark.promise("R7")
@pytest.mark.parametrize(("place", "kind"), CASES)
def test_what_is_no_file_is_named_refused_and_moved_aside(stored: Stored, place: str, kind: str) -> None:
    before = set(stored.found())
    path = replaced(stored, place, kind)
    report = check(stored.directory, read_data=True)
    (told,) = (each for each in report.damaged if Path(each.path) == path)
    assert KINDS[kind][1] in told.what and "mmsearch repair" in told.remedy
    with pytest.raises(CollectionDamaged, match=r"mmsearch repair"):
        stored.index()
    sentences = mended(stored).mended
    assert any(str(path) in each and "quarantine" in each for each in sentences)
    assert check(stored.directory, read_data=True).ok
    assert set(stored.found()) == before
    stored.index()


@pytest.mark.promise("R7")
def test_a_file_in_the_place_of_a_table_s_folder_is_moved_aside(stored: Stored) -> None:
    before = set(stored.found())
    path = stored.tables["vectors"] / "data"
    shutil.rmtree(path)
    path.touch()
    assert "is a file, not a directory" in [each.what for each in check(stored.directory).damaged]
    mended(stored)
    assert check(stored.directory, read_data=True).ok
    assert set(stored.found()) == before


@pytest.mark.parametrize("place", ["snapshots", "segments", "items.lance/data", "vectors/*/_versions"])
def test_what_others_leave_in_every_folder_is_not_ours_to_judge(stored: Stored, place: str) -> None:
    folder = min(stored.directory.glob(place))
    (folder / "@eaDir").mkdir()
    (folder / "Thumbs.db").write_bytes(b"1")
    write_photos(stored.photos, range(20, 22))
    stored.index()
    (folder / "Thumbs.db").write_bytes(b"another")
    assert check(stored.directory, read_data=True).damaged == ()
    assert mended(stored).mended == ()
    assert stored.index().warnings == ()


def test_a_link_to_a_file_is_a_file(stored: Stored, tmp_path: Path) -> None:
    path = next(stored.directory.glob("segments/*/vectors.npy"))
    path.rename(tmp_path / "elsewhere.npy")
    path.symlink_to(tmp_path / "elsewhere.npy")
    assert check(stored.directory, read_data=True).ok
    assert mended(stored).mended == ()


@pytest.mark.promise("R7")
def test_snapshots_that_are_all_gone_are_missed(stored: Stored) -> None:
    before = set(stored.found())
    for name in ("segments", "snapshots"):
        shutil.rmtree(stored.directory / name)
    (stored.directory / "CURRENT").unlink()
    (told,) = check(stored.directory).damaged
    assert told.what == "is gone, and so are all snapshots" and "mmsearch repair" in told.remedy
    with pytest.raises(CollectionDamaged, match=r"CURRENT: is gone, .*mmsearch repair"):
        Snapshot.open(stored.directory)
    assert any("published anew" in each for each in mended(stored).mended)
    assert check(stored.directory, read_data=True).ok
    assert set(stored.found()) == before


@pytest.mark.promise("R7")
def test_query_and_check_name_the_same_remedy_for_a_lost_current(stored: Stored) -> None:
    (stored.directory / "CURRENT").unlink()
    with (
        Collection(stored.directory, settings=Settings(threads=1), model=stored.model) as collection,
        pytest.raises(CollectionDamaged, match=r"CURRENT: is gone; run `mmsearch repair`"),
    ):
        collection.search("red")
    (told,) = check(stored.directory).damaged
    assert told.what == "is gone" and "mmsearch repair" in told.remedy
    mended(stored)
    assert check(stored.directory, read_data=True).ok


@pytest.mark.promise("R7")
def test_a_record_that_was_there_is_missed(stored: Stored) -> None:
    path = stored.directory / "checksums.json"
    path.unlink()
    (told,) = check(stored.directory).damaged
    assert (Path(told.path), told.what) == (path, "is gone")
    assert any(f"{path}: was gone" in each for each in mended(stored).mended)
    assert check(stored.directory, read_data=True).ok
    assert mended(stored).mended == ()


@pytest.mark.promise("R7")
def test_a_collection_without_items_and_segments_starts_again_empty(stored: Stored) -> None:
    before = set(stored.found())
    shutil.rmtree(stored.tables["items"])
    shutil.rmtree(stored.directory / "segments")
    assert not check(stored.directory).ok
    report = mended(stored)
    assert report.items == 0
    assert any("`mmsearch index` reads all files again" in each for each in report.mended)
    assert check(stored.directory, read_data=True).ok
    stored.index()
    assert set(stored.found()) == before


@pytest.mark.promise("R7")
def test_a_table_that_is_gone_is_named_once_and_said_to_be_made_anew(stored: Stored) -> None:
    shutil.rmtree(stored.directory / "vectors")
    (told,) = check(stored.directory).damaged
    assert (Path(told.path), told.what) == (stored.tables["vectors"], "is gone")
    sentences = mended(stored).mended
    assert any("an empty table was made in its place" in each for each in sentences)
    assert not any("version 1 is used" in each for each in sentences)
    assert check(stored.directory, read_data=True).ok


def test_what_is_gone_is_not_said_to_be_removed(stored: Stored) -> None:
    shutil.rmtree(stored.directory / "segments")
    assert not [each for each in check(stored.directory).damaged if "removes" in each.remedy]
