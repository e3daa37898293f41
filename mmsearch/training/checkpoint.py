"""Everything a run needs to go on as if nothing had happened, in one safetensors file: tensors, and JSON beside them.

Written as one file, so that weights, optimizer and random numbers are never of different moments.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from mmsearch.durable import write_atomic
from mmsearch.errors import ModelError
from mmsearch.safe_text import safe_path
from mmsearch.training.fitting import Loop

FORMAT = 1
_STATE = "state"  # the one key of the file's metadata
_OPTIMIZER = "optimizer"
_MODULES = ("model", "average", "masked")


@dataclass(frozen=True)
class Checkpoint:
    """A moment of a run: `tensors` by name, `state` of plain JSON values, `notes` of whoever wrote it."""

    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]
    notes: Mapping[str, Any]


def save_checkpoint(path: Path, loop: Loop, notes: Mapping[str, Any]) -> None:
    """Replace the file at `path` by the present moment of `loop`, and `notes` of plain JSON values.

    Raises:
        OSError: the disk is full or broken; the file is then what it was before.
    """
    tensors = {f"{kind}/{name}": value for kind, module in _modules(loop).items() for name, value in module.items()}
    for number, values in loop.optimizer.state_dict()["state"].items():
        tensors.update({f"{_OPTIMIZER}/{number}/{name}": value for name, value in values.items()})
    tensors["rng/torch"] = torch.get_rng_state()
    tensors["rng/generator"] = loop.generator.get_state()
    if torch.cuda.is_available():
        tensors["rng/cuda"] = torch.cuda.get_rng_state()
    if loop.todo:
        tensors["todo"] = torch.from_numpy(np.stack(loop.todo))
    state = {
        "format": FORMAT,
        "step": loop.step_number,
        "epoch": loop.epoch,
        "averaged": loop.average.steps,
        "rng": loop.rng.bit_generator.state,
    }
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_atomic(path, save(plain, {_STATE: json.dumps({"state": state, "notes": notes}, allow_nan=False)}))


def load_checkpoint(path: Path) -> Checkpoint:
    """Return what `save_checkpoint` wrote to `path`.

    Raises:
        ModelError: the file is damaged, or of another format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            content = json.loads((file.metadata() or {})[_STATE])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it cannot be iterated itself
        state, notes = content["state"], content["notes"]
        if state["format"] != FORMAT:
            raise ValueError(f"its format is {state['format']}, expected {FORMAT}")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"checkpoint {safe_path(str(path))} cannot be read ({error}); begin again without --resume"
        ) from error
    return Checkpoint(tensors, state, notes)


def restore(loop: Loop, checkpoint: Checkpoint) -> None:
    """Put `loop` where it was when `checkpoint` was made.

    Raises:
        ModelError: the checkpoint is of a model of another shape.
    """
    try:
        for kind, module in _modules(loop).items():
            with torch.no_grad():
                for name, value in module.items():
                    value.copy_(_tensor(checkpoint, f"{kind}/{name}", value.shape))
        _restore_optimizer(loop.optimizer, checkpoint)
    except (KeyError, ValueError) as error:
        raise ModelError(f"the checkpoint does not fit the model ({error}); begin again without --resume") from error
    loop.step_number, loop.epoch = checkpoint.state["step"], checkpoint.state["epoch"]
    loop.average.steps = checkpoint.state["averaged"]
    loop.todo = [rows.numpy() for rows in checkpoint.tensors["todo"]] if "todo" in checkpoint.tensors else []
    loop.rng.bit_generator.state = checkpoint.state["rng"]
    loop.generator.set_state(checkpoint.tensors["rng/generator"])
    torch.set_rng_state(checkpoint.tensors["rng/torch"])
    if "rng/cuda" in checkpoint.tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(checkpoint.tensors["rng/cuda"])


def save_weights(path: Path, model: nn.Module) -> None:
    """Replace the file at `path` by the weights of `model` alone."""
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    write_atomic(path, save(weights))


def load_weights(path: Path, model: nn.Module) -> None:
    """Fill `model` with the weights that `save_weights` wrote to `path`.

    Raises:
        ModelError: the file is damaged, or of a model of another shape.
    """
    try:
        with safe_open(path, framework="pt") as file:
            model.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ModelError(
            f"weights {safe_path(str(path))} cannot be read ({error}); begin again without --resume"
        ) from error


def _modules(loop: Loop) -> dict[str, dict[str, Tensor]]:
    """Return the live weights of every module that learns, or follows one that does."""
    modules = (loop.model, loop.average.model, loop.masked)
    return {
        kind: dict(module.state_dict()) for kind, module in zip(_MODULES, modules, strict=True) if module is not None
    }


def _restore_optimizer(optimizer: torch.optim.Optimizer, checkpoint: Checkpoint) -> None:
    """Rates and decays are the run's own, and are the same; only the moments are restored."""
    groups = optimizer.state_dict()["param_groups"]
    shapes = dict(enumerate(p.shape for group in optimizer.param_groups for p in group["params"]))
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in checkpoint.tensors.items():
        kind, _, rest = key.partition("/")
        if kind == _OPTIMIZER:
            number, _, name = rest.partition("/")
            state.setdefault(int(number), {})[name] = value
            if value.ndim and value.shape != shapes[int(number)]:
                raise ValueError(f"{key} has the shape {tuple(value.shape)}")
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _tensor(checkpoint: Checkpoint, name: str, shape: torch.Size) -> Tensor:
    value = checkpoint.tensors[name]
    if value.shape != shape:
        raise ValueError(f"{name} has the shape {tuple(value.shape)}, expected {tuple(shape)}")
    return value
