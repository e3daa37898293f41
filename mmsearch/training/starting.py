"""Finds the kind of a starting model."""

from __future__ import annotations

from mmsearch.model_manifest import bundled_models, load_model_manifest
from mmsearch.training.start import Start


def starting(name_or_dir: str) -> Start:
    """Return the model of that name, or in that directory, as a start for training.

    Raises:
        ModelError: there is no such model, or its manifest cannot be used.
        MissingExtra: it is an open_clip model, and a package that these need is not installed.
    """
    manifest = load_model_manifest(name_or_dir)
    origin = name_or_dir if name_or_dir in bundled_models() else str(manifest.directory.resolve())
    if manifest.runtime == "open_clip":
        from mmsearch.openclip import require_clip_extra

        require_clip_extra()
        from mmsearch.training.clip_start import ClipStart

        return ClipStart(origin, manifest)
    from mmsearch.training.dual_start import DualStart

    return DualStart(origin, manifest)
