"""The matching head: attention as torch has it, tokens as they are stored, padding without influence."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from mmsearch.training.fusion import (  # noqa: E402
    TOKEN_LIMIT,
    TOKEN_STEP,
    CrossLayer,
    FusionConfig,
    MatchHead,
    TokenProjector,
    area_weights,
    quantised_tokens,
)

CONFIG = FusionConfig(
    image_inputs=24, text_inputs=12, grid=2, token_dim=8, layers=2, attention_heads=2, hidden=20, dropout=0.0
)


@pytest.mark.parametrize(("side", "grid"), [(8, 4), (4, 4), (7, 4), (9, 4), (2, 4)])
def test_areas_average_a_map_as_area_interpolation_does(side: int, grid: int) -> None:
    values = torch.randn(3, side * side, generator=torch.Generator().manual_seed(0))
    pooled = values @ area_weights(side, grid).t()
    # Each cell repeated `grid` times each way can be averaged over exact areas.
    fine = values.view(3, side, side).repeat_interleave(grid, 1).repeat_interleave(grid, 2)
    expected = fine.view(3, grid, side, grid, side).mean((2, 4)).flatten(1)
    assert torch.allclose(pooled, expected, atol=1e-5)


def test_tokens_have_unit_variance_stay_in_range_and_survive_storage() -> None:
    torch.manual_seed(0)
    tokens = TokenProjector(CONFIG)(torch.randn(5, 16, 24) * 7)
    assert tokens.shape == (5, 4, 8)
    assert tokens.abs().max() <= TOKEN_LIMIT
    assert torch.allclose(tokens.var(-1, unbiased=False), torch.ones(5, 4), atol=1e-2)
    stored = quantised_tokens(tokens)
    assert stored.dtype == torch.int8
    assert (stored.float() * TOKEN_STEP - tokens).abs().max() <= TOKEN_STEP * 0.501


@torch.no_grad()
def test_cross_attention_is_torchs_scaled_dot_product() -> None:
    torch.manual_seed(0)
    layer = CrossLayer(CONFIG).eval()
    for parameter in layer.parameters():  # the identity it starts as would hide mistakes
        torch.nn.init.normal_(parameter, std=0.5)
    words, image = torch.randn(3, 5, 8), torch.randn(3, 4, 8)
    hidden = torch.tensor([[False, True, False, False]] * 3)
    asking = layer.query_norm(words)
    query, key, value = (
        each.unflatten(-1, (2, 4)).transpose(1, 2)
        for each in (layer.query(asking), layer.key(image), layer.value(image))
    )
    found = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=~hidden[:, None, None, :])
    found = layer.attention_out(found.transpose(1, 2).flatten(2))
    mixed = layer.mix_norm(torch.cat([words, found, asking * found], -1))
    expected = words + layer.contract(torch.nn.functional.gelu(layer.expand(mixed)))
    assert torch.allclose(layer(words, image, hidden), expected, atol=1e-4)


def test_padding_and_the_rest_of_the_batch_change_no_logit() -> None:
    torch.manual_seed(0)
    head = MatchHead(CONFIG).eval()
    tokens, states = torch.randn(3, 4, 8), torch.randn(3, 6, 12)
    mask = torch.arange(6)[None, :] < torch.tensor([6, 4, 2])[:, None]
    logits = head(tokens, states, mask)
    other = states.clone()
    other[~mask] = 99.0
    assert torch.allclose(head(tokens, other, mask), logits, atol=1e-5)
    alone = torch.cat(
        [head(tokens[i : i + 1], states[i : i + 1, :n], mask[i : i + 1, :n]) for i, n in enumerate([6, 4, 2])]
    )
    assert torch.allclose(alone, logits, atol=1e-5)


def test_a_logit_depends_on_where_in_the_photo_a_token_is() -> None:
    torch.manual_seed(0)
    head = MatchHead(CONFIG).eval()
    tokens, states, mask = torch.randn(1, 4, 8), torch.randn(1, 3, 12), torch.ones(1, 3, dtype=torch.bool)
    assert not torch.allclose(head(tokens, states, mask), head(tokens.flip(1), states, mask), atol=1e-6)


@torch.no_grad()
def test_alignment_is_each_words_nearest_token_weighed_by_importance() -> None:
    torch.manual_seed(0)
    head = MatchHead(CONFIG).eval()
    tokens, states = torch.randn(2, 4, 8), torch.randn(3, 5, 12)
    mask = torch.arange(5)[None, :] < torch.tensor([5, 3, 2])[:, None]
    words, shares = head.read_words(states), head.shares(states, mask)
    for i in range(2):
        for t in range(3):
            total = 0.0
            for word in range(int(mask[t].sum())):
                cosines = torch.nn.functional.cosine_similarity(words[t, word][None, :], tokens[i])
                total += float(shares[t, word]) * float(cosines.max())
            assert float(head.alignments(tokens, states, mask)[i, t]) == pytest.approx(total, abs=1e-5)
    assert torch.allclose(shares.sum(1), torch.ones(3))
    assert not shares[~mask].any()
