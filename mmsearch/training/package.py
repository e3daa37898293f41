"""Describes a directory of exported files in a manifest that names and hashes every one of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmsearch.model_facts import Direction, HubnessFacts, ItmFacts
from mmsearch.training.fusion import FusionConfig
from mmsearch.training.onnx_check import MATCH_FILE
from mmsearch.training.validation import Recalls

MANIFEST = "manifest.json"
FORMAT = 1
CANDIDATES = 20  # that the matching head looks at; more buys nothing (Geigle et al. 2021, arXiv 2103.11920, Table 9)


@dataclass(frozen=True)
class ModelFacts:
    """What the manifest says besides the files; `image` and `text` are how pictures and sentences are fed to them."""

    name: str
    version: str
    dim: int
    image_size: tuple[int, int]
    max_tokens: int
    license: str
    dataset: str
    images: int
    captions: int
    recalls: Recalls
    image: Mapping[str, Any] = field(default_factory=lambda: {"resize": "squash", "interpolation": "bicubic"})
    text: Mapping[str, Any] = field(default_factory=lambda: {"lowercase": False})
    logit_scale: float | None = None
    itm: ItmFacts | None = None
    hubness: Mapping[Direction, HubnessFacts] = field(default_factory=dict)


def match_facts(fusion: FusionConfig, *, max_tokens: int, weight: float) -> ItmFacts:
    """Return what the manifest says of a matching head of the shape `fusion` that counts `weight` beside the cosine."""
    return ItmFacts(
        file=MATCH_FILE,
        tokens=fusion.tokens,
        token_dim=fusion.token_dim,
        state_dim=fusion.text_inputs,
        max_text_tokens=min(fusion.max_text_tokens, max_tokens),
        candidates=CANDIDATES,
        weight=weight,
    )


def file_facts(path: Path) -> dict[str, str | int]:
    """Return {"sha256": hex digest, "bytes": size} of the file at `path`."""
    content = path.read_bytes()
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def manifest(directory: Path, facts: ModelFacts) -> dict[str, object]:
    """Return the manifest of the files that `directory` holds now, itself left out."""
    names = sorted(p.name for p in directory.iterdir() if p.is_file() and p.name != MANIFEST)
    return {
        "format": FORMAT,
        "name": facts.name,
        "version": facts.version,
        "dim": facts.dim,
        "image": {
            "file": "image.onnx",
            "size": list(facts.image_size),
            **facts.image,
        },
        "text": {
            "file": "text.onnx",
            "tokenizer": "tokenizer.json",
            "max_tokens": facts.max_tokens,
            **facts.text,
        },
        "quality": {
            "dataset": facts.dataset,
            "images": facts.images,
            "captions": facts.captions,
            "mean_recall": round(facts.recalls.mean, 4),
            **{
                side: {k: round(v, 4) for k, v in values.items()}
                for side, values in facts.recalls.as_manifest().items()
            },
        },
        "license": facts.license,
        **({} if facts.logit_scale is None else {"logit_scale": round(facts.logit_scale, 4)}),
        **({} if facts.itm is None else {"itm": asdict(facts.itm)}),
        **({"hubness": {side: asdict(bank) for side, bank in facts.hubness.items()}} if facts.hubness else {}),
        "files": {name: file_facts(directory / name) for name in names},
    }


def write_manifest(directory: Path, facts: ModelFacts) -> None:
    """Write `manifest.json` beside the files it describes; call it last."""
    text = json.dumps(manifest(directory, facts), indent=2) + "\n"
    (directory / MANIFEST).write_text(text, encoding="utf-8")
