"""Weights of an open_clip model: out of a checked safetensors file, into a module that was built without any."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from mmsearch.errors import ModelError
from mmsearch.model_manifest import ModelManifest
from mmsearch.safe_text import safe_path, safe_text
from mmsearch.weights_kind import START_BYTES, TRUST_REMEDY, weights_kind

_RANDOM_FILLS = frozenset(("normal_", "uniform_", "trunc_normal_", "kaiming_uniform_", "xavier_uniform_", "erfinv_"))
_TEXT_PARTS = ("text_projection", "positional_embedding", "token_embedding", "transformer", "ln_final")
_MEMORY = Path("/proc/meminfo")
_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")
_SCALES = ("logit_scale", "logit_bias")


class unfilled(TorchFunctionMode):  # noqa: N801 (it reads as the statement it is)
    """Inside this context parameters get no random values: drawing them takes longer than loading the real ones."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__name__", "") in _RANDOM_FILLS:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def require_memory(manifest: ModelManifest) -> None:
    """Returns when this machine has the memory that loading the model takes, as far as it says how much it has.

    Raises:
        ModelError: it has less.
    """
    # The file and its tensors exist side by side for a moment, and half precision doubles after that.
    needed, free = 2 * manifest.files[manifest.image_file].bytes, free_memory()
    if free is not None and free < needed:
        raise ModelError(
            f"model '{safe_text(manifest.name)}' needs {needed / 1e9:.1f} GB of memory to be loaded, and"
            f" {free / 1e9:.1f} GB are free: end other programs, or choose a smaller model"
        )


def free_memory() -> int | None:
    """Bytes of memory that this process can still get, None where the system does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        free = int(_MEMORY.read_text().split("MemAvailable:")[1].split()[0]) * 1024
        with contextlib.suppress(OSError, ValueError):  # the word "max" where there is no limit
            free = min(free, int(_CONTAINER_LIMIT.read_text()))
        return free
    return None


def read_weights(manifest: ModelManifest) -> dict[str, Tensor]:
    """Every tensor of the model's weights, just checked against what the manifest pins.

    Raises:
        ModelError: the file is not the one that is pinned, or is no safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    data = manifest.read(manifest.image_file)
    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        shown = safe_path(str(manifest.directory / manifest.image_file))
        if weights_kind(data[:START_BYTES]) == "pickle":
            raise ModelError(f"model file {shown} is a pickle or torch archive, {TRUST_REMEDY}") from error
        raise ModelError(
            f"model file {shown} is no safetensors file, or a damaged one ({safe_text(str(error))}): fetch or copy it"
            " again"
        ) from error


def fitted(weights: Mapping[str, Tensor], clip: Any) -> dict[str, Tensor]:
    """`weights` under the names and shapes that open_clip itself would give them when it loads such a file."""
    wanted = clip.state_dict()
    if "positional_embedding" in weights and not hasattr(clip, "positional_embedding"):
        weights = {f"text.{name}" if name.startswith(_TEXT_PARTS) else name: each for name, each in weights.items()}
    return {
        name: each.reshape(wanted[name].shape)
        if name in _SCALES and name in wanted and each.numel() == wanted[name].numel()
        else each
        for name, each in weights.items()
    }
