"""What this installation consists of, read from its records: nothing is imported for it."""

from __future__ import annotations

import platform

from mmsearch import __version__
from mmsearch.index_device import FAISS_BUILDS

_PACKAGES = ("numpy", "pillow", "pillow-heif", "tokenizers", "lancedb", "pyarrow", "torch")
_ONNX_BUILDS = ("onnxruntime", "onnxruntime-gpu")
BUILDS = (*FAISS_BUILDS, *_ONNX_BUILDS)


def installed_versions() -> dict[str, str]:
    """Distribution -> version of what this run would use."""
    from importlib import metadata

    versions = {"mmsearch": __version__, "python": platform.python_version()}
    for name in (*_PACKAGES, *BUILDS):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def faiss_build(versions: dict[str, str]) -> str:
    """Which FAISS is active, in words."""
    return _build(versions, FAISS_BUILDS)


def onnx_build(versions: dict[str, str]) -> str:
    """Which ONNX Runtime is active, in words."""
    return _build(versions, _ONNX_BUILDS)


def _build(versions: dict[str, str], builds: tuple[str, ...]) -> str:
    """Which of `builds`, which all install the same module, is active: unclear where there are several."""
    found = [name for name in builds if name in versions]
    named = " and ".join(f"{name} {versions[name]}" for name in found)
    if len(found) > 1:
        # Removing one takes files of the other with it, so both have to go.
        return f"unclear: {named} overwrite each other; run `pip uninstall {' '.join(found)}`, then install one of them"
    return named or "none installed"
