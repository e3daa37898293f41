"""The two forms of an installed open_clip model: its weights for torch, and where it was exported, the same as ONNX.

    <store>/NAME/         weights, configuration, tokenizer, manifest
    <store>/NAME/onnx/    a model directory of its own that gives the same embeddings, under the same fingerprint

On the CPU the second is the faster one and needs no torch, so it is the one that is used there.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import platform
import sys
from pathlib import Path

from mmsearch.cuda_devices import cuda_devices
from mmsearch.errors import ModelError
from mmsearch.model_manifest import ModelManifest, load_model_manifest
from mmsearch.model_store import MARKER
from mmsearch.openclip import NEEDS
from mmsearch.safe_text import safe_text
from mmsearch.settings import Settings

ONNX_FORM = "onnx"

_log = logging.getLogger(__name__)


def onnx_form(manifest: ModelManifest) -> ModelManifest | None:
    """The ONNX form of an installed model, None where it has none.

    Raises:
        ModelError: what is there cannot be used: damaged, or of other weights.
    """
    directory = manifest.directory / ONNX_FORM
    if manifest.runtime == "onnx" or not (manifest.directory / MARKER).is_file() or not directory.is_dir():
        return None
    name = safe_text(manifest.directory.name)
    remedy = f"mmsearch models export {name} writes it anew"
    try:
        form = load_model_manifest(directory)
    except ModelError as error:
        raise ModelError(f"the ONNX form of model '{name}' cannot be used: {error}; {remedy}") from error
    if form.fingerprint != manifest.fingerprint:
        raise ModelError(
            f"the ONNX form of model '{name}' cannot be used: it gives embeddings of {form.fingerprint}, expected"
            f" {manifest.fingerprint}; {remedy}"
        )
    return form


def fastest_form(manifest: ModelManifest, settings: Settings, *, once: bool = False) -> ModelManifest:
    """The form of a model to run with `settings`: the ONNX form, if there is one, where the model would run on the CPU
    or where torch is not installed, else `manifest`. `once` is that of `load_model`.

    Raises:
        ModelError: the ONNX form is all that could run, and cannot be used.
    """
    if not _on_the_cpu(settings, once=once) and _torch_is_here():
        return manifest
    try:
        return onnx_form(manifest) or manifest
    except ModelError as error:
        if not _torch_is_here():
            raise
        _log.warning("%s; until then it runs in torch", error)
        return manifest


def accelerated() -> bool:
    """True where torch would find a device beside the CPU. Imports no torch to know it."""
    return bool(cuda_devices()) or (sys.platform == "darwin" and platform.machine() == "arm64")


def home(directory: Path) -> Path:
    """The installed model's directory, absolute, where `directory` is its ONNX form; else `directory` itself."""
    path = Path(os.path.abspath(directory))
    return path.parent if path.name == ONNX_FORM and (path.parent / MARKER).is_file() else path


def _torch_is_here() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in NEEDS)


def _on_the_cpu(settings: Settings, *, once: bool) -> bool:
    if settings.precision in ("bf16", "fp16"):  # asked for, and only torch has it
        return False
    # A process that asks once is done before a device would be ready.
    return settings.device == "cpu" or (settings.device == "auto" and (once or not accelerated()))
