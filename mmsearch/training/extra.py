"""Whether what training needs is installed. Imports none of it, so that the answer comes at once."""

from __future__ import annotations

import importlib.util

from mmsearch.errors import MissingExtra

NEEDS = ("torch", "onnx", "onnxscript", "safetensors", "matplotlib")


def require_train_extra() -> None:
    """Return when everything that training needs is installed.

    Raises:
        MissingExtra: something is not; the message names it and the command that installs it.
    """
    missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(f"training needs {', '.join(missing)}; install with: pip install 'mmsearch[train]'")
