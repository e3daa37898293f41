"""The shape of a dual encoder as plain JSON, so that whoever finds its weights can build the modules they belong to."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from mmsearch.errors import ModelError
from mmsearch.training.dual_encoder import DualConfig, DualEncoder
from mmsearch.training.fusion import FusionConfig
from mmsearch.training.towers import EfficientNetLite, ImageTowerConfig, MiniLM, TextTowerConfig
from mmsearch.training.two_towers import TwoTowers

ARCHITECTURE = "mmsearch.architecture"  # keys of a graph's metadata
LOGIT_SCALE = "mmsearch.logit_scale"
OPEN_CLIP = '{"open_clip": true}'  # the shape of an exported open_clip model, which only open_clip can build

Config = TypeVar("Config")
Model = TypeVar("Model", bound=TwoTowers)


def architecture(model: DualEncoder) -> dict[str, Any]:
    """Return {"image_tower": ..., "text_tower": ..., "model": ...}: all that `built` needs besides the weights."""
    return {
        "image_tower": asdict(model.image_tower.config),
        "text_tower": asdict(model.text_tower.config),
        "model": asdict(model.config),
    }


def architecture_json(model: DualEncoder) -> str:
    """Return `architecture` as JSON text; equal for equal shapes."""
    return json.dumps(architecture(model), sort_keys=True)


def built(described: Mapping[str, Any]) -> DualEncoder:
    """Return a dual encoder of the `described` shape, with random weights.

    Raises:
        ModelError: the description lacks something, or has what no part of the model knows.
    """
    try:
        image_tower = EfficientNetLite(_read(ImageTowerConfig, described["image_tower"]))
        text_tower = MiniLM(_read(TextTowerConfig, described["text_tower"]))
        return DualEncoder(image_tower, text_tower, _read(DualConfig, described["model"]))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"the model describes its shape in a way this mmsearch does not know ({error}); train from another model,"
            " or install the version that made it"
        ) from error


def with_fusion(model: Model, fusion: FusionConfig | None) -> Model:
    """Return `model` with a fresh matching head of that shape, or with none; towers are shared with it."""
    changed = model.like(fusion)
    changed.load_state_dict(model.state_dict(), strict=False)
    return changed


def _read(kind: type[Config], values: Any) -> Config:
    """Return the frozen dataclass `kind` out of a JSON object; what an older version did not write has its default."""
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if not isinstance(values, Mapping) or not set(values) <= names:
        found = sorted(values) if isinstance(values, Mapping) else values
        raise TypeError(f"{kind.__name__} has {found}, expected {sorted(names)}")
    hints = get_type_hints(kind)
    return kind(**{name: _value(hints[name], value) for name, value in values.items()})


def _value(kind: Any, value: Any) -> Any:
    if get_origin(kind) is types.UnionType:  # X | None
        return None if value is None else _value(next(each for each in get_args(kind) if each is not type(None)), value)
    if is_dataclass(kind) and isinstance(kind, type):
        return _read(kind, value)
    if get_origin(kind) is tuple:
        return tuple(value)
    return value
