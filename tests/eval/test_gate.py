"""The quality gate: holds, falls, skips, and says which."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import platformdirs
import pytest
from colour_pictures import write_colour_pairs
from tiny_model import write_tiny_model

from mmsearch.errors import ModelError
from mmsearch.eval import gate
from mmsearch.eval.gate import GateRecord, judge, main, measure
from mmsearch.model import load_model

RECORD = GateRecord("a slice", 250, 1250, "ab" * 32, 0.7, 0.005)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(gate, "TABLE", "pairs.csv")
    monkeypatch.setattr(gate, "SLICE_IMAGES", 12)
    write_colour_pairs(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("measured", "held"), [(0.7, True), (0.6951, True), (0.6949, False), (0.9, True)])
def test_only_a_fall_beyond_the_tolerance_fails(measured: float, held: bool) -> None:
    verdict = judge(replace(RECORD, mean_recall=measured), {"gate": asdict(RECORD)})
    assert verdict.held is held
    assert f"mean recall {measured:.4f}, recorded 0.7000, lowest allowed 0.6950" in verdict.sentence


def test_other_data_than_the_recorded_is_skipped_not_judged() -> None:
    verdict = judge(replace(RECORD, sha256="cd" * 32, mean_recall=0.1), {"gate": asdict(RECORD)})
    assert verdict.held
    assert "skipped: the data is not that of the recorded number" in verdict.sentence


@pytest.mark.parametrize("quality", [{}, {"gate": {}}, {"gate": None}, {"gate": {**asdict(RECORD), "extra": 1}}])
def test_a_manifest_without_a_number_is_refused(quality: dict[str, object]) -> None:
    with pytest.raises(ModelError, match=r"no usable quality.gate .*--record prints one"):
        judge(RECORD, quality)


def test_the_slice_is_the_first_images_by_name(data: Path, tiny_model_dir: Path) -> None:
    found = measure(data, load_model(tiny_model_dir, threads=1))
    assert (found.images, found.captions) == (12, 24)
    assert 0 < found.mean_recall <= 1
    assert list(Path(platformdirs.user_cache_path("mmsearch")).rglob("*.shard")) == []


def test_missing_data_is_skipped_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([]) == 0
    assert "skipped: neither --data nor MMSEARCH_EVAL_DATA is given" in capsys.readouterr().out
    monkeypatch.setenv("MMSEARCH_EVAL_DATA", str(tmp_path))
    assert main([]) == 0
    assert "val.csv is not there" in capsys.readouterr().out


def test_what_is_recorded_holds_and_what_is_promised_above_it_falls(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_tiny_model(tmp_path / "model")
    command = ["--data", str(data), "--model", str(model)]
    assert main([*command, "--record"]) == 0
    recorded = json.loads(capsys.readouterr().out)["gate"]
    for promised, code, word in ((0.0, 0, "held"), (0.02, 1, "failed")):
        manifest = json.loads((model / "manifest.json").read_text())
        manifest["quality"] = {"gate": {**recorded, "mean_recall": recorded["mean_recall"] + promised}}
        (model / "manifest.json").write_text(json.dumps(manifest))
        assert main(command) == code
        assert f"quality gate {word}: mean recall" in capsys.readouterr().out


def test_errors_fail_the_gate_in_a_sentence(
    data: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--data", str(data), "--model", str(tiny_model_dir)]) == 1
    assert "no usable quality.gate" in capsys.readouterr().out
    (data / "red.png").unlink()
    assert main(["--data", str(data), "--model", str(tiny_model_dir)]) == 1
    assert "1 missing images" in capsys.readouterr().out
