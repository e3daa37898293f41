"""`mmsearch eval`, as a person and a script use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from colour_pictures import write_colour_pairs
from small_collection import write_small_collection

from mmsearch.cli.main import run
from mmsearch.model import load_model


@pytest.fixture
def table(tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MMSEARCH_MODEL", str(tiny_model_dir))
    return str(write_colour_pairs(tmp_path))


def as_json(capfd: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert run(["eval", *arguments, "--json"]) == 0
    return json.loads(capfd.readouterr().out)


def test_text_shows_both_directions_with_intervals(table: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", table]) == 0
    out, err = capfd.readouterr()
    assert "tiny on pairs.csv: 16 images, 32 captions" in out
    assert "text to image" in out and "image to text" in out
    for name in ("recall@1", "recall@5", "recall@10", "median rank", "mean recall"):
        assert any(line.startswith(name) and " to " in line for line in out.splitlines()), name
    assert "of the exact top 10" in out
    assert err == ""


def test_json_is_one_object_with_the_contract(table: str, capfd: pytest.CaptureFixture[str]) -> None:
    value = as_json(capfd, table)
    assert list(value)[:5] == ["schema_version", "model", "images", "captions", "rerank"]
    assert value["schema_version"] == 1
    assert set(value["text_to_image"]) >= {"recall@1", "recall@5", "recall@10", "median_rank", "mrr"}
    assert value["comparison"] is None


def test_k_is_what_was_asked_for(table: str, capfd: pytest.CaptureFixture[str]) -> None:
    value = as_json(capfd, table, "--k", "3,2")
    assert {name for name in value["text_to_image"]["intervals"] if name.startswith("recall@")} == {
        "recall@2",
        "recall@3",
    }


def test_save_then_compare(table: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    saved = str(tmp_path / "run.json")
    as_json(capfd, table, "--save", saved)
    value = as_json(capfd, table, "--compare", saved)
    assert value["comparison"]["mean_recall"]["verdict"] == "no difference shown"
    assert run(["eval", table, "--compare", saved]) == 0
    assert "no difference shown; 0 queries won, 0 lost" in capfd.readouterr().out


def test_reranked_numbers_stand_above_those_of_the_embeddings_alone(
    table: str, tmp_path: Path, tiny_itm_model_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = str(tiny_itm_model_dir)
    saved = str(tmp_path / "plain.json")
    plain = as_json(capfd, table, "--model", model, "--save", saved)
    value = as_json(capfd, table, "--model", model, "--rerank", "--compare", saved)
    assert (plain["rerank"], value["rerank"]) == (False, True)
    assert value["embedding_only"] == plain["embedding_only"]
    assert value["comparison"]["after"] == f"{value['comparison']['before']}, reranked"
    assert run(["eval", table, "--model", model, "--rerank"]) == 0
    out = capfd.readouterr().out
    assert "tiny, reranked, on pairs.csv" in out
    above, alone = out.split("By the embeddings alone:")
    for page, numbers in ((above, value), (alone, value["embedding_only"])):
        line = next(each for each in page.splitlines() if each.startswith("recall@1 "))
        assert f"{100 * numbers['text_to_image']['recall@1']:.1f} %" in line[14:40]
        assert f"{100 * numbers['image_to_text']['recall@1']:.1f} %" in line[40:]
        mean = next(each for each in page.splitlines() if each.startswith("mean recall"))
        assert f"{100 * numbers['mean_recall']:.1f} %" in mean


def test_report_is_written_and_named(table: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="the extra `report` is not installed")
    pytest.importorskip("jinja2", reason="the extra `report` is not installed")
    assert run(["eval", table, "--report", str(tmp_path / "report")]) == 0
    assert "report/index.html" in capfd.readouterr().err
    assert (tmp_path / "report" / "index.html").is_file()


def test_collection_is_measured_on_request(
    table: str, tmp_path: Path, tiny_model_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    small = write_small_collection(tmp_path / "own", load_model(tiny_model_dir, threads=1))
    value = as_json(capfd, table, "--collection", str(small.directory))
    assert value["collection_ann"]["vectors"] == 8
    assert run(["eval", table, "--collection", str(small.directory)]) == 0
    assert "Collection    exact, 8 vectors" in capfd.readouterr().out


def test_problems_are_one_line_and_allow_missing_counts_them(
    table: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "red.png").unlink()
    assert run(["eval", table]) == 1
    assert capfd.readouterr().err.startswith("mmsearch: 1 missing images (line 2: red.png)")
    assert run(["eval", table, "--allow-missing"]) == 0
    assert "left out: 1 missing images" in capfd.readouterr().err
    assert as_json(capfd, table, "--allow-missing")["excluded"]["missing_images"] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--rerank"], 2, "rerank is not possible"),
        (["--k", "one"], 2, "--k is 'one', expected numbers with commas"),
        (["--k", "0"], 2, "from 1 up"),
        (["--k", "99"], 2, "k = 99 does not fit 16 images"),
        (["--split", "val"], 1, "has no splits"),
        (["--compare", "gone.json"], 2, "cannot be read"),
        (["--save", "no/such/folder/run.json"], 2, "there is no folder"),
        (["--images", "nowhere"], 1, "is no folder"),
    ],
)
def test_refusals_say_why(
    table: str, capfd: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert run(["eval", table, *arguments]) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_a_report_into_somebodys_folder_is_refused_before_the_work(
    table: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="the extra `report` is not installed")
    for picture in tmp_path.glob("*.png"):
        picture.unlink()
    assert run(["eval", table, "--report", str(tmp_path)]) == 2
    assert "is not a report of ours" in capfd.readouterr().err


@pytest.mark.case("S14")
def test_names_cannot_move_the_cursor(table: str, capfd: pytest.CaptureFixture[str]) -> None:
    odd = Path(table).rename(Path(table).with_name("a\x1b[31m.csv"))
    assert run(["eval", str(odd)]) == 0
    out, err = capfd.readouterr()
    assert "\x1b" not in out + err
    assert r"a\x1b[31m.csv" in out
