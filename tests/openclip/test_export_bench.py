"""The bench of encoders, on a model small enough to be timed at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmsearch.errors import UsageError
from mmsearch.eval.bench.encoder import AUTOCAST, BFLOAT, INT8, ONNX, PLAIN, TORCH, measure, run
from mmsearch.eval.bench.request import BenchRequest
from mmsearch.model_manifest import load_model_manifest


@pytest.fixture(autouse=True)
def threads_as_before() -> object:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_every_way_is_timed_with_pictures_and_with_sentences(openclip_dirs: dict[str, Path], tmp_path: Path) -> None:
    manifest = load_model_manifest(openclip_dirs["vit"])
    result = measure(manifest, BenchRequest(size=2, rounds=1, threads=1), work=tmp_path)
    ways = (PLAIN, AUTOCAST, TORCH, BFLOAT, ONNX, INT8)
    assert [row[:2] for row in result.rows] == [(kind, way) for kind in ("pictures", "sentences") for way in ways]
    assert all(isinstance(row[4], float) and row[4] > 0 for row in result.rows)
    assert {f"pictures: {ONNX} / {PLAIN}", f"sentences: {ONNX} / {BFLOAT}"} <= result.ratios.keys()
    near = {row[:2]: float(row[5]) for row in result.rows if isinstance(row[5], str)}
    for kind in ("pictures", "sentences"):
        assert near[kind, PLAIN] == pytest.approx(1) and near[kind, TORCH] > 0.99999 and near[kind, ONNX] > 0.9999
        assert 0.99 < near[kind, BFLOAT] < 0.999999


def test_the_baseline_in_bfloat16_converts_each_weight_once(
    openclip_dirs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inference: list[bool] = []

    class Watched(torch.autocast):
        def __enter__(self) -> object:
            inference.append(torch.is_inference_mode_enabled())
            return super().__enter__()  # type: ignore[no-untyped-call]

    monkeypatch.setattr(torch, "autocast", Watched)
    manifest = load_model_manifest(openclip_dirs["vit"])
    measure(manifest, BenchRequest(size=2, rounds=1, threads=1), work=tmp_path)
    assert inference and not any(inference)


def test_a_model_that_open_clip_does_not_run_is_refused(tiny_model_dir: Path) -> None:
    with pytest.raises(UsageError, match="expected one that open_clip runs"):
        run(BenchRequest(model=str(tiny_model_dir)))
