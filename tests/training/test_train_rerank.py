"""What comes after the cosine is kept where it helps on validation, and left out where it does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_model import COLOURS, write_tiny_model

from mmsearch.hubness import HubnessBank
from mmsearch.model import Model, load_model
from mmsearch.training import train_rerank
from mmsearch.training.captions import CaptionedImages
from mmsearch.training.train_rerank import chosen

USUAL = 0.02


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> CaptionedImages:
    """Pictures in two colours, with captions that the tiny matching head reads better than the embeddings do."""
    folder = tmp_path_factory.mktemp("halves")
    names = [(left, right) for left in COLOURS for right in COLOURS if left < right]
    for left, right in names:
        pixels = np.zeros((16, 16, 3), dtype=np.uint8)
        pixels[:, :8], pixels[:, 8:] = COLOURS[left], COLOURS[right]
        Image.fromarray(pixels).save(folder / f"{left}-{right}.png")
    paths = tuple(folder / f"{left}-{right}.png" for left, right in names)
    texts = tuple(f"{left} {right}" for left, right in names)
    return CaptionedImages(paths, texts, np.arange(len(names)))


@pytest.fixture(scope="module")
def matching(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny", itm=True), threads=1)


def reciprocal(scores: np.ndarray) -> float:
    """The mean reciprocal rank of the diagonal, spelled out."""
    return float(np.mean([1 / sum(other >= row[place] for other in row) for place, row in enumerate(scores)]))


def test_a_head_that_helps_gets_a_weight(matching: Model, halves: CaptionedImages) -> None:
    assert chosen(matching, halves, {}, usual=USUAL).weight > 0


def test_a_head_that_turns_the_order_round_is_left_out(
    matching: Model, halves: CaptionedImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = train_rerank.Sample.logits
    monkeypatch.setattr(train_rerank.Sample, "logits", lambda *given: -honest(*given))
    assert chosen(matching, halves, {}, usual=USUAL).weight == 0


def test_among_weights_that_help_alike_the_usual_one_is_taken(
    matching: Model, halves: CaptionedImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        train_rerank.Sample, "logits", lambda self, head, side, query, items: np.zeros(len(items), np.float32)
    )
    for usual in (0.02, 0.1):
        assert chosen(matching, halves, {}, usual=usual).weight == usual


def test_a_model_without_a_head_has_no_weight(tiny_model_dir: Path, halves: CaptionedImages) -> None:
    assert chosen(load_model(tiny_model_dir, threads=1), halves, {}, usual=USUAL).weight == 0


def test_a_bank_is_kept_exactly_where_the_mean_reciprocal_rank_rises(
    tiny_model_dir: Path, halves: CaptionedImages
) -> None:
    model = load_model(tiny_model_dir, threads=1)
    images, texts = model.encode_images(list(halves.paths)), model.encode_texts(list(halves.captions))
    cosines = (texts @ images.T).astype(np.float64)
    kept = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        rows = texts[rng.permutation(len(texts))[:6]] + rng.normal(0, 0.2, (6, texts.shape[1]))
        rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        bank = HubnessBank(rows, neighbours=2, strength=0.5)
        helps = reciprocal(cosines - bank.bias(images)) > reciprocal(cosines)
        assert chosen(model, halves, {"text_to_image": bank}, usual=USUAL).hubness == (
            ("text_to_image",) if helps else ()
        )
        kept.append(helps)
    assert 0 < sum(kept) < len(kept)
