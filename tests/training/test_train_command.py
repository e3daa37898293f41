"""`mmsearch train`, as a person and a script use it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mmsearch.cli.main import run
from mmsearch.cli.train import _summary
from mmsearch.training import extra, eyes

pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("safetensors")
pytest.importorskip("matplotlib")

from tiny_training import TorchSession, write_coloured_photos

from mmsearch.training.captions import CaptionedImages
from mmsearch.training.plan import Plan
from mmsearch.training.train_data import TrainData
from mmsearch.training.train_run import TrainReport
from mmsearch.training.validation import Recalls


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, starting_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("world")
    (folder / "start").symlink_to(starting_model)
    write_coloured_photos(folder / "photos")
    return folder


def arguments(world: Path, out: Path, *more: str) -> list[str]:
    return ["train", str(world / "photos" / "pairs.csv"), "--out", str(out), "--from", str(world / "start"), *more]


def test_json_says_what_was_learned_and_what_it_came_to(
    world: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eyes, "early_session", TorchSession)
    (world / "photos" / "red-green.png").write_bytes(b"broken")
    assert run(arguments(world, tmp_path / "model", "--epochs", "1", "--seed", "7", "--json")) == 0
    out, err = capfd.readouterr()
    value = json.loads(out)
    assert list(value)[:3] == ["schema_version", "model", "out"]
    assert value["out"]["path"] == str(tmp_path / "model")
    assert (value["images"], value["validation_images"]) == (35, 4)
    assert [Path(each["path"]).name for each in value["skipped"]] == ["red-green.png"]
    assert value["skipped"][0]["reason"] == "unidentified"
    assert (value["epochs"], value["best_epoch"], value["seed"], value["objectives"]) == (1, 1, 7, ["itc"])
    for side in ("before", "after"):
        assert set(value[side]) == {"text_to_image", "image_to_text", "mean_recall"}
    assert "skipped 1 pictures that cannot be read" in err and "red-green.png" in err
    assert "epoch 1 of 1: loss" in err
    model, collection = str(tmp_path / "model"), str(tmp_path / "collection")
    assert run(["index", str(world / "photos"), "--model", model, "--collection", collection, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["indexed"] == 40  # with pairs.csv
    assert run(["query", "red and blue", "--model", model, "--collection", collection, "--json"]) == 0
    assert len(json.loads(capfd.readouterr().out)["hits"]) == 10


def report(out: Path, *, after: float) -> TrainReport:
    plan = Plan("mini", "d", "s", "itc", epochs=3, batch=8, seed=0, rate=3e-4, views=10)
    photos = CaptionedImages(tuple(Path(f"{n}.jpg") for n in range(9)), ("x",) * 9, np.arange(9))
    data = TrainData("pairs.csv", "pairs.csv, held out", photos, photos, (), (), "d")
    before, now = Recalls((0.25, 0.5, 0.75), (0.2, 0.4, 0.6)), Recalls((after,) * 3, (after,) * 3)
    return TrainReport(out, "model", plan, data, 2, before, now, "CPU", 61.0)


def test_text_names_the_recalls_and_the_command_that_uses_the_model() -> None:
    lines = list(_summary(report(Path("model"), after=0.9)))
    assert lines[0] == "model: 9 photos, 3 epochs (kept: 2) in 61 s on CPU"
    assert "before training 25.0 50.0 75.0 20.0 40.0 60.0 45.0 %" in [" ".join(line.split()) for line in lines]
    assert any("the new model" in line and line.endswith("90.0 %") for line in lines)
    assert any("--model ./model" in line for line in lines)
    assert not any("worse" in line for line in lines)


def test_a_model_that_became_worse_is_called_so() -> None:
    assert any("worse than the model it started from" in line for line in _summary(report(Path("/m"), after=0.1)))


def test_a_missing_extra_is_named_with_the_command_that_installs_it(
    world: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extra, "NEEDS", ("json", "no_such_package", "nor_this"))
    assert run(arguments(world, tmp_path / "model")) == 1
    err = capfd.readouterr().err
    assert err == ("mmsearch: training needs no_such_package, nor_this; install with: pip install 'mmsearch[train]'\n")
    assert not (tmp_path / "model").exists()


def test_a_value_that_cannot_be_used_is_a_usage_error(
    world: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments(world, tmp_path / "model", "--epochs", "0")) == 2
    assert capfd.readouterr().err == "mmsearch: --epochs is 0, expected a whole number above 0\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_says_how_to_go_on_and_exits_with_130(world: Path, tmp_path: Path, number: int) -> None:
    command = [sys.executable, "-m", "mmsearch", *arguments(world, tmp_path / "model", "--epochs", "2000")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if line.startswith("mmsearch: epoch 2 "):
            process.send_signal(number)
            break
    else:
        pytest.fail("".join(said))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    last = err.splitlines()[-1]
    assert "stopped after step" in last and "the same command with --resume goes on" in last
    assert (tmp_path / "model" / "training" / "checkpoint.safetensors").stat().st_mtime > time.time() - 60
