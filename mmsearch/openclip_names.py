"""What an installed open_clip knows by name: published checkpoints, where they are, and architectures."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

from mmsearch.errors import ModelError
from mmsearch.model_catalog import KNOWN, known_names, nearest_names
from mmsearch.model_manifest import bundled_models
from mmsearch.openclip import import_open_clip
from mmsearch.safe_text import safe_text

_PREPROCESS = ("mean", "std", "interpolation", "resize_mode")


def published() -> dict[str, str]:
    """`ARCHITECTURE/PRETRAINED` -> where the hub keeps it: `ORG/NAME`, or `ORG/NAME/FILE` where the file has a name of
    its own; "" for what is elsewhere.

    Where open_clip is not installed, or cannot be imported, these are the models that mmsearch knows itself.
    """
    known = {each.name: each.repository for each in KNOWN}
    try:
        from open_clip import get_pretrained_cfg, list_pretrained
    except (
        Exception
    ):  # whatever keeps it from being imported is said when a model is loaded, not where names are listed
        return known
    theirs = {
        f"{model}/{tag}": str(get_pretrained_cfg(model, tag).get("hf_hub", "")).rstrip("/")
        for model, tag in list_pretrained()
    }
    return {**theirs, **known}


def nearest(name: str, *, among: list[str] | None = None) -> str:
    """The names most like `name`, for an error message: up to three of those `among` (default: all that are known)."""
    names = [*bundled_models(), *known_names(), *published()] if among is None else among
    return ", ".join(nearest_names(name, names))


def hub_config(architecture: str) -> dict[str, Any]:
    """What `open_clip_config.json` says of an architecture: `model_cfg`, and `preprocess_cfg` as its published
    checkpoints mostly have it.

    Raises:
        ModelError: open_clip has no such architecture, or cannot be imported.
        MissingExtra: it is not installed.
    """
    open_clip = import_open_clip()
    model = open_clip.get_model_config(architecture) if "/" not in architecture and ":" not in architecture else None
    if model is None:
        close = nearest(architecture, among=open_clip.list_models())
        raise ModelError(f"open_clip has no architecture '{safe_text(architecture)}'; near it: {close}")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    settings = [open_clip.get_pretrained_cfg(architecture, tag) for tag in tags]
    choices = Counter(tuple((key, each[key]) for key in _PREPROCESS if key in each) for each in settings)
    preprocess: dict[str, Any] = {
        "mean": open_clip.OPENAI_DATASET_MEAN,
        "std": open_clip.OPENAI_DATASET_STD,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        **dict(choices.most_common(1)[0][0] if choices else ()),
    }
    preprocess["size"] = model["vision_cfg"]["image_size"]
    # Tuples become lists, as they are when the file is read.
    return {"model_cfg": copy.deepcopy(model), "preprocess_cfg": {key: _listed(preprocess[key]) for key in preprocess}}


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
