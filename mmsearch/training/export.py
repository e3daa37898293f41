"""Writes a trained dual encoder as `image.onnx` and `text.onnx` in compact precision, and checks them against torch.

Convolution and linear weights are stored as float16 and cast to float32 when a session is created (constant folding),
so arithmetic stays float32 and an embedding does not depend on its batch. The word table is stored as int8 with one
scale a row; rows are gathered first and scaled afterwards, so that it is never expanded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from mmsearch.training.dual_encoder import DualEncoder
from mmsearch.training.tracing import traced

_SMALLEST_HALVED = 1024  # elements; smaller tensors (biases, norms) stay float32: no gain, and they carry the offsets
_WORD_TABLE_ROWS = 1000  # a gathered float table with more rows than this is a word table


@dataclass(frozen=True)
class Precision:
    """How weights are stored. Arithmetic is float32 either way."""

    half_weights: bool = True
    int8_words: bool = True


class _Images(nn.Module):
    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model.embed_images(pixels)


class _Texts(nn.Module):
    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model.embed_texts(input_ids, attention_mask)


def image_graph(model: DualEncoder, size: tuple[int, int]) -> ModelProto:
    """Return the float32 graph pixels uint8 (B, 3, H, W) -> embedding float32 (B, D)."""
    pixels = torch.zeros((2, 3, *size), dtype=torch.uint8)
    axes = {"pixels": {0: torch.export.Dim("batch")}}
    return traced(_Images(model), {"pixels": pixels}, axes, output="embedding")


def text_graph(model: DualEncoder, max_tokens: int) -> ModelProto:
    """Return the float32 graph input_ids, attention_mask int64 (B, L <= `max_tokens`) -> embedding float32 (B, D)."""
    ids = torch.ones((2, 8), dtype=torch.int64)
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", min=2, max=max_tokens)}
    names = {"input_ids": ids, "attention_mask": ids.clone()}
    return traced(_Texts(model), names, dict.fromkeys(names, axes), output="embedding")


def quantised_rows(table: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Return int8 rows and their float32 scales (N, 1): `table` ~ rows x scales, largest error half a scale."""
    scales = np.maximum(np.abs(table).max(1, keepdims=True), np.float32(1e-12)) / np.float32(127)
    return np.rint(table / scales).astype(np.int8), scales.astype(np.float32)


def _word_lookup(gather: NodeProto, table: npt.NDArray[np.float32]) -> tuple[list[NodeProto], list[TensorProto]]:
    """Return the nodes and tensors that replace `gather` on a float word table."""
    name, indices, output = gather.input[0], gather.input[1], gather.output[0]
    rows, scales = quantised_rows(table)
    tensors = [numpy_helper.from_array(rows, f"{name}.int8"), numpy_helper.from_array(scales, f"{name}.scale")]
    nodes = [
        helper.make_node("Gather", [f"{name}.int8", indices], [f"{output}.int8"], axis=0),
        helper.make_node("Gather", [f"{name}.scale", indices], [f"{output}.scale"], axis=0),
        helper.make_node("Cast", [f"{output}.int8"], [f"{output}.float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{output}.float", f"{output}.scale"], [output]),
    ]
    return nodes, tensors


def compact(graph_model: ModelProto, precision: Precision) -> ModelProto:
    """Return a copy of `graph_model` whose large weights are stored as `precision` says."""
    model = ModelProto()
    model.CopyFrom(graph_model)
    graph = model.graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    tensors: list[TensorProto] = []
    nodes: list[NodeProto] = []
    replaced: set[str] = set()
    for node in graph.node:
        table = weights.get(node.input[0]) if node.op_type == "Gather" and precision.int8_words else None
        if table is not None and table.dtype == np.float32 and table.ndim == 2 and len(table) > _WORD_TABLE_ROWS:
            new_nodes, new_tensors = _word_lookup(node, table)
            nodes += new_nodes
            tensors += new_tensors
            replaced.add(node.input[0])
        else:
            nodes.append(node)
    casts: list[NodeProto] = []
    for tensor in graph.initializer:
        weight = weights[tensor.name]
        if tensor.name in replaced:
            continue
        if not (precision.half_weights and weight.dtype == np.float32 and weight.size >= _SMALLEST_HALVED):
            tensors.append(tensor)
            continue
        tensors.append(numpy_helper.from_array(weight.astype(np.float16), f"{tensor.name}.half"))
        casts.append(helper.make_node("Cast", [f"{tensor.name}.half"], [tensor.name], to=TensorProto.FLOAT))
    kept = casts + nodes
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(kept)
    graph.initializer.extend(tensors)
    return model


def save_graph(graph: ModelProto, path: Path, precision: Precision) -> None:
    """Write `graph` to `path` as `precision` says, after ONNX's own check."""
    stored = compact(graph, precision)
    onnx.checker.check_model(stored)
    path.write_bytes(stored.SerializeToString())
