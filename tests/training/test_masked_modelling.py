"""What is masked, at which rate, and that both heads learn from what is left."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from tiny_dual_encoder import tiny_dual_encoder  # noqa: E402

from mmsearch.training.masked_modelling import (  # noqa: E402
    MASK_ID,
    SPECIAL_IDS,
    MaskedModelling,
    mask_places,
    mask_words,
    mim_loss,
    mlm_loss,
)

WORDS = 1200


def _captions(rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(200, WORDS, (rows, length), generator=generator)
    ids[:, 0], ids[:, -1] = 101, 102
    return ids, torch.ones_like(ids)


def test_words_are_asked_for_at_the_rate_and_hidden_changed_or_left() -> None:
    ids, mask = _captions(400, 52)
    masked = mask_words(ids, mask, 0.15, WORDS, torch.Generator().manual_seed(1))
    asked = masked.asked
    assert float(asked[:, 1:-1].float().mean()) == pytest.approx(0.15, abs=0.01)
    hidden = masked.ids == MASK_ID
    assert not (hidden & ~asked).any()
    assert torch.equal(masked.ids[~asked], ids[~asked])
    assert float(hidden[asked].float().mean()) == pytest.approx(0.8, abs=0.02)
    assert float((masked.ids == ids)[asked].float().mean()) == pytest.approx(0.1, abs=0.02)


def test_special_words_and_padding_are_never_asked_for_and_every_caption_has_one() -> None:
    ids, mask = _captions(50, 6)
    ids[:, 4:], mask[:, 4:] = 0, 0
    masked = mask_words(ids, mask, 0.01, WORDS, torch.Generator().manual_seed(2))
    assert not masked.asked[torch.isin(ids, torch.tensor(SPECIAL_IDS))].any()
    assert masked.asked.any(1).all()


def test_a_caption_of_special_words_alone_asks_for_nothing() -> None:
    ids = torch.tensor([[101, 102, 0]])
    assert not mask_words(ids, torch.tensor([[1, 1, 0]]), 0.5, WORDS, torch.Generator()).asked.any()


@pytest.mark.parametrize(("rate", "count"), [(0.5, 8), (0.0, 1), (1.0, 15)])
def test_places_are_hidden_at_the_rate_one_at_least_and_never_all(rate: float, count: int) -> None:
    hidden = mask_places(torch.zeros(7, 16, 3), rate, torch.Generator().manual_seed(0))
    assert hidden.sum(1).tolist() == [count] * 7


def test_the_only_place_of_a_photo_is_hidden_too() -> None:
    assert mask_places(torch.zeros(3, 1, 2), 0.5, torch.Generator().manual_seed(0)).all()


def test_losses_equal_their_definitions() -> None:
    logits = torch.tensor([[0.0, 0.0, math.log(2.0)]])
    assert float(mlm_loss(logits, torch.tensor([2]))) == pytest.approx(math.log(2.0), rel=1e-5)
    predicted, tokens = torch.zeros(1, 2, 2), torch.tensor([[[0.5, 3.0], [9.0, 9.0]]])
    hidden = torch.tensor([[True, False]])
    assert float(mim_loss(predicted, tokens, hidden)) == pytest.approx((0.5 * 0.25 + 2.5) / 2, rel=1e-5)


def test_a_hidden_token_is_told_from_the_rest_and_the_words_never_from_itself() -> None:
    model = tiny_dual_encoder()
    assert model.matcher is not None
    assert model.config.fusion is not None
    torch.manual_seed(0)
    heads = MaskedModelling(model.config.fusion).eval()
    tokens, states, mask = torch.randn(2, 4, 16), torch.randn(2, 3, 16), torch.ones(2, 3, dtype=torch.bool)
    hidden = torch.tensor([[True, False, False, False]] * 2)
    told = heads.tokens(model.matcher, tokens, hidden, states, mask)[:, 0]
    changed = tokens.clone()
    changed[:, 0] = 5.0
    assert torch.equal(heads.tokens(model.matcher, changed, hidden, states, mask)[:, 0], told)
    changed[:, 1] = 5.0
    assert not torch.equal(heads.tokens(model.matcher, changed, hidden, states, mask)[:, 0], told)
    assert not torch.equal(heads.tokens(model.matcher, tokens, hidden, states + 1.0, mask)[:, 0], told)
