"""Starting weights out of a model directory: a dual encoder in torch again, from the ONNX graphs that ship.

Export keeps parameter names and adds `.half` (float16), `.int8` with `.scale`, and `.transposed`. Where equal weights
have become one constant, what the graph does after the product, adding `<name>.bias`, tells whose weight it is there.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import GraphProto, ModelProto, NodeProto, numpy_helper
from torch import Tensor

from mmsearch.errors import ModelError
from mmsearch.model_manifest import ModelManifest, load_model_manifest
from mmsearch.onnx_external_data import has_external_data
from mmsearch.safe_text import safe_path, safe_text
from mmsearch.training.architecture import ARCHITECTURE, LOGIT_SCALE, OPEN_CLIP, built
from mmsearch.training.dual_encoder import DualEncoder
from mmsearch.training.onnx_check import check_parity
from mmsearch.training.tracing import TRANSPOSED

_SCALE_PARAMETER = "log_scale"
_SMALLEST_COSINE = 0.995  # of stored against rebuilt: weights are float16, the word table int8

Array = npt.NDArray[np.float32]


def load_stored(name_or_dir: str | os.PathLike[str]) -> DualEncoder:
    """Return the model of that name, or in that directory, as modules that can be trained, in evaluation mode.

    Raises:
        ModelError: it is no model of ours, lacks a weight, or does not compute what its graphs compute.
    """
    manifest = load_model_manifest(name_or_dir)
    graphs = [_graph(manifest, name) for name in sorted(manifest.files) if name.endswith(".onnx")]
    notes = {entry.key: entry.value for graph in graphs for entry in graph.metadata_props}
    if notes.get(ARCHITECTURE) == OPEN_CLIP:
        raise _complaint(manifest, "it was exported from an open_clip model; train from that one")
    model = built(_json(manifest, notes[ARCHITECTURE]) if ARCHITECTURE in notes else _shape_of_mini_0_1(manifest))
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found: dict[str, Array] = {}
    for graph in graphs:
        found.update(parameters(graph.graph, wanted))
    for name, value in model.state_dict().items():
        if name not in found and value.ndim == 0:  # temperatures and the like steer the losses and are in no graph
            found[name] = value.numpy()
    if LOGIT_SCALE in notes:
        found[_SCALE_PARAMETER] = _log_scale(manifest, notes[LOGIT_SCALE])
    model.load_state_dict(_checked(manifest, found, wanted))
    size = (manifest.preprocess.height, manifest.preprocess.width)
    check_parity(manifest.directory, model.eval(), size, smallest_cosine=_SMALLEST_COSINE)
    return model


def parameters(graph: GraphProto, wanted: Collection[str]) -> dict[str, Array]:
    """Return the float32 values of those parameters of `wanted` that `graph` holds, by name, in torch's layout."""
    values = _values(graph)
    transposed = list(_transposed(graph, values))
    named = [(name, name, False) for name in values.keys() - {stored for stored, _ in transposed}]
    found = {}
    for stored, name, turned in [*named, *((stored, name, True) for stored, name in transposed)]:
        parameter = _known(name, wanted)
        if parameter is not None:
            found[parameter] = np.array(values[stored].T if turned else values[stored], order="C")
    return found


def _values(graph: GraphProto) -> dict[str, Array]:
    """Return the float constants of `graph` under the names they had before they were made compact."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    values = {}
    for name, value in stored.items():
        plain = name.removesuffix(".half").removesuffix(".int8")
        if name.endswith(".int8"):
            values[plain] = value.astype(np.float32) * stored[f"{plain}.scale"]
        elif value.dtype in (np.float16, np.float32) and not name.endswith(".scale"):
            values[plain] = value.astype(np.float32)
    return values


def _transposed(graph: GraphProto, values: Mapping[str, Array]) -> Iterator[tuple[str, str]]:
    """Yield (name of a stored matrix, parameter it is the transpose of) for the linear maps of `graph`."""
    consumers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    for node in graph.node:
        stored = node.input[1] if len(node.input) > 1 else ""
        if stored not in values or values[stored].ndim != 2:
            continue
        if node.op_type == "Gemm" and not any(each.name == "transB" and each.i for each in node.attribute):
            yield stored, _weight_of([node.input[2]] if len(node.input) > 2 else [], stored)
        elif node.op_type == "MatMul":
            added = [name for use in consumers.get(node.output[0], ()) if use.op_type == "Add" for name in use.input]
            yield stored, _weight_of(added, stored)


def _weight_of(added: Collection[str], stored: str) -> str:
    """Return the name of the weight whose bias is among `added`, else the name that export gave to `stored`."""
    own = stored.removesuffix(TRANSPOSED)
    return next((f"{name.removesuffix('bias')}weight" for name in added if name.endswith(".bias")), own)


def _known(name: str, wanted: Collection[str]) -> str | None:
    """Return the parameter that `name` means: a graph's names have those of the exporting modules in front."""
    parts = name.split(".")
    return next((tail for i in range(len(parts)) if (tail := ".".join(parts[i:])) in wanted), None)


def _checked(
    manifest: ModelManifest, found: Mapping[str, Array], wanted: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """Return `found` as tensors; every one of `wanted` must be there, in its shape."""
    tensors = {}
    for name, shape in wanted.items():
        if name not in found:
            raise _complaint(manifest, f"holds no weight {name}")
        if found[name].shape != shape:
            raise _complaint(manifest, f"holds {name} of shape {found[name].shape}, expected {shape}")
        tensors[name] = torch.from_numpy(found[name])
    return tensors


def _graph(manifest: ModelManifest, name: str) -> ModelProto:
    data = manifest.read(name)
    try:
        if has_external_data(data):
            raise ValueError("keeps tensors in other files")
        return onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's decode errors have no stable base
        raise _complaint(manifest, f"{safe_text(name)} is not an ONNX model that can be trained: {error}") from error


def _shape_of_mini_0_1(manifest: ModelManifest) -> dict[str, Any]:
    """Return the shape of the first `mini`, the one model whose graphs do not tell theirs."""
    return {
        "image_tower": {},
        "text_tower": {"max_tokens": manifest.max_tokens},
        "model": {"fusion": None},
    }


def _log_scale(manifest: ModelManifest, text: str) -> Array:
    try:
        return np.array(math.log(float(text)), dtype=np.float32)
    except ValueError:
        raise _complaint(manifest, f"its logit scale is '{text}', expected a number above 0") from None


def _json(manifest: ModelManifest, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise _complaint(manifest, "describes its shape in something that is no JSON object")
    return value


def _complaint(manifest: ModelManifest, what: str) -> ModelError:
    return ModelError(
        f"training cannot start from model '{safe_text(manifest.name)}' in {safe_path(str(manifest.directory))}:"
        f" {safe_text(what)}; choose another with --from"
    )
