from __future__ import annotations

import base64
import csv
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from running import CHECKOUT, Cli
from small_collection import ODD_NAME, SmallCollection, write_small_collection
from tiny_model import COLOURS, write_tiny_model

from mmsearch import label_list
from mmsearch import manifest as manifests
from mmsearch.model import load_model
from mmsearch.model_lookup import reference
from mmsearch.safe_text import safe_path


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """The colours' names, one a line."""
    path = tmp_path / "labels.txt"
    path.write_text("# colours\n\n" + "\n".join(COLOURS), encoding="utf-8")
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A red and a green picture, and one that cannot be read."""
    folder = tmp_path / "loose"
    folder.mkdir()
    for colour in ("green", "red"):
        Image.new("RGB", (16, 12), COLOURS[colour]).save(folder / f"{colour}.png")
    (folder / "broken.jpg").write_bytes(b"<html>")
    return folder


def test_the_collection_is_tagged_with_a_line_for_each_photo_and_label(
    at_small: SmallCollection, cli: Cli, labels: Path
) -> None:
    done = cli("tag", "--labels", labels, "--no-templates", "-k", "2")
    assert (done.code, done.err) == (0, "")
    assert done.lines[::3] == [safe_path(at_small.photo(colour)) for colour in COLOURS]
    for line, colour in zip(done.lines[1::3], COLOURS, strict=True):
        probability, label = line.split()
        assert label == colour
        assert 0.5 < float(probability) <= 1
    assert len(done.lines) == 24


def test_json_has_everything_about_each_photo(at_small: SmallCollection, cli: Cli, labels: Path) -> None:
    done = cli("tag", "--labels", labels, "--no-templates", "-k", "3", "--under", at_small.photos / "warm", "--json")
    assert done.code == 0
    assert done.out.count(b"\n") == 1
    assert list(done.json) == [
        *("schema_version", "model", "logit_scale", "labels", "templates", "k", "min_probability", "under"),
        *("photos", "skipped", "interrupted", "seconds"),
    ]
    assert (done.json["schema_version"], done.json["model"], done.json["labels"]) == (1, "tiny", 8)
    assert (done.json["templates"], done.json["k"], done.json["skipped"]) == (["{}"], 3, [])
    red, yellow = done.json["photos"]
    assert list(red) == ["id", "path", "path_b64", "missing", "tags"]
    assert (red["id"], red["missing"], red["path"]) == (1, False, at_small.photo("red"))
    assert base64.b64decode(yellow["path_b64"]) == os.fsencode(at_small.photo("yellow"))
    assert [list(each) for each in red["tags"]] == [["label", "probability", "similarity"]] * 3
    assert red["tags"][0]["label"] == "red"
    assert red["tags"][0]["similarity"] == pytest.approx(1, abs=1e-4)
    probabilities = [each["probability"] for each in red["tags"]]
    assert probabilities == sorted(probabilities, reverse=True)


def test_csv_has_a_row_for_each_photo_and_label(at_small: SmallCollection, cli: Cli) -> None:
    done = cli("tag", "--label", "red", "--label", "blue", "--no-templates", "--csv")
    rows = list(csv.reader(io.StringIO(done.out.decode(), newline="")))
    assert rows[0] == ["path", "path_b64", "rank", "label", "probability", "similarity"]
    assert len(rows) == 1 + 2 * len(COLOURS)
    for path, path_b64, rank, label, probability, similarity in rows[1:]:
        assert safe_path(base64.b64decode(path_b64)) == path
        assert (rank in "12", label in ("red", "blue")) == (True, True)
        assert 0 <= float(probability) <= 1
        assert -1 <= float(similarity) <= 1
    assert rows[1][2:4] == ["1", "red"]


@pytest.mark.case("S34")
@pytest.mark.parametrize("label", ["=1+2", "+1", "-cmd", "@SUM(A1)", "\t=1"])
def test_no_label_becomes_a_formula_in_a_spreadsheet(at_small: SmallCollection, cli: Cli, label: str) -> None:
    done = cli("tag", f"--label={label}", "--label", "plain", "--csv")
    cells = {row["label"] for row in csv.DictReader(io.StringIO(done.out.decode(), newline=""))}
    assert cells == {f"'{label.strip()}", "plain"}


@pytest.mark.case("S14")
@pytest.mark.parametrize("form", [[], ["--csv"], ["--json"]])
def test_no_name_and_no_label_reaches_the_terminal_as_it_is(
    at_small: SmallCollection, cli: Cli, form: list[str]
) -> None:
    done = cli("tag", "--label", "a\x1b[31mb", "--label", "\u202ecd\x00", *form)
    assert done.code == 0
    text = done.out.decode()
    assert all(character == "\n" or character.isprintable() for character in text)
    assert safe_path(ODD_NAME) in (text if form != ["--json"] else done.json["photos"][5]["path"])
    assert safe_path("a\x1b[31mb") in text.replace("\\u001b", r"\x1b")


def test_photos_on_the_disk_need_no_collection(
    cli: Cli, photos: Path, labels: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    arguments = ("tag", photos, "--labels", labels, "--no-templates", "--model", tiny_model_dir, "-k", "1")
    done = cli(*arguments)
    assert done.code == 0
    assert done.lines[::2] == [str(photos / "green.png"), str(photos / "red.png")]
    assert [line.split()[1] for line in done.lines[1::2]] == ["green", "red"]
    assert done.err.count("\n") == 1
    assert f"{photos / 'broken.jpg'}: unidentified: " in done.err
    strict = cli(*arguments, "--strict", "--json")
    assert strict.code == 3
    assert [each["id"] for each in strict.json["photos"]] == [None, None]
    (skipped,) = strict.json["skipped"]
    assert skipped["reason"] == "unidentified"
    assert base64.b64decode(skipped["path_b64"]) == os.fsencode(photos / "broken.jpg")
    assert skipped["detail"]
    (photos / "broken.jpg").unlink()
    assert cli(*arguments, "--strict").code == 0
    assert not list(tmp_path.glob("**/collection.json"))


def test_paths_are_tagged_whatever_model_built_the_collection(
    at_small: SmallCollection, cli: Cli, tmp_path: Path
) -> None:
    other = write_tiny_model(tmp_path / "other", name="other", seed=1)
    done = cli("tag", at_small.photo("red"), "--model", other, "--label", "red", "--label", "blue", "--no-templates")
    assert (done.code, done.lines[1].split()[1]) == (0, "red")
    refused = cli("tag", "--model", other, "--label", "red", "--label", "blue")
    assert refused.code == 1
    assert "was built by the model 'tiny'" in refused.err


def test_paths_are_tagged_by_the_model_of_a_collection_that_is_named(
    cli: Cli, photos: Path, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = load_model(tiny_model_dir, threads=1)
    named_collection = write_small_collection(tmp_path, tiny).directory
    manifests.write(named_collection, replace(manifests.read(named_collection), model=reference(tiny)))
    other = write_tiny_model(tmp_path / "other", name="other", seed=1)
    monkeypatch.setenv("MMSEARCH_MODEL", str(other))
    named = ("tag", photos, "--label=red", "--label=green", "--json", "--collection", named_collection)
    assert cli(*named[:5]).json["model"] == "other"
    done = cli(*named)
    assert done.err.count("\n") == 1
    assert (done.code, done.json["model"], len(done.json["photos"])) == (0, "tiny", 2)
    assert cli(*named, "--model", other).json["model"] == "other"
    missing = cli(*named[:-1], tmp_path / "nothing")
    assert (missing.code, missing.out) == (1, b"")
    assert "there is no collection here; make one with `mmsearch index`" in missing.err


def test_each_label_is_checked_once(at_small: SmallCollection, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    real = label_list._checked

    def check(label: str, where: str) -> str:
        checked.append(label)
        return real(label, where)

    monkeypatch.setattr(label_list, "_checked", check)
    assert cli("tag", "--label=red", "--label=blue").code == 0
    assert checked == ["red", "blue"]


def test_labels_come_from_stdin_too(at_small: SmallCollection, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"red\nblue\nred\n")))
    done = cli("tag", "--labels", "-", "--label", "green", "--json")
    assert (done.code, done.json["labels"]) == (0, 3)
    assert "a label comes again and is left out ('red', as numbers 1 and 3)" in done.err


def test_templates_are_given_and_told(at_small: SmallCollection, cli: Cli) -> None:
    done = cli("tag", "--label=red", "--label=blue", "--template", "{}", "--template", "very {}", "--json")
    assert done.json["templates"] == ["{}", "very {}"]
    default = cli("tag", "--label=red", "--label=blue", "--json")
    assert "a photo of a {}." in default.json["templates"]


def test_unlikely_labels_are_left_out(at_small: SmallCollection, cli: Cli) -> None:
    done = cli("tag", "--label=red", "--label=blue", "--no-templates", "--min-probability", "0.6", "--json")
    kept = [tag["probability"] for photo in done.json["photos"] for tag in photo["tags"]]
    assert len(done.json["photos"]) == 8
    assert kept
    assert min(kept) >= 0.6


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "there are no labels to choose from: give --labels FILE, or --label for each"),
        (["--labels", "nowhere.txt"], "the labels in nowhere.txt cannot be read: No such file or directory"),
        (["--label", "  "], "label 1: the label '  ' has no words"),
        (["--label", "x" * 501], "has 501 characters, expected at most 500"),
        (["--label", "a", "--template", "b"], "the template 'b' has no {}"),
        (["--label", "a", "--template", "{}", "--no-templates"], "--template and --no-templates exclude each other"),
        (["--label", "a", "--csv", "--json"], "--csv and --json exclude each other"),
        (["--label", "a", "-k", "0"], "Invalid value for '-k'"),
        (["--label", "a", "--min-probability", "2"], "Invalid value for '--min-probability'"),
        (["--label", "a", ".", "--under", "."], "--under is for photos that are indexed: give paths, or --under"),
        (["--label", "a", "nowhere"], "nowhere: there is no such folder or file"),
    ],
)
def test_what_cannot_be_understood_costs_one_line_and_exit_code_2(
    at_small: SmallCollection, cli: Cli, arguments: list[str], complaint: str
) -> None:
    done = cli("tag", *arguments)
    assert (done.code, done.out) == (2, b"")
    assert complaint in done.err.splitlines()[-1]
    assert done.err.count("mmsearch: ") == done.err.count("\n") <= 2


def test_one_label_alone_is_certain_and_that_is_said(at_small: SmallCollection, cli: Cli) -> None:
    done = cli("tag", "--label", "red")
    assert done.code == 0
    assert {line.split()[0] for line in done.lines[1::2]} == {"1.000"}
    assert "with 'red' as the only label its probability is always 1" in done.err


def test_an_empty_folder_is_no_error(cli: Cli, tmp_path: Path, tiny_model_dir: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = cli("tag", tmp_path / "empty", "--label=a", "--label=b", "--model", tiny_model_dir, "--json")
    assert (done.code, done.json["photos"], done.json["skipped"]) == (0, [], [])
    assert "there are no photos to tag" in done.err


def test_without_a_collection_it_says_how_to_make_one(cli: Cli, tiny_model_dir: Path) -> None:
    done = cli("tag", "--label=a", "--label=b", "--model", tiny_model_dir)
    assert (done.code, done.out) == (1, b"")
    assert "mmsearch index" in done.err


@pytest.mark.case("F8")
def test_a_signal_ends_a_real_run_in_good_order(photos: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    for number in range(3000):
        shutil.copy(photos / "red.png", photos / f"{number}.png")
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "PYTHONWARNINGS": "error", "MMSEARCH_WORKERS": "1"}
    command = [sys.executable, "-m", "mmsearch", "tag", photos, "--label=red", "--label=blue", "--model"]
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(
            [*command, tiny_model_dir, "--csv"], stdout=out, stderr=subprocess.PIPE, env=environment
        )
        deadline = time.monotonic() + 60
        while not (tmp_path / "out").stat().st_size and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.decode().endswith("mmsearch: interrupted\n")
    rows = (tmp_path / "out").read_text().splitlines()
    assert 1 < len(rows) < 6000
    assert all(row.count(",") == 5 for row in rows)
