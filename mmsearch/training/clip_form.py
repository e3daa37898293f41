"""Gives an installed open_clip model its ONNX form, which is used in its place on the CPU from then on."""

from __future__ import annotations

import os
from pathlib import Path

from mmsearch.durable import fsync_dir
from mmsearch.errors import ModelError, UsageError
from mmsearch.model_forms import ONNX_FORM
from mmsearch.model_manifest import ModelManifest, load_model_manifest
from mmsearch.model_store import changing_the_store, read_marker, staging, store_directory
from mmsearch.progress import ProgressCallback
from mmsearch.safe_text import safe_text
from mmsearch.training.clip_export import export_model, require_open_clip


def write_onnx_form(manifest: ModelManifest, *, progress: ProgressCallback | None = None) -> ModelManifest:
    """Return the ONNX form of the installed model `manifest`, written into its directory, in the place of an older one.

    It is there as a whole, and compared with torch, or not at all; it goes when the model is removed.

    Raises:
        UsageError: the model is ONNX already, or not an installed one.
        MissingExtra, ModelError: as `export_model`; another process is changing the store, or the disk refuses.
    """
    require_open_clip(manifest)
    if not is_installed(manifest):
        raise UsageError(
            f"model '{safe_text(manifest.name)}' is not an installed one: say where to write with --out DIR"
        )
    target = manifest.directory / ONNX_FORM
    with changing_the_store() as store, staging(store, manifest.directory.name) as staged:
        export_model(manifest, staged / ONNX_FORM, progress=progress)
        try:
            if target.exists() or target.is_symlink():
                target.rename(staged / "replaced")
            (staged / ONNX_FORM).rename(target)
            fsync_dir(target.parent)
        except OSError as error:
            raise ModelError(
                f"the ONNX form of model '{safe_text(manifest.name)}' cannot be put into place: {error.strerror}"
            ) from error
    return load_model_manifest(target)


def is_installed(manifest: ModelManifest) -> bool:
    """True for a model in the store, and not for a directory of the user's that looks like one."""
    directory = Path(os.path.abspath(manifest.directory))
    return directory.parent == Path(os.path.abspath(store_directory())) and read_marker(directory) is not None
