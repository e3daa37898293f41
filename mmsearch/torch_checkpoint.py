"""A torch checkpoint, once, into safetensors: the one place where a user's pickle is opened.

It is opened through torch's weights-only loading, which builds tensors and plain containers and refuses everything else
that a pickle can ask for.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from mmsearch.errors import ModelError
from mmsearch.safe_text import safe_path, safe_text

_LOG = logging.getLogger(__name__)

# What training in parallel puts before every name, and what old checkpoints keep beside the weights.
_PREFIX = "module."
_NO_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "text.transformer.embeddings.position_ids")


def convert_checkpoint(source: Path, target: Path) -> None:
    """Writes the weights of the checkpoint `source`, which its user trusts, to the safetensors file `target`.

    Raises:
        ModelError: it holds something else than weights, is damaged, or is TorchScript.
    """
    from safetensors.torch import save_file

    _LOG.warning(
        "%s is a pickle: it is opened once, for its weights alone, and kept as safetensors", safe_path(source.name)
    )
    weights = {}
    for name, value in _state(source).items():
        name = name.removeprefix(_PREFIX)
        if name not in _NO_WEIGHTS:
            # Tensors may be views of one storage, which safetensors does not store.
            weights[name] = value.detach().clone().contiguous()
    try:
        save_file(weights, target)
    except OSError as error:
        raise ModelError(f"the converted weights cannot be written: {error.strerror or error}") from error


def _state(source: Path) -> dict[str, Any]:
    import torch

    shown = safe_path(str(source))
    try:
        loaded = torch.load(source, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"{shown} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # what a rubbish pickle makes it raise is of any kind
        why = str(error).partition("\n")[0]
        raise ModelError(
            f"{shown} is refused, --trust or not: it is damaged, or holds something else than weights"
            f" ({safe_text(why[:200])})"
        ) from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(state, dict) or not state:
        raise ModelError(f"{shown} holds {type(state).__name__}: expected a table of weights by name, a state_dict")
    wrong = [name for name, value in state.items() if not (isinstance(name, str) and isinstance(value, torch.Tensor))]
    if wrong:
        kind = type(state[wrong[0]]).__name__
        raise ModelError(f"{shown} holds {kind} under '{safe_text(str(wrong[0]))}': expected a tensor under every name")
    return state
