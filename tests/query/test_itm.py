"""The matching head: what it computes, what it refuses, and when it is read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_model import MAX_TEXT_TOKENS, STATE_DIM, TOKEN_DIM, TOKENS, write_manifest

from mmsearch import itm
from mmsearch.errors import ModelError
from mmsearch.itm import MatchScorer, match_prob
from mmsearch.model_manifest import load_model_manifest

RANDOM = np.random.default_rng(3)


@pytest.fixture
def scorer(tiny_itm_model_dir: Path) -> MatchScorer:
    return MatchScorer(load_model_manifest(tiny_itm_model_dir), threads=1)


def some_tokens(count: int) -> np.ndarray:
    return RANDOM.integers(-127, 128, (count, TOKENS, TOKEN_DIM), dtype=np.int8)


def some_states(count: int, length: int = MAX_TEXT_TOKENS) -> tuple[np.ndarray, np.ndarray]:
    """States with a colour word in every other place, and masks of different lengths."""
    states = RANDOM.random((count, length, STATE_DIM), dtype=np.float32)
    states[..., 0] = np.arange(length) % 2
    mask = (np.arange(length) < RANDOM.integers(2, length + 1, count)[:, None]).astype(np.int64)
    return states, mask


def naive_logits(tokens: np.ndarray, states: np.ndarray, mask: np.ndarray) -> list[float]:
    """What the tiny head says of each pair, word by word."""
    found = []
    for picture, words, kept in zip(tokens, states, mask, strict=True):
        patches = picture[:, :3].astype(np.float64) / 254
        missed = [((patches - word[1:4]) ** 2).sum(1).min() for word in words[(words[:, 0] == 1) & (kept == 1)]]
        found.append(4 - 8 * max(missed) if missed else 0.0)
    return found


def spoiled(source: Path, target: Path, change: Callable[[onnx.ModelProto], object]) -> MatchScorer:
    """The head of a copy of the model, edited by `change` and pinned anew."""
    shutil.copytree(source, target)
    model = onnx.load(target / "itm.onnx")
    change(model)
    (target / "itm.onnx").write_bytes(model.SerializeToString())
    write_manifest(target)
    return MatchScorer(load_model_manifest(target), threads=1)


def test_logits_are_what_the_graph_says(scorer: MatchScorer) -> None:
    tokens, (states, mask) = some_tokens(9), some_states(9)
    logits = scorer.logits(tokens, states, mask)
    assert (logits.dtype, logits.shape) == (np.float32, (9,))
    np.testing.assert_allclose(logits, naive_logits(tokens, states, mask), atol=1e-4)


def test_one_partner_is_everybodys(scorer: MatchScorer) -> None:
    tokens, (states, mask) = some_tokens(5), some_states(5)
    one_text = scorer.logits(tokens, states[:1], mask[:1])
    np.testing.assert_array_equal(
        one_text, scorer.logits(tokens, np.repeat(states[:1], 5, axis=0), np.repeat(mask[:1], 5, axis=0))
    )
    one_picture = scorer.logits(tokens[:1], states, mask)
    np.testing.assert_array_equal(one_picture, scorer.logits(np.repeat(tokens[:1], 5, axis=0), states, mask))


def test_many_pairs_go_through_in_parts(scorer: MatchScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, (states, mask) = some_tokens(11), some_states(11)
    together = scorer.logits(tokens, states, mask)
    monkeypatch.setattr(itm, "PAIRS_AT_ONCE", 4)
    np.testing.assert_allclose(scorer.logits(tokens, states, mask), together, atol=1e-6)


def test_no_pairs_need_no_head(tiny_itm_model_dir: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_itm_model_dir, tmp_path / "model")
    scorer = MatchScorer(load_model_manifest(model), threads=1)
    (model / "itm.onnx").unlink()
    states, mask = some_states(1)
    assert scorer.logits(some_tokens(0), states, mask).shape == (0,)
    assert scorer.logits(some_tokens(1), states[:0], mask[:0]).shape == (0,)
    with pytest.raises(ModelError, match=r"itm\.onnx does not exist"):
        scorer.load()


def test_a_model_without_a_head_has_no_scorer(tiny_model_dir: Path) -> None:
    with pytest.raises(ModelError, match="'tiny' has no image-text matching head"):
        MatchScorer(load_model_manifest(tiny_model_dir), threads=1)


@pytest.mark.case("S28")
def test_a_changed_file_is_refused_before_it_is_loaded(tiny_itm_model_dir: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_itm_model_dir, tmp_path / "model")
    with (model / "itm.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ModelError, match="is not the one its manifest pins"):
        MatchScorer(load_model_manifest(model), threads=1).load()


@pytest.mark.case("S26")
def test_weights_outside_the_file_are_refused(tiny_itm_model_dir: Path, tmp_path: Path) -> None:
    def move_out(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../secret.bin")

    with pytest.raises(ModelError, match=r"itm\.onnx keeps tensors in other files"):
        spoiled(tiny_itm_model_dir, tmp_path / "model", move_out).load()


def test_a_logit_that_is_not_finite_is_refused(tiny_itm_model_dir: Path, tmp_path: Path) -> None:
    def poison(model: onnx.ModelProto) -> None:
        sure = next(each for each in model.graph.initializer if each.name == "sure")
        sure.CopyFrom(numpy_helper.from_array(np.asarray(np.nan, np.float32), "sure"))

    states, mask = some_states(2)
    states[:, :2, 0] = 1
    with pytest.raises(ModelError, match="gave a logit that is not finite"):
        spoiled(tiny_itm_model_dir, tmp_path / "model", poison).logits(some_tokens(2), states, mask)


def test_a_head_that_gives_another_shape_is_refused(tiny_itm_model_dir: Path, tmp_path: Path) -> None:
    def stand_up(model: onnx.ModelProto) -> None:
        model.graph.node[-1].output[0] = "flat"
        model.graph.node.append(helper.make_node("Unsqueeze", ["flat", "one"], ["logit"]))
        model.graph.output[0].type.tensor_type.shape.dim.add().dim_value = 1

    states, mask = some_states(2)
    with pytest.raises(ModelError, match=r"gave the shape \(2, 1\), expected \(2,\)"):
        spoiled(tiny_itm_model_dir, tmp_path / "model", stand_up).logits(some_tokens(2), states, mask)


def test_arrays_of_the_wrong_kind_are_refused(scorer: MatchScorer) -> None:
    tokens, (states, mask) = some_tokens(3), some_states(3)
    for wrong, message in (
        ((tokens.astype(np.float32), states, mask), "tokens are float32"),
        ((tokens[:, :, 1:], states, mask), r"tokens are int8 \(3, 4, 7\)"),
        ((tokens, states[..., 1:], mask), r"states are float32 \(3, 8, 7\)"),
        ((tokens, states.astype(np.float64), mask), "states are float64"),
        ((tokens, states, mask[:, 1:]), r"mask is int64 \(3, 7\)"),
        ((tokens, states, mask.astype(np.bool_)), "mask is bool"),
        ((tokens[:2], states, mask), "2 pictures and 3 sentences make no pairs"),
    ):
        with pytest.raises(ValueError, match=message):
            scorer.logits(*wrong)  # type: ignore[arg-type]


def test_match_prob_is_the_logistic_function_and_never_overflows() -> None:
    logits = np.float32([-1000, -2, 0, 1, 1000])
    np.testing.assert_allclose(match_prob(logits), [0, 1 / (1 + np.exp(2)), 0.5, 1 / (1 + np.exp(-1)), 1])
