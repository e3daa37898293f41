"""The loop learns: ten photos of noise and ten captions, told apart after a few seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from tiny_dual_encoder import WORDS, tiny_dual_encoder  # noqa: E402

from mmsearch.errors import DatasetError  # noqa: E402
from mmsearch.training.batches import BatchConfig, Batches, Dataset  # noqa: E402
from mmsearch.training.captions import CaptionedImages  # noqa: E402
from mmsearch.training.fitting import FitConfig, Lines, fit, freeze  # noqa: E402
from mmsearch.training.weight_average import WeightAverage  # noqa: E402
from mmsearch.training.word_pieces import WordPieces  # noqa: E402

PAIRS = 10


def _ten_pairs() -> Dataset:
    rng = np.random.default_rng(0)
    maps = rng.normal(0, 6, (PAIRS, 4, 4, 32)).astype(np.float16)
    ids = torch.from_numpy(rng.integers(1, WORDS, (PAIRS, 6)))
    pieces = WordPieces(ids, torch.full((PAIRS,), 6))
    owners = np.arange(PAIRS, dtype=np.int64)
    names = tuple(f"caption {i}" for i in range(PAIRS))
    captions = CaptionedImages(tuple(Path(f"{i}.jpg") for i in range(PAIRS)), names, owners)
    return Dataset([maps], pieces, captions, torch.nn.functional.normalize(torch.randn(PAIRS, 8), dim=-1))


def test_ten_pairs_are_learned_by_heart() -> None:
    data = _ten_pairs()
    lines: list[str] = []
    config = FitConfig(
        epochs=150,
        stop_after=150,
        head_rate=1e-2,
        image_rate=1e-3,
        text_rate=1e-3,
        warm_epochs=2.0,
        average_decay=0.5,
        validate_every=150,
        batches=BatchConfig(images=PAIRS, captions_per_image=1, word_drop=0.0, teacher_share=0.0),
    )
    fit(tiny_dual_encoder(), (data, data), config, watcher=Lines(lines.append))
    assert "i2t 100.0" in lines[-1]
    assert "t2i 100.0" in lines[-1]


def test_the_cached_half_and_the_word_table_never_learn() -> None:
    model = tiny_dual_encoder()
    freeze(model, FitConfig())
    assert not any(p.requires_grad for p in model.image_tower.stem.parameters())
    assert not any(p.requires_grad for stage in model.image_tower.stages[:5] for p in stage.parameters())
    assert not model.text_tower.word_embeddings.weight.requires_grad
    assert all(p.requires_grad for p in model.image_tower.stages[5:].parameters())
    assert all(p.requires_grad for p in model.text_tower.layers.parameters())


def test_the_average_starts_at_the_model_and_follows_it() -> None:
    model = tiny_dual_encoder()
    average = WeightAverage(model, 0.9)
    with torch.no_grad():
        model.text_head.project.bias.add_(1.0)
    average.update(model)
    moved = average.model.text_head.project.bias.mean().item()
    assert 0.5 < moved < 1.0  # the first steps count for more: the average rises from a plain mean


def test_too_few_photos_for_a_batch_are_named() -> None:
    with pytest.raises(DatasetError, match="10 photos cannot fill a batch of 11"):
        Batches(_ten_pairs(), BatchConfig(images=11, captions_per_image=1), np.random.default_rng(0))


def test_a_pass_visits_every_photo_once() -> None:
    batches = Batches(_ten_pairs(), BatchConfig(images=5, captions_per_image=1), np.random.default_rng(0))
    assert sorted(np.concatenate(batches.epoch()).tolist()) == list(range(PAIRS))
