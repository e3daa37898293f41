"""A small open_clip model to fine-tune where none can be downloaded.

Its image tower is timm's EfficientNet-Lite0 with the ImageNet weights of an installed package, its projection the
principal components of what that tower says of some photos, its text tower random. Only training makes it find
anything; what training is worth can thus be read from its recalls, from chance on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mmsearch.images import to_pixels
from mmsearch.openclip_config import CONFIG_FILE, WEIGHTS_FILE
from mmsearch.openclip_modules import ImageTower
from mmsearch.training.captions import open_rgb
from mmsearch.training.starting_weights import load_image_tower
from mmsearch.training.towers import PIXEL_MEAN, PIXEL_SCALE, EfficientNetLite
from mmsearch.types import Preprocess

DIM, TEXT_WIDTH, TEXT_LAYERS, CONTEXT = 128, 128, 2, 32
PHOTOS = 1500  # that the projection is made for
_EVENING = 0.25  # power of the variance that is taken off each component: 0 is plain PCA, 0.5 whitens


def config(side: int) -> dict[str, Any]:
    """Return the model's configuration in the hub's form, for photos of `side` x `side` pixels."""
    channel_mean, channel_std = [PIXEL_MEAN / 255] * 3, [PIXEL_SCALE / 255] * 3
    vision = {"timm_model_name": "tf_efficientnet_lite0", "timm_model_pretrained": False, "timm_pool": "avg"}
    text = {"context_length": CONTEXT, "vocab_size": 49408, "width": TEXT_WIDTH, "heads": 2, "layers": TEXT_LAYERS}
    return {
        "model_cfg": {
            "embed_dim": DIM,
            "vision_cfg": {**vision, "timm_proj": "linear", "timm_proj_bias": True, "image_size": side},
            "text_cfg": text,
            "custom_text": True,
        },
        "preprocess_cfg": {
            "mean": channel_mean,
            "std": channel_std,
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
    }


def fill_trunk(trunk: nn.Module, tower: EfficientNetLite) -> None:
    """Give timm's `trunk` the weights of `tower`, whose batch norm is folded into its convolutions."""
    ours = list(tower.state_dict().values())
    convolutions = [each for each in trunk.modules() if isinstance(each, nn.Conv2d)]
    norms = [each for each in trunk.modules() if isinstance(each, nn.BatchNorm2d)]
    if not 2 * len(convolutions) == 2 * len(norms) == len(ours):
        raise ValueError(f"{len(convolutions)} convolutions and {len(norms)} norms for {len(ours)} tensors")
    with torch.no_grad():
        for convolution, norm, weight, bias in zip(convolutions, norms, ours[::2], ours[1::2], strict=True):
            convolution.weight.copy_(weight)
            norm.weight.fill_(1.0)
            norm.bias.copy_(bias)
            norm.reset_running_stats()
            if norm.running_var is not None:
                norm.running_var.fill_(1.0 - norm.eps)


def components(features: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the map (`count`, C) and offset that make of `features` (N, C) their largest components, evened out."""
    mean = features.mean(0)
    values, vectors = torch.linalg.eigh((features - mean).T.cov())
    weight = (vectors[:, -count:] / values[-count:].clamp(min=1e-6) ** _EVENING).T
    return weight, -weight @ mean


@torch.no_grad()
def write_small_clip(out: Path, photos: Sequence[Path], *, side: int, seed: int = 0) -> None:
    """Write the model into the directory `out`, as the hub has models, with a projection made for `photos`."""
    import open_clip

    torch.manual_seed(seed)
    described = config(side)
    settings = {name: value for name, value in described["model_cfg"].items() if name != "custom_text"}
    clip = open_clip.CustomTextCLIP(**settings).eval()
    fill_trunk(clip.visual.trunk, load_image_tower("lite0")[0])
    tower = ImageTower(clip, *(described["preprocess_cfg"][name] for name in ("mean", "std"))).eval()
    clip.visual.head = nn.Identity()
    features = []
    for start in range(0, len(photos), 50):
        pixels = [to_pixels(open_rgb(path), Preprocess(side, side)) for path in photos[start : start + 50]]
        batch = torch.from_numpy(np.stack(pixels))
        normal = (batch.float() / 255 - tower.mean) / tower.std
        features.append(clip.visual.trunk(normal))
    weight, bias = components(torch.cat(features), DIM)
    weights = clip.state_dict() | {"visual.head.proj.weight": weight, "visual.head.proj.bias": bias}
    out.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in weights.items()}, out / WEIGHTS_FILE)
    (out / CONFIG_FILE).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
