"""A dual encoder small enough to train in a second: 64 x 64 photos, two text layers of width 16."""

from __future__ import annotations

import torch

from mmsearch.training.dual_encoder import DualConfig, DualEncoder, HeadConfig
from mmsearch.training.fusion import FusionConfig
from mmsearch.training.towers import EfficientNetLite, ImageTowerConfig, MiniLM, TextTowerConfig

SIZE = (64, 64)
MAX_TOKENS = 16
WORDS = 1200


def tiny_dual_encoder(seed: int = 0) -> DualEncoder:
    """Return a random model in evaluation mode, with every shape of the real one."""
    torch.manual_seed(seed)
    image_tower = EfficientNetLite(ImageTowerConfig(width=0.25, depth=1.0))
    text = TextTowerConfig(vocabulary=WORDS, width=16, layers=2, attention_heads=2, hidden=32, max_tokens=MAX_TOKENS)
    config = DualConfig(
        dim=16,
        image=HeadConfig(inputs=1280, width=24, hidden=8),
        text=HeadConfig(inputs=16, width=16, hidden=0, identity=True),
        fusion=FusionConfig(text_inputs=16, grid=2, token_dim=16, layers=1, attention_heads=2, hidden=32, dropout=0.0),
    )
    return DualEncoder(image_tower, MiniLM(text), config).eval()
