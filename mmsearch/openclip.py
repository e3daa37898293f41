"""open_clip models in torch: built from their own configuration, weights out of safetensors alone."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from typing import Any

from mmsearch.errors import MissingExtra, ModelError
from mmsearch.model_manifest import ModelManifest
from mmsearch.openclip_config import CONFIG_FILE, model_settings
from mmsearch.safe_text import safe_path, safe_text

# torchvision 0.15 was made for torch 2.0, and each since for the torch that came out with it.
_TORCH_VERSION = re.compile(r"2\.(\d+)\.(\d+)(?:\+(cpu|cu\d+|rocm[\d.]+|xpu))?$")
_MINOR_AHEAD = 15
NEEDS = ("torch", "torchvision", "open_clip", "safetensors")


def require_clip_extra() -> None:
    """Return when everything that open_clip models need is installed. Imports none of it.

    Raises:
        MissingExtra: something is not; the message names it and the command that installs it.
    """
    missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"open_clip models need {', '.join(missing)}; install with: pip install 'mmsearch[clip]',"
            " or use a model that was exported, which needs none of it"
        )


def load_openclip(manifest: ModelManifest) -> Any:
    """The model of a manifest whose runtime is open_clip, in evaluation mode: open_clip's own, float32, on the CPU.

    Raises:
        MissingExtra: the packages of the extra `clip` are not installed.
        ModelError: torchvision does not fit torch, the configuration describes no model that open_clip builds, or the
            weights are not what the manifest pins, not safetensors, do not fit the configuration, or need more memory
            than there is.
    """
    open_clip = import_open_clip()
    from mmsearch.openclip_weights import require_memory

    require_memory(manifest)
    settings = model_settings(manifest.read(CONFIG_FILE), file=safe_path(str(manifest.directory / CONFIG_FILE)))
    clip = _built(open_clip, settings, manifest)
    _fill(open_clip, clip, manifest)
    return clip.float().eval()


def import_open_clip() -> Any:
    """The package open_clip.

    Raises:
        MissingExtra: a package of the extra `clip` is not installed.
        ModelError: it cannot be imported: torchvision does not fit torch.
    """
    require_clip_extra()
    try:
        import open_clip
    except Exception as error:  # a torchvision of another build fails with whatever its missing operators raise
        torch, vision = _version("torch"), _version("torchvision")
        raise ModelError(
            f"open_clip cannot be imported: {safe_text(str(error))}; torch {torch} and torchvision {vision} may not fit"
            f" each other: {_fitting_torchvision(torch)}"
        ) from error
    return open_clip


def _fitting_torchvision(torch: str) -> str:
    """What to do for a torchvision that fits the version `torch`, and leaves torch as it is."""
    found = _TORCH_VERSION.match(torch)
    if found is None:
        return "install both anew, from one place: pip install --upgrade --force-reinstall torch torchvision"
    minor, patch, build = found.groups()
    # A build for one device has its place; wheels of the package index are built for another.
    place = f" --index-url https://download.pytorch.org/whl/{build}" if build else ""
    wanted = f"torchvision==0.{int(minor) + _MINOR_AHEAD}.{patch}"
    return f"pip install --force-reinstall --no-deps '{wanted}'{place}"


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "(unknown)"


def _built(open_clip: Any, settings: Mapping[str, Any], manifest: ModelManifest) -> Any:
    """A module of the right shape whose parameters hold nothing in particular."""
    from mmsearch.openclip_weights import unfilled

    arguments = dict(settings)
    custom = arguments.pop("custom_text", False)
    kind = open_clip.CLIP
    if custom:
        kind = open_clip.CoCa if "multimodal_cfg" in arguments else open_clip.CustomTextCLIP
    try:
        with unfilled():
            return kind(**arguments)
    except (TypeError, ValueError, AssertionError, RuntimeError, KeyError, AttributeError) as error:
        raise ModelError(
            f"model '{safe_text(manifest.name)}': open_clip {open_clip.__version__} builds no model from its"
            f" {CONFIG_FILE}: {safe_text(f'{type(error).__name__}: {error}')}"
        ) from error


def _fill(open_clip: Any, clip: Any, manifest: ModelManifest) -> None:
    from mmsearch.openclip_weights import fitted, read_weights

    weights = fitted(read_weights(manifest), clip)
    try:
        clip.load_state_dict(weights, strict=True, assign=True)
    except RuntimeError as error:
        found = " ".join(str(error).split())
        raise ModelError(
            f"model '{safe_text(manifest.name)}': the weights in {safe_text(manifest.image_file)} do not fit its"
            f" {CONFIG_FILE}: {safe_text(found)}"
        ) from error
