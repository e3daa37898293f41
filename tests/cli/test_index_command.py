from __future__ import annotations

import base64
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from running import Cli
from tiny_model import COLOURS

from mmsearch.collection import Collection
from mmsearch.durable import WriterLock
from mmsearch.errors import UsageError

KEYS = [
    "schema_version",
    "indexed",
    "unchanged",
    "moved",
    "missing",
    "removed",
    "ignored",
    "failed_before",
    "items",
    "skipped",
    "seconds",
]


@pytest.fixture
def photos(tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three pictures, a broken file with a nasty name and a foreign file; there is no collection yet."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for colour in ("red", "green", "blue"):
        Image.new("RGB", (16, 12), COLOURS[colour]).save(folder / f"{colour}.png")
    Path(os.fsdecode(os.fsencode(folder) + b"/bad\xff\n.jpg")).write_bytes(b"<html>")
    (folder / "tool.exe").write_bytes(b"MZ")
    monkeypatch.setenv("MMSEARCH_COLLECTION", str(tmp_path / "collection"))
    monkeypatch.setenv("MMSEARCH_MODEL", str(tiny_model_dir))
    monkeypatch.setenv("MMSEARCH_WORKERS", "1")
    return folder


def test_json_has_exactly_the_keys_of_the_contract_and_query_finds_it_all(photos: Path, cli: Cli) -> None:
    outcome = cli("index", photos, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    assert list(outcome.json) == KEYS
    assert outcome.json["schema_version"] == 1
    assert [outcome.json[key] for key in ("indexed", "unchanged", "ignored", "items")] == [3, 0, 1, 3]
    (skipped,) = outcome.json["skipped"]
    assert list(skipped) == ["path", "path_b64", "reason"]
    assert base64.b64decode(skipped["path_b64"]) == os.fsencode(photos) + b"/bad\xff\n.jpg"
    assert skipped["path"] == f"{photos}/bad\\xff\\n.jpg"
    assert skipped["reason"] == "unidentified"
    assert cli("query", "green", "--paths", "-k", "1").lines == [str(photos / "green.png")]


def test_the_summary_counts_by_reason_and_leads_to_the_list(photos: Path, cli: Cli) -> None:
    outcome = cli("index", photos)
    assert outcome.code == 0
    assert outcome.lines[0].startswith("Done in ")
    assert "  3 indexed, 1 ignored" in outcome.lines
    assert "  1 could not be read: 1 unidentified (mmsearch info --errors lists them)" in outcome.lines
    assert outcome.lines[-1] == "  3 items can be found"
    again = cli("index", photos)
    assert "  0 indexed, 3 unchanged, 1 ignored, 1 failed before" in again.lines


@pytest.mark.promise("R6")
def test_strict_exits_with_3_for_skipped_files_old_and_new(photos: Path, cli: Cli) -> None:
    assert cli("index", photos, "--strict").code == 3
    assert cli("index", photos, "--strict").code == 3
    assert cli("index", photos, "--strict", "--retry-failed").code == 3
    assert cli("index", photos).code == 0
    Path(os.fsdecode(os.fsencode(photos) + b"/bad\xff\n.jpg")).unlink()
    assert cli("index", photos, "--strict").code == 0


@pytest.mark.promise("R6")
@pytest.mark.parametrize("arguments", [[], ["photos", "--force"], ["nowhere"], ["photos", "--fast"]])
def test_wrong_usage_exits_with_2_and_makes_nothing(
    photos: Path, cli: Cli, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    outcome = cli("index", *arguments)
    assert (outcome.code, outcome.out) == (2, b"")
    assert outcome.err.count("\n") == 1


@pytest.mark.case("F41")
@pytest.mark.promise("R6")
def test_a_busy_collection_exits_with_4_naming_the_holder(photos: Path, cli: Cli, tmp_path: Path) -> None:
    assert cli("index", photos).code == 0
    with WriterLock(tmp_path / "collection"):
        outcome = cli("index", photos)
    assert (outcome.code, outcome.out) == (4, b"")
    assert str(os.getpid()) in outcome.err


def test_a_foreign_directory_is_refused_and_left_alone(photos: Path, cli: Cli) -> None:
    before = sorted(photos.iterdir())
    outcome = cli("index", photos, "--collection", photos)
    assert outcome.code in (1, 2)
    assert sorted(photos.iterdir()) == before


@pytest.mark.case("F8")
@pytest.mark.promise("R2", "R6")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_exits_with_130_and_the_next_run_goes_on(
    photos: Path, tmp_path: Path, cli: Cli, number: int
) -> None:
    for copy in range(60):
        shutil.copy(photos / "red.png", photos / f"copy{copy}.png")
    command = [sys.executable, "-m", "mmsearch", "index", str(photos), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while not (tmp_path / "collection" / "lock").exists() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == b"mmsearch: interrupted"
    assert cli("index", photos, "--json").json["items"] == 63


def test_a_termination_before_the_run_proper_is_an_interrupt_too(
    photos: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Collection, "open", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    outcome = cli("index", photos)
    assert (outcome.code, outcome.out, outcome.err) == (130, b"", "mmsearch: interrupted\n")


def test_a_termination_that_was_ignored_stays_ignored(photos: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGTERM)
        raise UsageError("went on")

    monkeypatch.setattr(Collection, "open", opened)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        outcome = cli("index", photos)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (outcome.code, outcome.err) == (2, "mmsearch: went on\n")


@pytest.fixture
def many_gone(photos: Path, cli: Cli) -> Path:
    """`photos`, indexed, with so many files gone since that nothing is pruned, and one new file."""
    for copy in range(30):
        shutil.copy(photos / "red.png", photos / f"copy{copy}.png")
    assert cli("index", photos).code == 0
    for copy in range(30):
        (photos / f"copy{copy}.png").unlink()
    Image.new("RGB", (9, 9), COLOURS["black"]).save(photos / "new.png")
    return photos


def test_a_refused_prune_tells_what_was_done_and_then_what_was_not(many_gone: Path, cli: Cli) -> None:
    outcome = cli("index", many_gone, "--prune", "--json")
    assert outcome.code == 1
    assert list(outcome.json) == KEYS
    assert [outcome.json[key] for key in ("indexed", "unchanged", "removed")] == [1, 3, 0]
    assert outcome.err.splitlines()[-1].startswith("mmsearch: nothing was removed: ")
    assert "--force" in outcome.err


def test_the_summary_of_a_refused_prune_is_the_usual_one(many_gone: Path, cli: Cli) -> None:
    outcome = cli("index", many_gone, "--prune")
    assert outcome.code == 1
    assert any(line.startswith("  1 indexed, 3 unchanged") for line in outcome.lines)
    assert outcome.err.splitlines()[-1].startswith("mmsearch: nothing was removed: ")


def test_a_collection_with_a_name_the_tables_cannot_live_in_is_refused_before_anything_is_made(
    photos: Path, cli: Cli, tmp_path: Path
) -> None:
    for name in ("new\nline", "caf\udce9"):
        outcome = cli("index", photos, "--collection", tmp_path / name)
        assert (outcome.code, outcome.err.count("\n")) == (2, 1)
        assert not (tmp_path / name).exists()
