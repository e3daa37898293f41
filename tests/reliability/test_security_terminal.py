"""No name, no caption and no argument reaches a terminal as it is, whichever command shows it."""

from __future__ import annotations

import base64
import csv
import io
import os
import sys
from pathlib import Path

import pytest
from running import Cli, Outcome
from security_scene import (
    HOSTILE_NAMES,
    HOSTILE_TEXTS,
    Scene,
    new_scene,
    unsafe,
    write_hostile_dataset,
    write_hostile_library,
)

from mmsearch.cli.main import run

pytestmark = pytest.mark.case("S14")
EVIL = "\x1b]52;c;eA==\x07\u202e\x9b2J.jpg"
EVIL_BYTES = b"\x1b[2J\xff\x07"


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Scene:
    """The hostile library, indexed."""
    made = new_scene(tmp_path_factory.mktemp("terminal"), tiny_model_dir)
    write_hostile_library(made.photos)
    write_hostile_dataset(made.photos.parent / "dataset")
    outcome = made.run("index", made.photos)
    assert outcome.code == 0 and not unsafe(outcome.out.decode() + outcome.err), outcome.err
    return made


@pytest.fixture
def cli(scene: Scene, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Cli:
    """Runs a command within this process: starting one takes longer than most of what it does."""
    for name, value in scene.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(scene.photos.parent)

    def call(*arguments: str | bytes | Path, input: bytes = b"") -> Outcome:
        capfdbinary.readouterr()
        code = run([os.fsdecode(argument) for argument in arguments])
        out, err = capfdbinary.readouterr()
        return Outcome(code, out, err.decode("utf-8", "surrogateescape"))

    return call


@pytest.mark.case("C73", "C83", "C89")
@pytest.mark.parametrize(
    "command",
    [
        "query red -k 100",
        "query red --to texts -k 100",
        "query red --paths -k 100",
        "query red --json -k 100",
        "query red --to texts --json -k 100",
        "info",
        "info --errors",
        "info --errors --json",
        "tag --label red --label blue",
        "tag --label red --label blue --json",
        "tag --label red --label blue --csv",
        "tag {photos} --label red --label blue",
        "index {photos} --retry-failed",
        "index {photos} --retry-failed --json",
        "check --read-data",
        "check --json",
        "eval {dataset} --no-rerank",
        "eval {dataset} --no-rerank --json",
        "models list",
    ],
)
def test_what_a_command_shows_of_a_hostile_library_is_plain(cli: Cli, scene: Scene, command: str) -> None:
    outcome = cli(
        *[each.format(photos=scene.photos, dataset=scene.photos.parent / "dataset") for each in command.split()]
    )
    assert outcome.code == 0, outcome.err
    assert outcome.out or outcome.err
    assert unsafe(outcome.out.decode("utf-8") + outcome.err) == []


@pytest.mark.promise("R6")
@pytest.mark.parametrize(
    "arguments",
    [
        ["query", EVIL],
        ["query", "--image", EVIL],
        ["query", "red", "--under", EVIL],
        ["query", "red", "--to", EVIL],
        ["query", "red", f"--{EVIL}"],
        ["query", "red", "--model", f"./{EVIL}"],
        ["query", "red", "--collection", f"./{EVIL}"],
        ["query", "red", "--collection", EVIL],
        ["query", "red", "-k", EVIL],
        ["index", EVIL],
        ["info", "--collection", f"./x{EVIL_BYTES!r}"],
        ["eval", EVIL],
        ["eval", f"{EVIL}.csv"],
        ["tag", EVIL, "--label", "a", "--label", "b"],
        ["tag", "--labels", EVIL],
        ["tag", "--label", f"{EVIL}" * 20, "--label", "x"],
        ["tag", "--label", "a", "--label", "b", "--template", EVIL],
        ["models", "info", EVIL],
        ["models", "remove", EVIL],
        ["models", "pull", EVIL],
        ["models", "import", EVIL],
        ["models", "export", EVIL, "--out", "x"],
        ["check", "--collection", f"./{EVIL}"],
        ["repair", "--collection", f"./{EVIL}"],
        ["optimize", "--collection", f"./{EVIL}"],
        ["train", EVIL, "--out", "x"],
        [EVIL],
    ],
    ids=lambda arguments: " ".join(arguments)[:24].encode("ascii", "ignore").decode().replace("\x1b", "ESC"),
)
def test_an_argument_comes_back_escaped(cli: Cli, arguments: list[str]) -> None:
    outcome = cli(*arguments)
    assert outcome.code in (0, 1, 2)
    assert unsafe(outcome.out.decode("utf-8") + outcome.err) == []
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("command", [["query"], ["query", "--image"], ["index"], ["eval"], ["tag"], ["models", "info"]])
def test_an_argument_that_is_not_utf8_comes_back_escaped(cli: Cli, command: list[str]) -> None:
    outcome = cli(*command, EVIL_BYTES + b".jpg")
    assert outcome.code in (1, 2)
    assert unsafe(outcome.err) == [] and "Traceback" not in outcome.err


@pytest.mark.case("C82")
def test_print0_gives_the_exact_bytes_of_every_name(cli: Cli, scene: Scene) -> None:
    outcome = cli("query", "red", "-k", "100", "--print0")
    shown = set(outcome.out.split(b"\0")) - {b""}
    assert shown == {os.fsencode(scene.photos) + b"/" + name + b".png" for name in HOSTILE_NAMES}


@pytest.mark.case("C82")
def test_json_gives_the_exact_bytes_beside_what_is_shown(cli: Cli) -> None:
    hits = cli("query", "red", "-k", "100", "--json").json["hits"]
    exact = {base64.b64decode(hit["path_b64"]).rpartition(b"/")[2] for hit in hits}
    assert exact == {name + b".png" for name in HOSTILE_NAMES}
    assert not any(unsafe(hit["path"]) for hit in hits)


@pytest.mark.case("C73")
def test_json_gives_captions_exactly(cli: Cli) -> None:
    hits = cli("query", "red", "--to", "texts", "-k", "100", "--json").json["hits"]
    assert {hit["text"] for hit in hits} == {" ".join(text.split()) for text in HOSTILE_TEXTS}


@pytest.mark.case("S34")
def test_csv_can_be_read_back_and_no_cell_is_a_formula(cli: Cli) -> None:
    labels = ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "red"]
    options = [each for label in labels for each in ("--label", label)]
    outcome = cli("tag", *options, "--csv")
    rows = list(csv.DictReader(io.StringIO(outcome.out.decode("utf-8"))))
    assert len(rows) >= len(HOSTILE_NAMES)
    assert {row["label"].lstrip("'") for row in rows} <= {" ".join(label.split()) for label in labels}
    for row in rows:
        assert not any(cell.startswith(("=", "+", "@", "\t", "\r")) for cell in row.values())
        assert not row["label"].startswith("-") and not row["path"].startswith("-")


def test_a_traceback_that_was_asked_for_is_escaped_too(cli: Cli) -> None:
    outcome = cli("query", "red", "--under", EVIL, "--collection", f"./{EVIL}", "--debug")
    assert "Traceback" in outcome.err
    assert unsafe(outcome.err) == []


def test_text_that_no_terminal_of_this_encoding_has_is_escaped(scene: Scene) -> None:
    poor = Scene(scene.photos, scene.collection, {**scene.environment, "PYTHONIOENCODING": "ascii"})
    outcome = poor.start([sys.executable, "-m", "mmsearch", "query", "red", "--to", "texts"])
    assert outcome.code == 0 and outcome.out.isascii()
