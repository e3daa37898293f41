from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from running import Cli, Outcome, in_process, python
from small_collection import CAPTIONS, ODD_NAME, SmallCollection, write_small_collection
from tiny_model import COLOURS, write_tiny_model

from mmsearch.model import load_model
from mmsearch.safe_text import safe_path

HIT_KEYS = [
    "rank",
    "id",
    "kind",
    "path",
    "path_b64",
    "part",
    "locator",
    "score",
    "ranked_by",
    "similarity",
    "match_prob",
    "text",
    "missing",
]


def first_path(outcome: Outcome) -> str:
    assert outcome.code == 0, outcome.err
    return outcome.lines[0]


def test_a_sentence_finds_pictures_one_line_each(at_small: SmallCollection, cli: Cli) -> None:
    outcome = cli("query", "red", "-k", "3")
    assert outcome.code == 0
    assert outcome.err == ""
    assert len(outcome.lines) == 3
    assert outcome.lines[0] == f"1   1.000  {at_small.photo('red')}"


def test_texts_show_where_they_stand_and_how_they_begin(at_small: SmallCollection, cli: Cli) -> None:
    outcome = cli("query", "yellow", "--to", "texts", "-k", "1")
    assert outcome.lines == [f"1   1.000  {at_small.photos / 'captions.txt'}, paragraph 5", f"{'':11}yellow"]


@pytest.mark.case("S14")
def test_no_control_character_of_a_name_or_a_text_reaches_the_terminal(at_small: SmallCollection, cli: Cli) -> None:
    for target in ("images", "texts"):
        out = cli("query", "magenta", "--to", target).out
        assert not [byte for byte in out if byte < 0x20 and byte != 0x0A]
        out.decode("utf-8")
    assert rb"magenta\xff\n.png" in cli("query", "magenta").out
    assert rb"black\x1b[31m white" in out


def test_paths_are_escaped_one_a_line_and_print0_is_exact(at_small: SmallCollection, cli: Cli) -> None:
    shown = cli("query", "magenta", "--paths")
    assert shown.lines[0] == safe_path(at_small.photo("magenta"))
    assert len(shown.lines) == len(COLOURS)
    for option in ("-0", "--print0"):
        exact = cli("query", "magenta", option).out
        assert exact.endswith(b"\0")
        assert exact.split(b"\0")[0] == os.path.join(os.fsencode(at_small.photos), ODD_NAME)
        assert all(Path(os.fsdecode(path)).exists() for path in exact.split(b"\0")[:-1])


def test_json_has_exactly_the_keys_of_the_contract(at_small: SmallCollection, cli: Cli) -> None:
    outcome = cli("query", "magenta", "--json", "-k", "2")
    assert list(outcome.json) == ["schema_version", "query", "model", "hits", "timing_ms"]
    assert (outcome.json["schema_version"], outcome.json["model"]) == (1, "tiny")
    first, second = outcome.json["hits"]
    assert list(first) == list(second) == HIT_KEYS
    assert base64.b64decode(first["path_b64"]) == os.fsencode(at_small.photo("magenta"))
    assert first["path"] == safe_path(at_small.photo("magenta"))
    assert (first["rank"], first["kind"], first["ranked_by"], first["missing"]) == (1, "image", "similarity", False)
    assert (first["match_prob"], first["text"], first["locator"], first["part"]) == (None, None, None, 0)
    assert first["score"] == first["similarity"] == 1.0
    assert outcome.out.isascii()
    assert outcome.out.count(b"\n") == 1


def test_json_says_what_was_asked(at_small: SmallCollection, cli: Cli) -> None:
    photo, folder = at_small.photo("red"), at_small.photos
    asked = cli("query", photo, "--text", "dog", "--to", "texts", "--under", folder, "--min-similarity", "-1", "--json")
    assert asked.json["query"] == {
        "text": "dog",
        "image": photo,
        "to": "texts",
        "k": 10,
        "under": str(folder),
        "min_similarity": -1.0,
        "rerank": False,
        "text_weight": 0.5,
    }
    assert [hit["text"] for hit in asked.json["hits"]].count(CAPTIONS[3]) == 1


def test_an_argument_that_names_an_image_is_one(
    at_small: SmallCollection, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(at_small.photos)
    asked = cli("query", "blue.png", "--json").json
    assert (asked["query"]["image"], asked["query"]["text"]) == ("blue.png", None)
    assert asked["hits"][0]["path"] == at_small.photo("blue")


def test_an_image_is_known_by_its_content_too(at_small: SmallCollection, cli: Cli, tmp_path: Path) -> None:
    shutil.copy(at_small.photo("blue"), tmp_path / "noname")
    assert first_path(cli("query", tmp_path / "noname", "--paths")) == at_small.photo("blue")


def test_words_that_happen_to_name_something_else_stay_words(
    at_small: SmallCollection, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("red").mkdir()
    Path("green").write_text("just notes")
    os.mkfifo("blue")
    Path("white").write_bytes(b"%PDF-1.7")
    for word in ("red", "green", "blue", "white", "black " * 2000):
        asked = cli("query", word, "--json").json
        assert (asked["query"]["text"], asked["query"]["image"]) == (word, None)


@pytest.mark.parametrize("name", ["holiday.jpg", "./HOLIDAY.JPEG", "a dog.png", "x.heic"])
def test_an_image_that_is_not_there_is_an_error_not_a_sentence(at_small: SmallCollection, cli: Cli, name: str) -> None:
    outcome = cli("query", name)
    assert (outcome.code, outcome.out) == (2, b"")
    assert f"there is no image file {name}; to ask for these words, use --text" in outcome.err
    assert cli("query", "--text", name).code == 0


def test_an_image_option_that_is_not_there_is_an_error(at_small: SmallCollection, cli: Cli, tmp_path: Path) -> None:
    outcome = cli("query", "--image", tmp_path / "none")
    assert outcome.code == 2
    assert "there is no such file" in outcome.err


def test_a_picture_that_cannot_be_read_is_a_failure_with_its_reason(
    at_small: SmallCollection, cli: Cli, tmp_path: Path
) -> None:
    (tmp_path / "a.jpg").write_bytes(b"<html>")
    outcome = cli("query", tmp_path / "a.jpg")
    assert (outcome.code, outcome.out) == (1, b"")
    assert "unidentified" in outcome.err


def test_text_and_image_compose_whichever_way_they_are_given(at_small: SmallCollection, cli: Cli) -> None:
    photo = at_small.photo("blue")
    ways = [("green", "--image", photo), (photo, "--text", "green"), ("--text", "green", "--image", photo)]
    answers = [cli("query", *way, "--json").json["hits"] for way in ways]
    assert answers[0] == answers[1] == answers[2]
    assert answers[0] != cli("query", photo, "--json").json["hits"]


def test_two_sentences_or_two_images_are_refused(at_small: SmallCollection, cli: Cli) -> None:
    photo = at_small.photo("blue")
    assert "two sentences" in cli("query", "red", "--text", "green").err
    assert "two images" in cli("query", photo, "--image", photo).err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        [""],
        ["red", "-k", "0"],
        ["red", "-k", "many"],
        ["red", "--to", "videos"],
        ["red", "--min-similarity", "2"],
        ["red", "--min-similarity", "nan"],
        ["red", "--rerank"],
        ["red", "--json", "--paths"],
        ["red", "--json", "-0"],
        ["red", "green"],
        ["red", "--colour"],
        ["red", "--collection", "no/../such name;"[9:]],
    ],
)
def test_wrong_usage_is_one_line_on_stderr_and_exit_2(
    at_small: SmallCollection, cli: Cli, arguments: list[str]
) -> None:
    outcome = cli("query", *arguments)
    assert (outcome.code, outcome.out) == (2, b"")
    assert outcome.err.startswith("mmsearch: ")
    assert outcome.err.count("\n") == 1


def test_nothing_found_is_no_failure(at_small: SmallCollection, cli: Cli) -> None:
    outcome = cli("query", "a dog", "--min-similarity", "1")
    assert (outcome.code, outcome.out) == (0, b"")
    assert outcome.err == "mmsearch: nothing found\n"
    assert cli("query", "a dog", "--min-similarity", "1", "--json").json["hits"] == []


def test_a_folder_outside_of_the_roots_is_pointed_out_and_no_failure(
    at_small: SmallCollection, cli: Cli, tmp_path: Path
) -> None:
    (tmp_path / "odd\n").mkdir()
    outcome = cli("query", "red", "--under", tmp_path / "odd\n", "--json")
    assert (outcome.code, outcome.json["hits"]) == (0, [])
    note, last = outcome.err.splitlines()
    assert note == (
        f"mmsearch: {tmp_path}/odd\\n lies in no indexed folder and holds none; indexed are: {at_small.photos}"
    )
    assert last == "mmsearch: nothing found"
    (empty := at_small.photos / "empty").mkdir()
    assert cli("query", "red", "--under", empty).err == "mmsearch: nothing found\n"
    empty.rmdir()


def test_a_folder_that_is_not_there_and_never_was_is_a_slip(
    at_small: SmallCollection, cli: Cli, tmp_path: Path
) -> None:
    for under in (tmp_path / "hoilday", at_small.photos / "hoilday"):
        outcome = cli("query", "red", "--under", under)
        assert (outcome.code, outcome.out) == (2, b"")
        assert outcome.err == (
            f"mmsearch: {under}: there is no such folder, and none was indexed; indexed are: {at_small.photos}\n"
        )


def test_a_folder_that_is_gone_still_holds_what_was_indexed_there(
    at_small: SmallCollection, cli: Cli, tmp_path: Path
) -> None:
    before = cli("query", "red", "--under", at_small.photos / "warm").out
    at_small.photos.rename(tmp_path / "unplugged")
    try:
        gone = cli("query", "red", "--under", at_small.photos / "warm")
        texts = cli("query", "red", "--under", at_small.photos / "warm", "--to", "texts")
    finally:
        (tmp_path / "unplugged").rename(at_small.photos)
    assert (gone.code, gone.out) == (0, before)
    assert (texts.code, texts.err) == (0, "mmsearch: nothing found\n")


def test_a_folder_reached_by_a_link_is_the_folder(at_small: SmallCollection, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(at_small.photos)
    outcome = cli("query", "red", "--under", tmp_path / "link", "--paths")
    assert (len(outcome.lines), outcome.err) == (len(COLOURS), "")


def test_the_only_image_is_named_without_a_number(at_small: SmallCollection, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"<html>")
    assert cli("query", "--image", tmp_path / "a.jpg").err.startswith(f"mmsearch: unidentified: {tmp_path}/a.jpg: ")


def test_a_collection_that_is_not_there_is_a_failure_that_says_what_to_do(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("query", "red", "--collection", tmp_path / "none")
    assert (outcome.code, outcome.out) == (1, b"")
    assert "mmsearch index" in outcome.err
    assert outcome.err.count("\n") == 1


def test_another_model_is_refused_naming_both(at_small: SmallCollection, cli: Cli, tmp_path: Path) -> None:
    outcome = cli("query", "red", "--model", write_tiny_model(tmp_path / "other", name="other", seed=1))
    assert (outcome.code, outcome.out) == (1, b"")
    assert "'tiny'" in outcome.err
    assert "'other'" in outcome.err


@pytest.mark.promise("R6")
def test_a_damaged_collection_exits_with_5(at_small: SmallCollection, cli: Cli, tmp_path: Path) -> None:
    copy = shutil.copytree(at_small.directory, tmp_path / "copy")
    (copy / "CURRENT").write_text("seven")
    outcome = cli("query", "red", "--collection", copy)
    assert (outcome.code, outcome.out) == (5, b"")
    assert "mmsearch repair" in outcome.err


def test_a_dash_reads_the_sentence_from_stdin(at_small: SmallCollection) -> None:
    outcome = in_process("query", "-", "--json", input=b"gr\xc3\xbcn\nred \xff\n")
    assert outcome.json["query"]["text"] == "grün\nred \ufffd"


def test_arguments_that_are_not_utf8_are_taken_as_they_are(at_small: SmallCollection) -> None:
    photo = os.path.join(os.fsencode(at_small.photos), ODD_NAME)
    assert in_process("query", photo, "--print0", "-k", "1").out == photo + b"\0"
    asked = in_process("query", b"caf\xe9 red", "--json")
    assert asked.json["query"]["text"] == "caf\ufffd red"
    gone = in_process("query", b"caf\xe9\x1b.jpg")
    assert (gone.code, gone.err.count("\n")) == (2, 1)
    assert r"caf\xe9\x1b.jpg" in gone.err


@pytest.mark.parametrize("form", ["--paths", "--json", "-0"])
def test_a_reader_that_goes_away_is_no_error(at_small: SmallCollection, form: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "mmsearch", "query", "red", form]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with os.fdopen(writer, "wb") as stdout:
        done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, env=buffered, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_full_disk_is_a_failure_on_one_line(at_small: SmallCollection) -> None:
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-m", "mmsearch", "query", "red"]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=buffered, timeout=60, check=False)
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    assert b"the output cannot be written: No space left" in done.stderr


def test_output_in_a_poor_encoding_is_escaped_not_refused(
    at_small: SmallCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    assert in_process("query", "犬", "--json").json["query"]["text"] == "犬"
    shown = python("-c", "from mmsearch.cli.output import print_lines; print_lines(['犬.jpg'])")
    assert (shown.code, shown.out) == (0, b"\\u72ac.jpg\n")


@pytest.fixture
def at_reranked(tmp_path: Path, tiny_itm_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> SmallCollection:
    """A collection of a model with a matching head, which commands use that name none."""
    small = write_small_collection(tmp_path, load_model(tiny_itm_model_dir, threads=1))
    monkeypatch.setenv("MMSEARCH_COLLECTION", str(small.directory))
    monkeypatch.setenv("MMSEARCH_MODEL", str(tiny_itm_model_dir))
    return small


def test_a_model_with_a_head_says_how_likely_a_match_is(at_reranked: SmallCollection, cli: Cli) -> None:
    value = cli("query", "red", "--json").json
    assert value["query"]["rerank"] is True
    hit = value["hits"][0]
    assert (hit["ranked_by"], hit["similarity"], hit["match_prob"]) == ("itm", 1.0, pytest.approx(0.982014, abs=2e-6))
    scores = [hit["score"] for hit in value["hits"]]
    assert scores == sorted(scores, reverse=True)
    assert value["timing_ms"]["rerank"] > 0


def test_the_number_of_a_line_is_the_score_that_orders_it(at_reranked: SmallCollection, cli: Cli) -> None:
    lines = cli("query", "red").lines
    hits = cli("query", "red", "--json").json["hits"]
    assert [float(line.split()[1]) for line in lines] == [round(hit["score"], 3) for hit in hits]
    assert any(hit["score"] != hit["similarity"] for hit in hits)


def test_a_text_stands_under_its_place(at_reranked: SmallCollection, cli: Cli) -> None:
    photo = at_reranked.photo("yellow")
    score = cli("query", photo, "--to", "texts", "-k", "1", "--json").json["hits"][0]["score"]
    assert cli("query", photo, "--to", "texts", "-k", "1").lines == [
        f"1  {score:6.3f}  {at_reranked.photos / 'captions.txt'}, paragraph 5",
        f"{'':11}yellow",
    ]


def test_no_rerank_is_the_plain_search(at_reranked: SmallCollection, cli: Cli) -> None:
    value = cli("query", "red", "--no-rerank", "--json").json
    assert value["query"]["rerank"] is False
    for hit in value["hits"]:
        assert (hit["ranked_by"], hit["score"], hit["match_prob"]) == ("similarity", hit["similarity"], None)
    assert cli("query", "red", "--no-rerank").lines[0] == f"1   1.000  {at_reranked.photo('red')}"


def test_text_weight_says_how_much_the_sentence_counts(at_reranked: SmallCollection, cli: Cli) -> None:
    photo = at_reranked.photo("blue")
    for weight, colour in (("0", "blue"), ("1", "green")):
        found = cli("query", photo, "--text", "green", "--text-weight", weight, "--json").json
        assert found["query"]["text_weight"] == float(weight)
        assert found["hits"][0]["path"] == at_reranked.photo(colour)
    assert cli("query", photo, "--text", "green", "--text-weight", "2").code == 2
