from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from running import Cli
from tiny_model import COLOURS


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


def flip(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def test_a_whole_collection_exits_with_0(collection: Path, cli: Cli) -> None:
    outcome = cli("check")
    assert (outcome.code, outcome.err) == (0, "")
    assert "with the right sizes" in outcome.lines[-1]
    outcome = cli("check", "--read-data")
    assert (outcome.code, outcome.err) == (0, "")
    assert "are as they were written" in outcome.lines[-1]


def test_each_damaged_file_is_a_line_with_what_mends_it_and_the_exit_code_is_5(collection: Path, cli: Cli) -> None:
    (path,) = collection.rglob("vectors.npy")
    flip(path)
    assert cli("check").code == 0
    outcome = cli("check", "--read-data")
    assert (outcome.code, outcome.err) == (5, "")
    told = "its content is not what was written; `mmsearch repair` publishes it anew from the tables"
    assert outcome.lines[0] == f"{path}: {told}"
    assert cli("repair").code == 0
    assert cli("check", "--read-data").code == 0


def test_check_json_has_exactly_these_keys(collection: Path, cli: Cli) -> None:
    flip(collection / "collection.json")
    outcome = cli("check", "--json")
    assert outcome.code == 5
    assert list(outcome.json) == [
        *("schema_version", "ok", "read_data", "files", "bytes", "damaged", "unrecorded", "without_embedding"),
        *("quarantine", "notes", "seconds"),
    ]
    (damaged,) = outcome.json["damaged"]
    assert list(damaged) == ["path", "path_b64", "what", "remedy"]
    assert damaged["path"] == str(collection / "collection.json")


@pytest.mark.parametrize("command", ["check", "optimize"])
def test_what_is_no_collection_is_said_and_left_as_it_is(cli: Cli, tmp_path: Path, command: str) -> None:
    outcome = cli(command, "--collection", tmp_path / "nothing")
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (1, b"", 1)
    assert not (tmp_path / "nothing").exists()


def test_optimizing_says_sizes_before_and_after(collection: Path, cli: Cli) -> None:
    before = cli("query", "red", "--json").json["hits"]
    assert cli("index", "--verify").code == 0
    outcome = cli("optimize")
    assert (outcome.code, outcome.err) == (0, "")
    assert "before," in outcome.lines[1] and outcome.lines[-1] == "  2 items can be found"
    assert list(cli("optimize", "--json").json) == [
        *("schema_version", "bytes_before", "bytes_after", "fragments_before", "fragments_after"),
        *("segments_before", "segments_after", "items", "warnings", "seconds"),
    ]
    assert cli("query", "red", "--json").json["hits"] == before
