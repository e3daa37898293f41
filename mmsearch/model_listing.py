"""Every model that can be named here, bundled, installed or only known, and all that is known about one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from mmsearch.errors import ModelError
from mmsearch.model_catalog import KNOWN, KnownModel, known_model
from mmsearch.model_forms import onnx_form
from mmsearch.model_manifest import BUNDLED, ModelManifest, bundled_models, load_model_manifest
from mmsearch.model_store import (
    Installed,
    damaged_models,
    directory_name,
    find,
    installed_models,
    marker_damage,
    read_marker,
)
from mmsearch.safe_text import safe_path

State: TypeAlias = Literal["bundled", "installed", "not installed", "damaged"]


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """One model. `manifest` is None where it is not here, or damaged, `onnx` where it has no ONNX form beside, or a
    damaged one; `trouble` says how. `bytes` are of all its files, or about what it would take. `quality` is as in a
    manifest.
    """

    name: str
    state: State
    bytes: int
    license: str
    quality: Mapping[str, Any]
    known: KnownModel | None = None
    manifest: ModelManifest | None = None
    installed: Installed | None = None
    trouble: str = ""
    onnx: ModelManifest | None = None


def listing() -> list[ModelFacts]:
    """The bundled models, the recommended ones, then others that are known, then the rest of what is installed."""
    known = [_known(each) for each in KNOWN]
    shown = {directory_name(each.name) for each in KNOWN}
    others = [_installed(each) for each in installed_models() if each.name not in shown]
    damaged = [_damaged(each.name) for each in damaged_models() if each.name not in shown]
    return [*(_bundled(name) for name in bundled_models()), *known, *others, *damaged]


def look_at(name: str) -> ModelFacts:
    """All about the model called `name`.

    Raises:
        ModelError: there is no such model, neither here nor known.
    """
    if name in bundled_models():
        return _bundled(name)
    directory = find(name)
    installed = read_marker(directory) if directory is not None else None
    if installed is not None:
        return _installed(installed, known_model(name))
    known = known_model(name)
    if known is not None:
        return _known(known)
    if marker_damage(name) is not None:
        return _damaged(name)
    manifest = load_model_manifest(name)
    return ModelFacts(manifest.name, "installed", _bytes(manifest), manifest.license, manifest.quality, None, manifest)


def _bundled(name: str) -> ModelFacts:
    manifest = load_model_manifest(BUNDLED / name)
    return ModelFacts(name, "bundled", _bytes(manifest), manifest.license, manifest.quality, None, manifest)


def _known(known: KnownModel) -> ModelFacts:
    directory = find(known.name)
    installed = read_marker(directory) if directory is not None else None
    if installed is not None:
        return _installed(installed, known)
    if marker_damage(known.name) is not None:
        return _damaged(known.name, known)
    return ModelFacts(known.name, "not installed", known.approximate_bytes, known.license, known.quality, known)


def _damaged(name: str, known: KnownModel | None = None) -> ModelFacts:
    """A model whose marker cannot be read."""
    return ModelFacts(name, "damaged", 0, "not known", {}, known, trouble=marker_damage(name) or "")


def _installed(installed: Installed, known: KnownModel | None = None) -> ModelFacts:
    name = known.name if known else installed.name
    try:
        manifest = load_model_manifest(installed.directory)
        _require_files(manifest)
    except ModelError as error:
        return ModelFacts(name, "damaged", 0, installed.license, {}, known, None, installed, str(error))
    trouble, form = "", None
    try:
        form = onnx_form(manifest)
    except ModelError as error:
        trouble = str(error)
    size = _bytes(manifest) + (_bytes(form) if form else 0)
    return ModelFacts(
        name, "installed", size, installed.license, manifest.quality, known, manifest, installed, trouble, form
    )


def _require_files(manifest: ModelManifest) -> None:
    """Returns when every file has the size that its manifest states. None is read."""
    for name, pinned in manifest.files.items():
        path = manifest.directory / name
        try:
            size = path.lstat().st_size
        except OSError as error:
            raise ModelError(f"model file {safe_path(str(path))} cannot be read: {error.strerror}") from error
        if size != pinned.bytes:
            raise ModelError(f"model file {safe_path(str(path))} has {size:,} bytes, expected {pinned.bytes:,}")


def _bytes(manifest: ModelManifest) -> int:
    return sum(each.bytes for each in manifest.files.values())
