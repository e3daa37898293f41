from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from PIL import Image
from running import Cli
from tiny_model import COLOURS

from mmsearch.checked_json import dump_checked, load_checked
from mmsearch.durable import WriterLock
from mmsearch.indexer.reembed import _Again
from mmsearch.store_prune import manifests


@pytest.fixture
def collection(tmp_path: Path, tiny_model_dir: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two pictures, indexed; returns the collection."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for colour in ("red", "green"):
        Image.new("RGB", (16, 12), COLOURS[colour]).save(folder / f"{colour}.png")
    monkeypatch.setenv("MMSEARCH_COLLECTION", str(tmp_path / "collection"))
    monkeypatch.setenv("MMSEARCH_MODEL", str(tiny_model_dir))
    monkeypatch.setenv("MMSEARCH_WORKERS", "1")
    assert cli("index", folder).code == 0
    return tmp_path / "collection"


def answers(cli: Cli) -> bool:
    return len(cli("query", "red", "--paths").lines) == 2


@pytest.mark.promise("R7")
def test_a_damaged_collection_answers_again(collection: Path, cli: Cli) -> None:
    (collection / "CURRENT").write_text("seven")
    assert cli("query", "red").code == 5
    outcome = cli("repair")
    assert (outcome.code, outcome.err) == (0, "")
    assert "CURRENT" in outcome.lines[0]
    assert outcome.lines[-1] == "2 items can be found"
    assert answers(cli)


def test_where_nothing_is_damaged_it_says_so(collection: Path, cli: Cli) -> None:
    outcome = cli("repair")
    assert (outcome.code, outcome.lines) == (0, ["nothing was damaged", "2 items can be found"])


def test_json_has_exactly_these_keys(collection: Path, cli: Cli) -> None:
    nothing = {
        "schema_version": 1,
        "mended": [],
        "items": 2,
        "without_embedding": 0,
        "embedded": 0,
        "interrupted": False,
    }
    assert cli("repair", "--json").json == nothing
    (collection / "CURRENT").unlink()
    (sentence,) = cli("repair", "--json").json["mended"]
    assert str(collection / "CURRENT") in sentence


def test_lost_embeddings_are_counted_with_what_to_do(collection: Path, cli: Cli) -> None:
    shutil.rmtree(collection / "vectors")
    shutil.rmtree(collection / "segments")
    told = "2 items have lost their embedding, and wait for their originals: run mmsearch index on their folders"
    assert cli("repair", "--no-embed").lines[-1] == told
    assert cli("repair").lines[-1] == "2 items had lost their embedding, and have a new one"
    assert answers(cli)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_130_and_the_next_one_goes_on(
    collection: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    shutil.rmtree(collection / "vectors")
    for vectors in collection.glob("segments/*/vectors.npy"):
        vectors.write_bytes(vectors.read_bytes()[:-1] + b"\x01")
    real = _Again._stream
    signals = iter([number])

    def stream(self: _Again, *arguments: object) -> None:
        for each in signals:
            os.kill(os.getpid(), each)
        real(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(_Again, "_stream", stream)
        outcome = cli("repair")
    assert (outcome.code, outcome.err) == (130, "mmsearch: interrupted\n")
    assert "Interrupted: what answers is as it was; run mmsearch repair again" in outcome.lines
    assert "2 items can be found" in outcome.lines
    assert answers(cli)
    assert cli("repair").lines[-1] == "2 items had lost their embedding, and have a new one"
    assert answers(cli)


def test_a_busy_collection_exits_with_4_naming_the_holder(collection: Path, cli: Cli) -> None:
    with WriterLock(collection):
        outcome = cli("repair")
    assert (outcome.code, outcome.out) == (4, b"")
    assert str(os.getpid()) in outcome.err


@pytest.mark.parametrize("content", [None, "", "letter.txt"])
def test_what_is_no_collection_is_left_as_it_is(cli: Cli, tmp_path: Path, content: str | None) -> None:
    place = tmp_path / "place"
    if content is not None:
        place.mkdir()
    if content:
        (place / content).touch()
    outcome = cli("repair", "--collection", place)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (1, b"", 1)
    assert place.exists() is (content is not None)
    assert [path.name for path in tmp_path.glob("place/*")] == ([content] if content else [])


@pytest.mark.promise("R6")
def test_what_cannot_be_mended_exits_with_5(collection: Path, cli: Cli) -> None:
    (collection / "collection.json").write_bytes(b"")
    shutil.rmtree(collection / "snapshots")
    outcome = cli("repair")
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (5, b"", 1)
    assert "index the folders again" in outcome.err


def test_a_newer_collection_is_refused_and_left_as_it_is(collection: Path, cli: Cli) -> None:
    path = collection / "collection.json"
    newer = dump_checked({**load_checked(path.read_bytes()), "format": 99})
    path.write_bytes(newer)
    outcome = cli("repair")
    assert (outcome.code, outcome.out) == (1, b"")
    assert "format 99" in outcome.err
    assert path.read_bytes() == newer


@pytest.mark.parametrize("lost", ["items.lance", "items.lance/_versions"])
def test_a_lost_table_of_items_comes_back_from_what_still_answers(collection: Path, cli: Cli, lost: str) -> None:
    before = cli("query", "red", "--json").json["hits"]
    shutil.rmtree(collection / lost)
    outcome = cli("repair")
    assert (outcome.code, outcome.err) == (0, "")
    assert any("2 items were put back from snapshot 1" in line for line in outcome.lines)
    assert cli("query", "red", "--json").json["hits"] == before
    assert cli("check", "--read-data").code == 0
    assert cli("index", "--json").json["items"] == 2
    assert cli("query", "red", "--json").json["hits"] == before


@pytest.mark.parametrize("lost", ["items.lance", "items.lance/_versions"])
def test_items_that_nothing_holds_any_more_are_told_of_and_nothing_damaged_is_deleted(
    collection: Path, cli: Cli, lost: str
) -> None:
    shutil.rmtree(collection / lost)
    (path,) = collection.rglob("strings.bin")
    content = path.read_bytes()[:-1] + b"?"
    path.write_bytes(content)
    outcome = cli("repair")
    assert outcome.code == 0, outcome.err
    (told,) = (line for line in outcome.lines if "mmsearch index" in line)
    assert "items.lance" in told and "strings.bin" in told
    assert content in [each.read_bytes() for each in collection.rglob("quarantine/**/strings.bin")]
    assert cli("check").code == 0


def test_tables_are_healed_even_when_the_marker_is_damaged_too(collection: Path, cli: Cli) -> None:
    (collection / "collection.json").write_bytes(b"")
    manifests(collection / "items.lance")[0].write_bytes(b"")
    outcome = cli("repair")
    assert outcome.code == 0, outcome.err
    assert any("items.lance" in line for line in outcome.lines)
    assert any("collection.json" in line for line in outcome.lines)


@pytest.mark.parametrize("name", ["collection.json", "CURRENT", "1.json"])
def test_a_directory_in_the_place_of_a_file_is_put_aside_not_deleted(collection: Path, cli: Cli, name: str) -> None:
    (path,) = collection.rglob(name)
    path.unlink()
    path.mkdir()
    (path / "letter.txt").write_text("dear")
    outcome = cli("repair")
    assert outcome.code == 0, outcome.err
    assert answers(cli)
    assert [each.read_text() for each in collection.rglob("letter.txt")] == ["dear"]


def test_a_disk_that_cannot_be_written_to_is_one_line(
    collection: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    (collection / "CURRENT").unlink()

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("mmsearch.indexer.repair.WriterLock", refuse)
    outcome = cli("repair")
    assert (outcome.code, outcome.out) == (1, b"")
    assert "cannot be read or written (Read-only file system)" in outcome.err
