"""A model for the fake hub that needs no torch to be pulled, and what the tests look at afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save
from tokenizers import Tokenizer, models, pre_tokenizers

REPOSITORY = "someone/tiny-siglip"
NAME = f"hf-hub:{REPOSITORY}"
DIRECTORY = "someone--tiny-siglip"
WEIGHTS = "open_clip_model.safetensors"


def hub_config(**text: Any) -> dict[str, Any]:
    """A configuration as on the hub, of a model with a tokenizer of its own."""
    return {
        "model_cfg": {
            "embed_dim": 16,
            "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
            "text_cfg": {
                "context_length": 8,
                "vocab_size": 16,
                "width": 16,
                "heads": 2,
                "layers": 1,
                "hf_tokenizer_name": REPOSITORY,
                "tokenizer_kwargs": {"clean": "canonicalize"},
                "no_causal_mask": True,
                "pool_type": "last",
                **text,
            },
        },
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"},
    }


def tiny_files(seed: int = 0) -> dict[str, bytes]:
    """The files of a model as on the hub; its weights are random and fit nothing."""
    words = {word: number for number, word in enumerate(["<pad>", "<eos>", "<unk>", "a", "red", "dog"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<pad>", "<eos>", "<unk>"])
    weights = {"visual": np.random.default_rng(seed).standard_normal((200, 200)).astype(np.float32)}
    return {
        "README.md": b"# tiny\n",
        "open_clip_config.json": json.dumps(hub_config()).encode(),
        "open_clip_model.safetensors": save(weights),
        "open_clip_pytorch_model.bin": b"\x80\x02never fetched",
        "tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer_config.json": json.dumps({"pad_token": "<pad>", "eos_token": "<eos>"}).encode(),
    }


class Outcome:
    """What a command left."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        """Its JSON."""
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """Its one line of complaint, behind what it said before."""
        assert self.code != 0 and self.out == "", (self.code, self.out)
        return self.err.splitlines()[-1].removeprefix("mmsearch: ")


def left_behind(store: Path) -> list[str]:
    """Files in the store that are of no model: waiting downloads, half-made directories."""
    found = [str(path.relative_to(store)) for path in store.rglob("*") if path.is_file()]
    return sorted(each for each in found if each.startswith((".new-", ".partial")))
