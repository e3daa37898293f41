"""open_clip models small enough to train in a second: 32 x 32 photos, sixteen places, CLIP's own tokenizer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from openclip_models import write_openclip

from mmsearch.model_manifest import load_model_manifest
from mmsearch.training.batches import Dataset
from mmsearch.training.captions import CaptionedImages
from mmsearch.training.clip_model import ClipDual, load_clip
from mmsearch.training.fusion import FusionConfig
from mmsearch.training.word_pieces import WordPieces

_VISION = {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16}
_TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
_PREPROCESS = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
CONFIGS: dict[str, dict[str, Any]] = {
    "vit": {
        "model_cfg": {
            "embed_dim": 16,
            "init_logit_scale": 3.0,
            "vision_cfg": {**_VISION, "patch_dropout": 0.5},
            "text_cfg": _TEXT,
        },
        "preprocess_cfg": _PREPROCESS,
    },
    # Its text tower reads the padding, so that all texts are equally long.
    "padding": {
        "model_cfg": {
            "embed_dim": 16,
            "custom_text": True,
            "vision_cfg": _VISION,
            "text_cfg": {**_TEXT, "no_causal_mask": True, "pool_type": "last"},
        },
        "preprocess_cfg": {**_PREPROCESS, "resize_mode": "longest", "fill_color": 9},
    },
    # A convolutional trunk of timm with batch norm.
    "convolutional": {
        "model_cfg": {
            "embed_dim": 16,
            "custom_text": True,
            "vision_cfg": {
                "image_size": 64,
                "timm_model_name": "test_efficientnet",
                "timm_model_pretrained": False,
                "timm_pool": "avg",
                "timm_proj": "linear",
            },
            "text_cfg": _TEXT,
        },
        "preprocess_cfg": _PREPROCESS,
    },
    "residual": {
        "model_cfg": {
            "embed_dim": 16,
            "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16},
            "text_cfg": _TEXT,
        },
        "preprocess_cfg": _PREPROCESS,
    },
}


def write_tiny_clip(directory: Path, kind: str = "vit") -> Path:
    """Return `directory`, filled with one of `CONFIGS` as the hub has models."""
    return write_openclip(directory, CONFIGS[kind])


def tiny_clip(directory: Path, *, fusion: bool = True) -> ClipDual:
    """Return the model in `directory` with a small matching head, the same one every time."""
    model = load_clip(load_model_manifest(directory))
    if not fusion:
        return model
    shape = FusionConfig(image_inputs=model.config.image_states, text_inputs=model.config.text_states)
    torch.manual_seed(5)
    small = replace(shape, grid=2, token_dim=16, layers=1, attention_heads=2, hidden=32, dropout=0.0)
    changed = model.like(small)
    changed.load_state_dict(model.state_dict(), strict=False)
    return changed.eval()


def noise_pairs(pairs: int, *, side: int = 32) -> Dataset:
    """Return `pairs` photos of noise, each with two random captions."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (pairs, 3, side, side), dtype=np.uint8)
    lengths = torch.from_numpy(rng.integers(4, 9, 2 * pairs))
    ids = torch.from_numpy(rng.integers(1, 49000, (2 * pairs, 8)))
    ids[torch.arange(2 * pairs), lengths - 1] = 49407
    ids = ids * (torch.arange(8)[None, :] < lengths[:, None])
    owners = np.repeat(np.arange(pairs, dtype=np.int64), 2)
    names = tuple(f"caption {number}" for number in range(2 * pairs))
    captions = CaptionedImages(tuple(Path(f"{number}.jpg") for number in range(pairs)), names, owners)
    return Dataset([pixels], WordPieces(ids, lengths), captions, None)
