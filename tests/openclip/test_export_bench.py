"""The bench of encoders, on a model small enough to be timed at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmsearch.errors import UsageError
from mmsearch.eval.bench.encoder import AUTOCAST, INT8, ONNX, PLAIN, TORCH, measure, run
from mmsearch.eval.bench.request import BenchRequest
from mmsearch.model_manifest import load_model_manifest


@pytest.fixture(autouse=True)
def threads_as_before() -> object:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_every_way_is_timed_with_pictures_and_with_sentences(openclip_dirs: dict[str, Path], tmp_path: Path) -> None:
    manifest = load_model_manifest(openclip_dirs["vit"])
    result = measure(manifest, BenchRequest(size=2, rounds=1, threads=1), tmp_path)
    ways = (PLAIN, AUTOCAST, TORCH, ONNX, INT8)
    assert [row[:2] for row in result.rows] == [(kind, way) for kind in ("pictures", "sentences") for way in ways]
    assert all(isinstance(row[4], float) and row[4] > 0 for row in result.rows)
    assert f"pictures: {ONNX} / {PLAIN}" in result.ratios


def test_a_model_that_open_clip_does_not_run_is_refused(tiny_model_dir: Path) -> None:
    with pytest.raises(UsageError, match="expected one that open_clip runs"):
        run(BenchRequest(model=str(tiny_model_dir)))
