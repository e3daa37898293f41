"""A torch checkpoint, once, into safetensors: the one place where a user's pickle is opened.

It is opened through torch's weights-only loading, which builds tensors and plain containers and refuses everything else
that a pickle can ask for.
"""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mmsearch.byte_size import size_text
from mmsearch.errors import MissingExtra, ModelError
from mmsearch.model_store import require_space
from mmsearch.regular_file import open_regular
from mmsearch.safe_text import safe_path, safe_text

if TYPE_CHECKING:
    from torch import Tensor

_LOG = logging.getLogger(__name__)

# Before it, a crafted file can run code through weights-only loading too: CVE-2026-24747.
_SAFE_TORCH = (2, 10)
# What training in parallel puts before every name, and what old checkpoints keep beside the weights.
_PREFIX = "module."
_NO_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "text.transformer.embeddings.position_ids")
_FULL_DISK = f"os error {errno.ENOSPC}"  # as safetensors words it
_ASKED_FOR = re.compile(r"GLOBAL ([\w.]+)|Unsupported (?:class|function|operand) ([\w.]+)")


def convert_checkpoint(source: Path, target: Path) -> None:
    """Writes the weights of the checkpoint `source`, which its user trusts, to the safetensors file `target`.

    Raises:
        ModelError: it holds something else than weights that safetensors can keep, is damaged, or is TorchScript; there
            is no room for them, in memory or on the disk.
        OSError: the disk fills up all the same.
        MissingExtra: the installed torch is one whose weights-only loading can be made to run code.
    """
    _require_safe_torch()
    _LOG.warning(
        "%s is a pickle: it is opened once, for its weights alone, and kept as safetensors", safe_path(source.name)
    )
    shown = safe_path(str(source))
    weights = _named(_state(source), shown)
    for name, value in weights.items():
        _require_plain(name, value, shown)
    _require_room(weights, target, shown)
    _save(weights, target, shown)


def _require_safe_torch() -> None:
    import torch

    found = re.match(r"(\d+)\.(\d+)", torch.__version__)
    if found is None or (int(found[1]), int(found[2])) < _SAFE_TORCH:
        floor = ".".join(map(str, _SAFE_TORCH))
        raise MissingExtra(
            f"a checkpoint is not opened with torch {safe_text(torch.__version__)}, in which a crafted one can run code"
            f" (CVE-2026-24747): pip install --upgrade 'torch>={floor}' torchvision; safetensors files need none of it"
        )


def _state(source: Path) -> dict[str, Tensor]:
    import torch

    shown = safe_path(str(source))
    try:
        # Opened here: of a path torch takes the name's ending for what the file is.
        with open_regular(source) as file:
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"{shown} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # what a rubbish pickle makes it raise is of any kind
        # Its own words are never shown: they advise to switch the protection off.
        raise ModelError(f"{shown} is refused, --trust or not: {_reason(str(error))}") from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(state, dict) or not state:
        raise ModelError(f"{shown} holds {type(state).__name__}: expected a table of weights by name, a state_dict")
    wrong = [name for name, value in state.items() if not (isinstance(name, str) and isinstance(value, torch.Tensor))]
    if wrong:
        kind = type(state[wrong[0]]).__name__
        raise ModelError(f"{shown} holds {kind} under '{safe_text(str(wrong[0]))}': expected a tensor under every name")
    return state


def _reason(said: str) -> str:
    if "TorchScript" in said:
        return "it is TorchScript, which is a program; save the model's state_dict() where it was made"
    if (found := _ASKED_FOR.search(said)) is not None:
        return f"it holds something else than weights ({safe_text(found[1] or found[2])}); save its state_dict() alone"
    return "it is damaged, or no checkpoint of torch; if it was one, fetch or copy it again"


def _named(state: Mapping[str, Tensor], shown: str) -> dict[str, Tensor]:
    """The weights of a state by the names that open_clip gives them."""
    weights: dict[str, Tensor] = {}
    for full_name, value in state.items():
        name = full_name.removeprefix(_PREFIX)
        if name in _NO_WEIGHTS:
            continue
        if name in weights:
            raise ModelError(
                f"{shown} holds '{safe_text(name)}' twice, with '{_PREFIX}' before it and without: expected one of them"
            )
        weights[name] = value
    return weights


def _require_plain(name: str, value: Tensor, shown: str) -> None:
    """Returns for a tensor that is stored number by number, as weights are.

    Raises:
        ModelError: it is not; says what it is.
    """
    import torch

    kind = ""
    if value.layout is not torch.strided or value.is_nested:
        kind = f"a tensor of the layout {value.layout}"
    elif value.is_quantized or value.is_complex():
        kind = f"numbers of the type {value.dtype}"
    elif value.device.type != "cpu":
        kind = f"a tensor on the device {value.device.type}, without any numbers"
    elif value.numel() * value.element_size() > value.untyped_storage().nbytes():
        kind = f"a tensor of {size_text(value.numel() * value.element_size())} that repeats a few numbers"
    if kind:
        raise ModelError(
            f"{shown} holds {safe_text(kind)} under '{safe_text(name)}', which is not kept in safetensors: expected"
            " dense tensors of real numbers"
        )


def _require_room(weights: Mapping[str, Tensor], target: Path, shown: str) -> None:
    """Returns when there is memory and disk for every tensor by itself: many may be views of one."""
    from mmsearch.openclip_weights import free_memory

    needed, free = sum(each.numel() * each.element_size() for each in weights.values()), free_memory()
    if free is not None and free < needed:
        raise ModelError(
            f"the weights in {shown} take {size_text(needed)} of memory, and {size_text(free)} are free: end other"
            " programs"
        )
    require_space(target.parent, needed, what=f"converting {shown}")


def _save(weights: Mapping[str, Tensor], target: Path, shown: str) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        # Views of one storage are not kept as such in safetensors.
        save_file({name: each.detach().clone().contiguous() for name, each in weights.items()}, target)
    except OSError as error:
        raise ModelError(f"the converted weights cannot be written: {error.strerror or error}") from error
    except (SafetensorError, RuntimeError, MemoryError, ValueError, TypeError, KeyError) as error:
        if _FULL_DISK in str(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(target)) from error
        raise ModelError(
            f"the weights in {shown} cannot be kept as safetensors: {safe_text(' '.join(str(error).split())[:200])}"
        ) from error
