"""Giving a collection another model, from the command line."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image
from running import Cli
from tiny_model import COLOURS, write_tiny_model

from mmsearch.model import load_model

LONG_AGO_NS = 1_500_000_000 * 10**9


@pytest.fixture
def photos(tmp_path: Path, tiny_model_dir: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three pictures, indexed by the model that the settings name."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for colour in ("red", "green", "blue"):
        Image.new("RGB", (16, 12), COLOURS[colour]).save(folder / f"{colour}.png")
        os.utime(folder / f"{colour}.png", ns=(LONG_AGO_NS, LONG_AGO_NS))
    monkeypatch.setenv("MMSEARCH_COLLECTION", str(tmp_path / "collection"))
    monkeypatch.setenv("MMSEARCH_MODEL", str(tiny_model_dir))
    monkeypatch.setenv("MMSEARCH_WORKERS", "1")
    assert cli("index", folder).code == 0
    return folder


@pytest.fixture
def other(tmp_path: Path) -> Path:
    directory: Path = write_tiny_model(tmp_path / "other", name="other", seed=1)
    return directory


def test_after_the_switch_every_command_uses_the_new_model_by_itself(
    photos: Path, other: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(other.parent)
    outcome = cli("index", "--model", "./other", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    fingerprint = load_model(other).fingerprint
    assert outcome.json["switch"] == {
        "model": "other", "fingerprint": fingerprint, "dim": 16, "embedded": 3, "items": 3, "done": True,
    }  # fmt: skip
    # A relative path means the same from anywhere, and what the settings say is for collections without a model.
    monkeypatch.chdir("/")
    found = cli("query", "green", "--json", "-k", "1").json
    assert (found["model"], found["hits"][0]["path"]) == ("other", str(photos / "green.png"))
    again = cli("index", photos, "--json").json
    assert (again["unchanged"], again["items"]) == (3, 3)
    assert "switch" not in again
    assert "other (16 dimensions" in next(line for line in cli("info").lines if line.startswith("Model"))
    assert cli("index", "--json").json["unchanged"] == 3


def test_the_old_model_is_refused_then_with_the_way_back(
    photos: Path, other: Path, tiny_model_dir: Path, cli: Cli
) -> None:
    assert cli("index", "--model", other).code == 0
    outcome = cli("query", "red", "--model", tiny_model_dir)
    assert (outcome.code, outcome.out) == (1, b"")
    assert "ask without --model" in outcome.err
    assert f"mmsearch index --model {tiny_model_dir}" in outcome.err


def test_info_tells_of_a_switch_under_way_and_of_what_is_kept(
    photos: Path, other: Path, tmp_path: Path, cli: Cli
) -> None:
    (tmp_path / "more").mkdir()
    shutil.copy2(photos / "red.png", tmp_path / "more/red.png")
    assert cli("index", tmp_path / "more").code == 0
    outcome = cli("index", photos, "--model", other, "--keep-old")
    assert outcome.code == 0
    assert "  model other is to answer: 3 of 4 items embedded" in outcome.lines
    assert outcome.err.startswith("mmsearch: 'tiny' still answers: 1 of 4 items have no embedding by 'other' yet")
    page = {line[:11].strip(): line[12:] for line in cli("info").lines}
    assert page["Model"].startswith("tiny ")
    assert page["Switch"] == "model other is to answer: 3 of 4 items embedded"
    assert cli("info", "--json").json["switch"]["embedded"] == 3
    outcome = cli("index", "--model", other, "--keep-old")
    assert "  model other answers now" in outcome.lines
    page = {line[:11].strip(): line[12:] for line in cli("info").lines}
    assert page["Kept"].startswith("embeddings of tiny (mmsearch index --drop-old")
    facts = cli("info", "--json").json
    assert (facts["switch"], facts["kept_models"], facts["collection"]["format"]) == (None, ["tiny"], 2)
    assert cli("index", "--drop-old").code == 0
    assert cli("info", "--json").json["kept_models"] == []


def test_a_model_that_has_moved_is_found_by_the_settings_or_asked_for(
    photos: Path, other: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("index", "--model", other).code == 0
    moved = other.rename(tmp_path / "moved")
    outcome = cli("query", "red")
    assert (outcome.code, outcome.out) == (1, b"")
    assert outcome.err.count("\n") == 1
    assert "'other'" in outcome.err
    assert str(other) in outcome.err
    assert "say where it is with --model DIR" in outcome.err
    assert cli("query", "red", "--model", moved).code == 0
    monkeypatch.setenv("MMSEARCH_MODEL", str(moved))
    assert cli("query", "red").code == 0
    assert cli("index", photos).code == 0
    monkeypatch.delenv("MMSEARCH_MODEL")
    assert cli("query", "red", "--json").json["model"] == "other"


def test_without_a_path_and_without_a_collection_there_is_nothing_to_index(tmp_path: Path, cli: Cli) -> None:
    outcome = cli("index", "--collection", tmp_path / "none")
    assert (outcome.code, outcome.out) == (2, b"")
    assert "nothing has been indexed yet" in outcome.err
    assert not (tmp_path / "none").exists()


def half_switched(photos: Path, other: Path, cli: Cli, *, more: int = 1) -> None:
    """Begins a change to `other`, which leaves pictures of a second folder without an embedding."""
    folder = photos.parent / "more"
    folder.mkdir()
    for number in range(more):
        Image.new("RGB", (16 + number, 12), COLOURS["red"]).save(folder / f"{number}.png")
    assert cli("index", folder).code == 0
    assert cli("index", photos, "--model", other).code == 0


def test_a_plain_run_in_the_middle_of_a_change_names_it_and_both_ways_out(
    photos: Path, other: Path, tiny_model_dir: Path, cli: Cli
) -> None:
    half_switched(photos, other, cli)
    outcome = cli("index")
    assert (outcome.code, outcome.err) == (
        0,
        "mmsearch: the change to 'other' is still under way, this run was about 'tiny' alone:"
        f" `mmsearch index --model {other}` goes on with it, `mmsearch index --model {tiny_model_dir}` gives it up\n",
    )
    assert cli("index", "--model", other).err == ""
    assert cli("index").err == ""


def test_info_names_both_ways_out_of_a_change(photos: Path, other: Path, tiny_model_dir: Path, cli: Cli) -> None:
    half_switched(photos, other, cli)
    ways = f"`mmsearch index --model {other}` goes on with it, `mmsearch index --model {tiny_model_dir}` gives it up"
    lines = cli("info").lines
    place = next(number for number, line in enumerate(lines) if line.startswith("Switch"))
    assert lines[place + 1] == f"{'':12}{ways}"
    assert cli("info", "--json").json["switch"]["ways_out"] == ways


def test_pictures_outside_the_paths_of_a_change_are_not_said_to_be_unreadable(
    photos: Path, other: Path, tiny_model_dir: Path, cli: Cli
) -> None:
    half_switched(photos, other, cli, more=2)
    (photos / "red.png").write_bytes(b"no picture any more")
    assert cli("index", photos, "--retry-failed").code == 0
    outcome = cli("index", photos, "--model", other)
    assert outcome.err.endswith(
        "'tiny' still answers: 2 of 4 items have no embedding by 'other' yet, since they are not in the paths of this"
        f" run (first: {photos.parent / 'more/0.png'}); run `mmsearch index --model {other}` again, without paths, to"
        f" go on, or to stay with 'tiny' instead, `mmsearch index --model {tiny_model_dir}`\n"
    )


def test_a_models_name_in_the_collection_is_enough(photos: Path, other: Path, cli: Cli) -> None:
    half_switched(photos, other, cli)
    outcome = cli("index", "--model", "tiny")
    assert (outcome.code, "the change to 'other' is given up" in outcome.err) == (0, True), outcome.err
    assert cli("query", "red", "--model", "tiny").code == 0
    assert cli("tag", "--label", "red", "--label", "blue", "--model", "tiny").code == 0
    assert cli("index", photos, "--model", other, "--keep-old").code == 0
    assert "  model other answers now" in cli("index", "--model", "other", "--keep-old").lines
    assert "  model tiny answers now" in cli("index", "--model", "tiny").lines
    outcome = cli("index", "--model", "other")
    assert (outcome.code, outcome.err.startswith("mmsearch: no model is called 'other'")) == (1, True), outcome.err
