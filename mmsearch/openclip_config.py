"""A model as the hub gives it: what its `open_clip_config.json` says, in the words of a manifest. Imports no torch."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmsearch.errors import ModelError
from mmsearch.manifest_fields import Fields
from mmsearch.openclip_tokenizer import clip_tokenizer_json, hub_tokenizer_json, vocabulary_file
from mmsearch.regular_file import open_regular
from mmsearch.safe_text import safe_path, safe_text

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"

# What open_clip fills in where a configuration says nothing.
_MEAN = [0.48145466, 0.4578275, 0.40821073]
_STD = [0.26862954, 0.26130258, 0.27577711]
_RESIZE = {"shortest": "crop", "longest": "longest", "squash": "squash"}
_CLEANINGS = ("lower", "whitespace", "canonicalize")
_MAX_BYTES = 1 << 28
_MAX_HEADER_BYTES = 1 << 24
_CHUNK = 1 << 20
# How safetensors stores one number, and what comes before its bytes: bfloat16 is the upper half of a float32.
_FLOATS = {"F64": ("<d", b""), "F32": ("<f", b""), "F16": ("<e", b""), "BF16": ("<f", b"\0\0")}
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class HubModel:
    """A manifest's `table`, ready to be written as JSON, and the `generated` files that it pins but the hub lacks."""

    table: dict[str, Any]
    generated: dict[str, bytes] = field(default_factory=dict)


def is_hub_directory(directory: Path) -> bool:
    """True where `directory` has the configuration of an open_clip model."""
    return (directory / CONFIG_FILE).is_file()


def read_hub_model(
    directory: Path, *, name: str | None = None, license: str = "unknown", quality: Mapping[str, Any] | None = None
) -> HubModel:
    """The model whose files lie in `directory` as they lie on the hub; its weights are hashed for it.

    `name` defaults to the directory's.

    Raises:
        ModelError: a file is missing or cannot be used, there are no safetensors weights, or the model needs what is
            not supported (a text tower of the package transformers).
        MissingExtra: it has CLIP's own tokenizer, whose vocabulary comes with open_clip, which is not installed.
    """
    shown = safe_path(str(directory / CONFIG_FILE))
    config_data = _read(directory / CONFIG_FILE)
    settings = model_settings(config_data, file=shown)
    text = text_fields(settings, file=shown)
    generated: dict[str, bytes] = {}
    tokenizer = _tokenizer(directory, settings, generated)
    weights = _weights_file(directory)
    pins = {
        weights: _pin(directory / weights),
        CONFIG_FILE: _pinned(config_data),
        TOKENIZER_FILE: _pinned(tokenizer),
    }
    table = {
        "format": 1,
        "runtime": "open_clip",
        "name": _NOT_IN_A_NAME.sub("-", name or directory.resolve().name).strip("-._")[:64] or "model",
        "version": "1",
        "dim": settings["embed_dim"],
        "image": {"file": weights, **image_fields(config_data, file=shown)},
        "text": {"file": weights, "tokenizer": TOKENIZER_FILE, **text},
        "quality": dict(quality or {}),
        "license": license,
        "files": pins,
    }
    if (scale := _logit_scale(directory / weights)) is not None:
        table["logit_scale"] = scale
    return HubModel(table, generated)


def model_settings(data: bytes, *, file: str) -> dict[str, Any]:
    """The `model_cfg` of a configuration: what open_clip's classes are built from, with nothing in it that downloads.

    `file` is what messages call the file.

    Raises:
        ModelError: it is no such configuration, or the model is of a kind that is not supported.
    """
    settings = _table(data, file).get("model_cfg")
    if not isinstance(settings, dict) or not isinstance(settings.get("embed_dim"), int):
        raise ModelError(f"{file}: expected a table model_cfg with embed_dim, vision_cfg and text_cfg")
    for part in ("vision_cfg", "text_cfg"):
        if not isinstance(settings.get(part), dict):
            raise ModelError(f"{file}: model_cfg.{part} is missing or no table")
    vision, text = dict(settings["vision_cfg"]), dict(settings["text_cfg"])
    if text.get("hf_model_name"):
        raise ModelError(
            f"{file}: the text tower is {safe_text(str(text['hf_model_name']))} of the package transformers, which is"
            " not supported; choose a model whose text tower is open_clip's own"
        )
    if ":" in str(vision.get("timm_model_name") or ""):
        raise ModelError(
            f"{file}: timm_model_name is {safe_text(str(vision['timm_model_name']))}: expected the name of an"
            " architecture, not a place to download it from"
        )
    if "timm_model_name" in vision:
        vision["timm_model_pretrained"] = False
    return {**settings, "vision_cfg": vision, "text_cfg": text}


def image_fields(data: bytes, *, file: str) -> dict[str, Any]:
    """The manifest's `image` of a configuration, without the file.

    Raises:
        ModelError: something in it has the wrong kind or a value that open_clip would not take.
    """
    config = _table(data, file)
    size = config["model_cfg"]["vision_cfg"].get("image_size", 224)
    given = config.get("preprocess_cfg") or {}
    try:
        height, width = (size, size) if isinstance(size, int) else size
        mean, std = _three(given.get("mean") or _MEAN), _three(given.get("std") or _STD)
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ModelError(f"{file}: image_size or preprocess_cfg is not as open_clip writes it: {error}") from error
    mode = given.get("resize_mode") or "shortest"
    interpolation = given.get("interpolation") or "bicubic"
    if not isinstance(mode, str) or mode not in _RESIZE:
        raise ModelError(f"{file}: resize_mode is {safe_text(repr(mode))}: expected {' or '.join(_RESIZE)}")
    if interpolation == "random" or (mode == "shortest" and height != width):
        interpolation = "bicubic"  # what open_clip takes in these two cases, whatever is configured
    fields = {
        "size": [height, width],
        "resize": _RESIZE[mode],
        "interpolation": interpolation,
        "mean": mean,
        "std": std,
    }
    return {**fields, "fill": given.get("fill_color") or 0} if mode == "longest" else fields


def text_fields(settings: Mapping[str, Any], *, file: str) -> dict[str, Any]:
    """The manifest's `text` of a `model_cfg`, without the files.

    Raises:
        ModelError: it asks for a way of tokenizing that is not supported.
    """
    text = settings["text_cfg"]
    options = text.get("tokenizer_kwargs") or {}
    options = dict(options) if isinstance(options, dict) else {"": options}
    clean = options.pop("clean", "whitespace" if text.get("hf_tokenizer_name") else "lower")
    options.pop("strip_sep_token", None)
    if clean not in _CLEANINGS or options or text.get("tokenizer_mode"):
        wanted = safe_text(json.dumps([text.get("tokenizer_mode"), text.get("tokenizer_kwargs")]))
        raise ModelError(f"{file}: tokenizer_mode and tokenizer_kwargs are {wanted}, which is not supported")
    reads_padding = text.get("no_causal_mask") or text.get("embed_cls") or text.get("pool_type") == "last"
    return {"max_tokens": text.get("context_length", 77), "clean": clean, "pad": bool(reads_padding)}


def _tokenizer(directory: Path, settings: Mapping[str, Any], generated: dict[str, bytes]) -> bytes:
    """The model's `tokenizer.json`; where it is not the hub's file byte for byte, it is added to `generated`."""
    text = settings["text_cfg"]
    if not text.get("hf_tokenizer_name"):
        generated[TOKENIZER_FILE] = clip_tokenizer_json(vocabulary_file())
        return generated[TOKENIZER_FILE]
    path = directory / TOKENIZER_FILE
    data = _read(path)
    about = directory / TOKENIZER_CONFIG_FILE
    config = _table(_read(about), safe_path(str(about))) if about.is_file() else {}
    strip = bool((text.get("tokenizer_kwargs") or {}).get("strip_sep_token"))
    normalised = hub_tokenizer_json(data, config, strip_separator=strip, file=safe_path(str(path)))
    if normalised != data:
        generated[TOKENIZER_FILE] = normalised
    return normalised


def _weights_file(directory: Path) -> str:
    """The name of the safetensors file, as open_clip would choose it."""
    found = sorted(path.name for path in directory.glob("*.safetensors"))
    for name in (WEIGHTS_FILE, "open_clip_pytorch_model.safetensors", "model.safetensors"):
        if name in found:
            return name
    if len(found) == 1:
        return found[0]
    others = sorted(path.name for path in directory.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".ckpt"))
    if others and not found:
        raise ModelError(
            f"model directory {safe_path(str(directory))} has its weights as a pickle alone ({safe_text(others[0])}):"
            " weights are read from safetensors; convert a checkpoint that you trust with:"
            " mmsearch models import FILE --trust --architecture NAME"
        )
    what = f"{len(found)} safetensors files, none of them {WEIGHTS_FILE}" if found else "no safetensors weights"
    raise ModelError(f"model directory {safe_path(str(directory))} has {what}")


def _logit_scale(path: Path) -> float | None:
    """What the weights multiply cosines by; None for a file that does not say, or is none of safetensors.

    One number out of a large file: the header has its place, after its own length in eight bytes.
    """
    unreadable = (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError, struct.error)
    with contextlib.suppress(*unreadable), open_regular(path) as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _MAX_HEADER_BYTES:
            return None
        place = json.loads(file.read(length))["logit_scale"]
        form, before = _FLOATS[place["dtype"]]
        start, end = place["data_offsets"]
        file.seek(8 + length + start)
        scale = math.exp(struct.unpack(form, before + file.read(8)[: end - start])[0])
        return scale if 0.01 <= scale <= 10_000 else None
    return None


def _three(value: Any) -> list[float]:
    return [float(each) for each in value] if isinstance(value, list | tuple) else [float(value)] * 3


def _table(data: bytes, file: str) -> dict[str, Any]:
    try:
        table = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file} is not JSON: {safe_text(str(error))}") from error
    return Fields(table, file=file, error=ModelError).rest()


def _read(path: Path) -> bytes:
    try:
        with open_regular(path, follow_links=True) as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ModelError(f"model file {safe_path(str(path))} cannot be read: {error.strerror}") from error
    if len(data) > _MAX_BYTES:
        raise ModelError(f"model file {safe_path(str(path))} has more than {_MAX_BYTES} bytes")
    return data


def _pinned(data: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def _pin(path: Path) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    try:
        with open_regular(path, follow_links=True) as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
    except OSError as error:
        raise ModelError(f"model file {safe_path(str(path))} cannot be read: {error.strerror}") from error
    return {"sha256": digest.hexdigest(), "bytes": size}
