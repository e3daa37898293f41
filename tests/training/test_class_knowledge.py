"""The terms that keep ImageNet's classes: what is sampled, what a push does, and who learns from the loss."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from tiny_dual_encoder import WORDS, tiny_dual_encoder  # noqa: E402

from mmsearch.training import class_knowledge  # noqa: E402
from mmsearch.training.class_knowledge import (  # noqa: E402
    CLASSES,
    PROMPTS,
    Knowledge,
    KnowledgeConfig,
    centred_rows,
    knowledge_loss,
    pushed_tokens,
    sample_classes,
)
from mmsearch.training.losses import hard_negatives  # noqa: E402
from mmsearch.training.word_pieces import WordPieces  # noqa: E402


def _knowledge() -> tuple[Knowledge, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    classifier = torch.randn(CLASSES, 1280, generator=generator) * 0.06
    rows, norms = centred_rows(classifier)
    ids = torch.randint(1, WORDS, (len(PROMPTS) * CLASSES, 4), generator=generator)
    prompts = WordPieces(ids, torch.full((len(ids),), 4))
    logits = torch.full((8, CLASSES), -50.0)
    logits[torch.arange(8), torch.arange(8) + 100] = 50.0
    return Knowledge(logits, rows, norms, prompts, KnowledgeConfig(sampled=12)), classifier


def test_sampled_classes_are_distinct_and_hold_what_the_classifier_sees() -> None:
    knowledge, _ = _knowledge()
    classes = sample_classes(knowledge, torch.arange(8), np.random.default_rng(0)).tolist()
    assert len(classes) == len(set(classes)) <= 12
    assert set(range(100, 106)) <= set(classes)


def test_pushed_tokens_raise_the_logit_of_their_class_by_about_the_push() -> None:
    knowledge, classifier = _knowledge()
    tokens = torch.full((6, 400, 1280), 3.0)  # the middle of ReLU6: nothing is clipped
    classes = torch.tensor([3, 70, 999])
    pushed = pushed_tokens(tokens, knowledge, classes, np.random.default_rng(0))
    gain = ((pushed.mean(1) - 3.0) * (classifier - classifier.mean(0))[classes]).sum(1)
    assert pushed.shape == (3, 400, 1280)
    assert torch.allclose(gain, torch.full((3,), knowledge.config.push), rtol=0.2)
    assert float(pushed.min()) >= 0.0
    assert float(pushed.max()) <= 6.0


def test_more_classes_than_photos_reuse_photos() -> None:
    knowledge, _ = _knowledge()
    pushed = pushed_tokens(torch.ones(2, 4, 1280), knowledge, torch.arange(5), np.random.default_rng(0))
    assert pushed.shape == (5, 4, 1280)


def test_classes_of_one_name_are_no_negatives_of_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    knowledge, _ = _knowledge()
    names = knowledge.prompts.ids.view(len(PROMPTS), CLASSES, -1)
    names[:, 103] = names[:, 101]  # as ImageNet has two kinds of sunglasses
    told: list[torch.Tensor] = []

    def note(logits: torch.Tensor, matches: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        told.append(matches)
        return hard_negatives(logits, matches, generator)

    monkeypatch.setattr(class_knowledge, "hard_negatives", note)
    model, tokens = tiny_dual_encoder(), torch.rand(8, 4, 1280)
    drawing = (np.random.default_rng(0), torch.Generator().manual_seed(0))
    knowledge_loss(model, knowledge, torch.arange(8), (tokens, model.embed_image_tokens(tokens)), drawing)
    classes = sample_classes(knowledge, torch.arange(8), np.random.default_rng(0)).tolist()
    expected = np.eye(len(classes), dtype=bool)
    twins = [classes.index(101), classes.index(103)]
    expected[np.ix_(twins, twins)] = True
    assert told[0].tolist() == expected.tolist()


def test_knowledge_teaches_both_towers() -> None:
    knowledge, _ = _knowledge()
    model = tiny_dual_encoder()
    tokens = torch.rand(8, 4, 1280)
    embeddings = model.embed_image_tokens(tokens)
    drawing = (np.random.default_rng(0), torch.Generator().manual_seed(0))
    loss = knowledge_loss(model, knowledge, torch.arange(8), (tokens, embeddings), drawing)
    torch.autograd.backward(loss)
    for parameter in (model.image_head.project.weight, model.text_tower.layers[0].query.weight):
        assert parameter.grad is not None
        assert float(parameter.grad.abs().sum()) > 0
