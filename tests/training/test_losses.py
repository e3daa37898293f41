"""The losses against loops that a reader can check by eye."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import pytest

torch = pytest.importorskip("torch")

from mmsearch.training.losses import (  # noqa: E402
    hard_negatives,
    itc_loss,
    itm_loss,
    max_hinge_loss,
    positives,
    sigmoid_loss,
    softened,
    spread,
)


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


def test_itm_loss_equals_its_definition() -> None:
    logits, matches = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([True, False, False])
    naive = (
        -(math.log(1 / (1 + math.exp(-2))) + math.log(1 / (1 + math.exp(-1))) + math.log(1 / (1 + math.exp(0.5)))) / 3
    )
    assert float(itm_loss(logits, matches)) == pytest.approx(naive, rel=1e-6)


def test_hard_negatives_are_never_matches_and_mostly_the_near_ones() -> None:
    logits = torch.zeros(3, 5)
    logits[0, 1], logits[1, 4], logits[2, :] = 9.0, 9.0, 0.0
    matches = torch.zeros(3, 5, dtype=torch.bool)
    matches[0, :1], matches[1, 3:4], matches[2, :3] = True, True, True
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([hard_negatives(logits, matches, generator)[0] for _ in range(300)])
    assert not matches[torch.arange(3)[None, :].expand(300, 3), drawn].any()
    assert (drawn[:, 0] == 1).float().mean() > 0.9
    assert (drawn[:, 1] == 4).float().mean() > 0.9
    assert set(drawn[:, 2].tolist()) == {3, 4}


def test_a_row_of_matches_alone_has_no_negative_and_says_so() -> None:
    matches = torch.tensor([[True, True], [True, False]])
    _, possible = hard_negatives(torch.zeros(2, 2), matches, torch.Generator().manual_seed(0))
    assert possible.tolist() == [False, True]


def test_a_negative_can_be_drawn_where_the_softmax_leaves_nothing() -> None:
    logits = torch.tensor([[1000.0, 0.0, 0.0]])  # softmax underflows everywhere but at the match
    drawn, possible = hard_negatives(logits, torch.tensor([[True, False, False]]), torch.Generator().manual_seed(0))
    assert possible.all()
    assert drawn.item() in (1, 2)


def test_max_hinge_takes_the_hardest_negative_of_each_match_both_ways() -> None:
    torch.manual_seed(1)
    similarities = torch.rand(3, 6) * 2 - 1
    matches = torch.zeros(3, 6, dtype=torch.bool)
    matches[torch.arange(6) % 3, torch.arange(6)] = True
    total, count = 0.0, 0
    for i in range(3):
        for t in range(6):
            if matches[i, t]:
                own = float(similarities[i, t])
                row = max(float(similarities[i, j]) for j in range(6) if not matches[i, j])
                column = max(float(similarities[j, t]) for j in range(3) if not matches[j, t])
                total += max(0.0, 0.2 - own + row) + max(0.0, 0.2 - own + column)
                count += 1
    assert float(max_hinge_loss(similarities, matches)) == pytest.approx(total / count, rel=1e-5)


def test_sigmoid_loss_equals_a_naive_sum_over_pairs() -> None:
    torch.manual_seed(2)
    logits, matches = torch.randn(3, 4) * 2, torch.rand(3, 4) < 0.4
    naive = sum(
        math.log(1 + math.exp(-(1 if matches[i, t] else -1) * float(logits[i, t]))) for i in range(3) for t in range(4)
    )
    assert float(sigmoid_loss(logits, matches)) == pytest.approx(naive / 3, rel=1e-5)


def _open_clip_losses() -> ModuleType:
    """The losses of open_clip, without the rest of the package, which needs more than is installed."""
    package = importlib.util.find_spec("open_clip")
    if package is None or package.origin is None:
        pytest.skip("open_clip_torch is not installed")
    spec = importlib.util.spec_from_file_location("open_clip_losses", Path(package.origin).parent / "loss.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_contrastive_losses_equal_those_of_open_clip() -> None:
    theirs = _open_clip_losses()
    torch.manual_seed(3)
    images, captions = (torch.nn.functional.normalize(torch.randn(6, 8), dim=-1) for _ in range(2))
    similarities, own = images @ captions.t(), torch.eye(6, dtype=torch.bool)
    expected = theirs.ClipLoss()(images, captions, 14.0)
    assert float(itc_loss(14.0 * similarities, spread(own), spread(own))) == pytest.approx(float(expected), rel=1e-5)
    expected = theirs.SigLipLoss()(images, captions, 10.0, -9.0)
    assert float(sigmoid_loss(10.0 * similarities - 9.0, own)) == pytest.approx(float(expected), rel=1e-5)
