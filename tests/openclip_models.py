"""open_clip models with random weights in directories as the hub lays them out, small ones and full architectures.

Importing this module makes `import torchvision` work beside a torch of another build: its operators are declared, as
nothing here calls them.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch

_DECLARED: list[torch.library.Library] = []


def declare_torchvision_operators() -> None:
    """Lets torchvision be imported where its compiled operators cannot be loaded."""
    if not _DECLARED and not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for operator in ("nms", "qnms"):
            schema = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            library.define(schema)  # type: ignore[no-untyped-call]
        _DECLARED.append(library)  # it is undone when the object goes


declare_torchvision_operators()

WORDS = ("a", "photo", "of", "the", "red", "green", "blue", "dog", "cat", "on", "beach", "▁", "s", "e")
TINY_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}

CONFIGS: dict[str, dict[str, Any]] = {
    # ViT-B-32, narrower and with fewer layers
    "vit": {
        "model_cfg": {
            "embed_dim": 32,
            "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32},
            "text_cfg": TINY_TEXT,
        },
        "preprocess_cfg": {"mean": [0.481, 0.458, 0.408], "std": [0.269, 0.261, 0.276], "resize_mode": "shortest"},
    },
    "resnet": {
        "model_cfg": {
            "embed_dim": 32,
            "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "head_width": 16},
            "text_cfg": {**TINY_TEXT, "context_length": 32},
            "quick_gelu": True,
        },
        "preprocess_cfg": {"interpolation": "bilinear", "resize_mode": "squash"},
    },
    # ViT-B-16-SigLIP with a smaller picture, a narrower trunk and a text tower of its kind
    "siglip": {
        "model_cfg": {
            "embed_dim": 192,
            "init_logit_bias": -10,
            "custom_text": True,
            "vision_cfg": {
                "image_size": 224,
                "timm_model_name": "vit_tiny_patch16_224",
                "timm_model_pretrained": False,
                "timm_pool": "map",
                "timm_proj": "none",
            },
            "text_cfg": {
                "context_length": 16,
                "vocab_size": 64,
                "hf_tokenizer_name": "tests/siglip",
                "tokenizer_kwargs": {"clean": "canonicalize"},
                "width": 64,
                "heads": 2,
                "layers": 2,
                "no_causal_mask": True,
                "proj_bias": True,
                "pool_type": "last",
                "norm_kwargs": {"eps": 1e-06},
            },
        },
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"},
    },
    # MobileCLIP's way: a convolutional trunk of timm, and a text tower that sees its padding
    "mobile": {
        "model_cfg": {
            "embed_dim": 32,
            "custom_text": True,
            "vision_cfg": {
                "image_size": 64,
                "timm_model_name": "fastvit_t8",
                "timm_model_pretrained": False,
                "timm_pool": "avg",
                "timm_proj": None,
            },
            "text_cfg": {**TINY_TEXT, "no_causal_mask": True},
        },
        "preprocess_cfg": {"mean": [0, 0, 0], "std": [1, 1, 1], "interpolation": "bilinear", "resize_mode": "shortest"},
    },
    "coca": {
        "model_cfg": {
            "embed_dim": 32,
            "custom_text": True,
            "vision_cfg": {
                "image_size": 64,
                "layers": 2,
                "width": 64,
                "patch_size": 16,
                "head_width": 32,
                "attentional_pool": True,
                "attn_pooler_heads": 2,
                "output_tokens": True,
            },
            "text_cfg": {**TINY_TEXT, "context_length": 24, "embed_cls": True, "output_tokens": True},
            "multimodal_cfg": {
                "context_length": 24,
                "vocab_size": 49408,
                "width": 64,
                "heads": 2,
                "layers": 1,
                "attn_pooler_heads": 2,
            },
        },
        "preprocess_cfg": {"resize_mode": "longest", "fill_color": 7},
    },
}


def built(model_cfg: dict[str, Any], *, seed: int = 0) -> Any:
    """open_clip's own module of that configuration, with random weights, in evaluation mode."""
    import open_clip

    arguments = copy.deepcopy(model_cfg)
    kind = open_clip.CLIP
    if arguments.pop("custom_text", False):
        kind = open_clip.CoCa if "multimodal_cfg" in arguments else open_clip.CustomTextCLIP
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind(**arguments)
        # Embeddings of an untrained model hardly differ; larger weights at the end of its towers make them.
        for name, parameter in model.named_parameters():
            # CoCa leaves some of its decoder as the memory was.
            if name.endswith(("class_embedding", "token_embedding.weight")) or "decoder" in name:
                torch.nn.init.normal_(parameter)
    return model.eval()


def write_openclip(directory: Path, config: dict[str, Any], *, seed: int = 0) -> Path:
    """`directory` with `open_clip_config.json`, safetensors weights and, where the configuration asks for one of the
    hub, a small `tokenizer.json`. The same `seed` gives the same weights, and `built` gives them too.
    """
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    (directory / "open_clip_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    weights = built(config["model_cfg"], seed=seed).state_dict()
    save_file({name: each.contiguous() for name, each in weights.items()}, directory / "open_clip_model.safetensors")
    if config["model_cfg"]["text_cfg"].get("hf_tokenizer_name"):
        write_sentencepiece_tokenizer(directory)
    return directory


def write_sentencepiece_tokenizer(directory: Path) -> None:
    """A tokenizer of SigLIP's kind, in two files: pieces of words, `</s>` at the end and as padding."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    pieces = ["<unk>", "</s>", *(f"▁{word}" for word in WORDS), *"▁abcdefghijklmnopqrstuvwxyz0123456789"]
    tokenizer = Tokenizer(
        models.Unigram([(piece, -float(len(pieces) - n)) for n, piece in enumerate(pieces)], 0, False)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(directory / "tokenizer.json"))
    about = {"tokenizer_class": "T5Tokenizer", "eos_token": "</s>", "pad_token": {"content": "</s>"}}
    (directory / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
