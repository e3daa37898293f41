"""The contrastive loss against a loop that a reader can check by eye."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from mmsearch.training.losses import itc_loss, positives, softened, spread  # noqa: E402


def _softmax(values: list[float]) -> list[float]:
    exponentials = [math.exp(v - max(values)) for v in values]
    return [e / sum(exponentials) for e in exponentials]


def _naive_direction(logits: list[list[float]], matches: list[list[bool]]) -> float:
    total = 0.0
    for row, wanted in zip(logits, matches, strict=True):
        chances = _softmax(row)
        total += sum(-math.log(c) / sum(wanted) for c, w in zip(chances, wanted, strict=True) if w)
    return total / len(logits)


def test_itc_loss_equals_a_naive_loop_with_several_positives() -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 7) * 3
    matches = torch.rand(4, 7) < 0.3
    matches[torch.arange(7) % 4, torch.arange(7)] = True
    naive = 0.5 * _naive_direction(logits.tolist(), matches.tolist())
    naive += 0.5 * _naive_direction(logits.t().tolist(), matches.t().tolist())
    assert float(itc_loss(logits, spread(matches), spread(matches.t()))) == pytest.approx(naive, rel=1e-5)


def test_itc_loss_of_a_perfect_ranking_is_near_zero_and_of_equal_logits_is_log_n() -> None:
    own = spread(torch.eye(8, dtype=torch.bool))
    assert float(itc_loss(100.0 * torch.eye(8), own, own)) < 1e-6
    assert float(itc_loss(torch.zeros(8, 8), own, own)) == pytest.approx(math.log(8))


def test_a_caption_equal_to_another_images_caption_is_a_positive_of_both_images() -> None:
    # Images 10 and 11 both carry the text 5; caption 0 is written for image 10 and reads 5.
    matches = positives(
        torch.tensor([10, 11, 12]),
        torch.tensor([10, 11, 12]),
        torch.tensor([[5, 6], [7, 5], [8, 9]]),
        torch.tensor([5, 7, 8]),
    )
    assert matches.tolist() == [[True, False, False], [True, True, False], [False, False, True]]


def test_two_captions_of_one_image_are_both_positives_and_share_the_target() -> None:
    ids = torch.tensor([0, 1])
    owners = torch.tensor([0, 0, 1, 1])
    texts = torch.tensor([0, 1, 2, 3])
    targets = spread(positives(ids, owners, texts.view(2, 2), texts))
    assert targets.tolist() == [[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]


def test_softened_targets_still_sum_to_one_and_keep_the_hard_share() -> None:
    hard = spread(torch.eye(3, dtype=torch.bool))
    soft = softened(hard, torch.zeros(3, 3), 0.3)
    assert torch.allclose(soft.sum(1), torch.ones(3))
    assert torch.allclose(soft.diagonal(), torch.full((3,), 0.8))
