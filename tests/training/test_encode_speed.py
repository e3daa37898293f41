"""What is timed takes turns, and the first turns do not count."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from mmsearch.model import load_model  # noqa: E402
from mmsearch.training.encode_speed import calls, medians  # noqa: E402


def test_calls_take_turns() -> None:
    order: list[str] = []
    found = medians({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == ["a", "b"] * 5
    assert set(found) == {"a", "b"}
    assert min(found.values()) >= 0


def test_a_model_without_a_head_is_timed_without_rerank(tiny_model_dir: Path, tiny_itm_model_dir: Path) -> None:
    assert set(calls(load_model(tiny_model_dir))) == {"photo", "sentence"}
    timed = calls(load_model(tiny_itm_model_dir))
    assert set(timed) == {"photo", "sentence", "rerank"}
    for call in timed.values():
        call()
