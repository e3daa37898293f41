"""Writes a trained dual encoder as `image.onnx` and `text.onnx` in compact precision, and checks them against torch.

Large weights are stored as float16, or as int8 with one scale an output, and become float32 when a session is created
(constant folding), so arithmetic stays float32 and an embedding does not depend on its batch. The word table is stored
as int8 with one scale a row; rows are gathered first and scaled afterwards, so that it is never expanded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from mmsearch.errors import ModelError
from mmsearch.training.architecture import ARCHITECTURE, LOGIT_SCALE, OPEN_CLIP, architecture_json
from mmsearch.training.dual_encoder import DualEncoder
from mmsearch.training.fusion import TOKEN_STEP, MatchHead, quantised_tokens
from mmsearch.training.graph_files import write_graph
from mmsearch.training.tracing import traced
from mmsearch.training.two_towers import TwoTowers

_SMALLEST_HALVED = 1024  # elements; smaller tensors (biases, norms) stay float32: no gain, and they carry the offsets
_WORD_TABLE_ROWS = 1000  # a gathered float table with more rows than this is a word table


@dataclass(frozen=True)
class Precision:
    """How weights are stored. Arithmetic is float32 either way."""

    half_weights: bool = True
    int8_words: bool = True
    int8_linears: bool = False  # linear maps only, the largest part of a transformer


class _Images(nn.Module):
    def __init__(self, model: TwoTowers) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        embedding, states = self.model.look_at(pixels)
        if self.model.projector is None:
            return (embedding,)
        return embedding, quantised_tokens(self.model.match_tokens(states))


class _Texts(nn.Module):
    def __init__(self, model: TwoTowers) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        embedding, states = self.model.read(input_ids, attention_mask, learn=True)
        return (embedding,) if self.model.matcher is None else (embedding, states)


class _Matches(nn.Module):
    def __init__(self, matcher: MatchHead) -> None:
        super().__init__()
        self.matcher = matcher

    def forward(self, tokens: Tensor, states: Tensor, attention_mask: Tensor) -> Tensor:
        logit: Tensor = self.matcher(tokens.float() * TOKEN_STEP, states, attention_mask.bool())
        return logit


def image_graph(model: TwoTowers, size: tuple[int, int]) -> ModelProto:
    """Return the float32 graph pixels uint8 (B, 3, H, W) -> embedding float32 (B, D).

    With a matching head also -> tokens int8 (B, N, C).
    """
    pixels = torch.zeros((2, 3, *size), dtype=torch.uint8)
    axes = {"pixels": {0: torch.export.Dim("batch")}}
    outputs = ("embedding",) if model.projector is None else ("embedding", "tokens")
    return traced(_Images(model), {"pixels": pixels}, axes, outputs=outputs)


def text_graph(model: TwoTowers, max_tokens: int, *, whole: bool = False) -> ModelProto:
    """Return the float32 graph input_ids, attention_mask int64 (B, L <= `max_tokens`) -> embedding float32 (B, D).

    With a matching head also -> states float32 (B, L, C). With `whole`, L is always `max_tokens`.
    """
    ids = torch.ones((2, max_tokens if whole else min(8, max_tokens)), dtype=torch.int64)
    axes = {0: torch.export.Dim("batch")}
    if not whole:
        axes[1] = torch.export.Dim("length", min=2, max=max_tokens)
    names = {"input_ids": ids, "attention_mask": ids.clone()}
    outputs = ("embedding",) if model.matcher is None else ("embedding", "states")
    return traced(_Texts(model), names, dict.fromkeys(names, axes), outputs=outputs)


def match_graph(matcher: MatchHead) -> ModelProto:
    """Return the float32 graph tokens int8 (B, N, C), states (B, L, S), attention_mask int64 (B, L) -> logit (B,)."""
    config = matcher.config
    batch = torch.export.Dim("batch")
    words = {0: batch, 1: torch.export.Dim("length", min=2, max=config.max_text_tokens)}
    examples = {
        "tokens": torch.zeros((2, config.tokens, config.token_dim), dtype=torch.int8),
        "states": torch.zeros((2, 8, config.text_inputs)),
        "attention_mask": torch.ones((2, 8), dtype=torch.int64),
    }
    axes = {"tokens": {0: batch}, "states": words, "attention_mask": words}
    return traced(_Matches(matcher), examples, axes, outputs=("logit",))


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


def _linear_weights(graph: GraphProto) -> dict[str, int]:
    """Return the names of matrices that are the weight of a linear map, each with the axis of its outputs."""
    axes: dict[str, int] = {}
    matrices = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
    for node in graph.node:
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in matrices:
            flipped = any(each.name == "transB" and each.i for each in node.attribute)
            axes[node.input[1]] = 0 if flipped else 1
    return axes


def _int8_linear(
    name: str, weight: npt.NDArray[np.float32], output_axis: int
) -> tuple[list[NodeProto], list[TensorProto]]:
    """Return the nodes that make the matrix `name` of int8 numbers with one scale an output, and those tensors."""
    rows, scales = quantised_rows(weight if output_axis == 0 else np.ascontiguousarray(weight.T))
    if output_axis == 1:
        rows, scales = np.ascontiguousarray(rows.T), scales.reshape(1, -1)
    tensors = [numpy_helper.from_array(rows, f"{name}.int8"), numpy_helper.from_array(scales, f"{name}.scale")]
    nodes = [
        helper.make_node("Cast", [f"{name}.int8"], [f"{name}.float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}.float", f"{name}.scale"], [name]),
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
    output_axes = _linear_weights(graph) if precision.int8_linears else {}
    for tensor in graph.initializer:
        weight = weights[tensor.name]
        if tensor.name in replaced:
            continue
        if tensor.name in output_axes and weight.dtype == np.float32 and weight.size >= _SMALLEST_HALVED:
            new_nodes, new_tensors = _int8_linear(tensor.name, weight, output_axes[tensor.name])
            casts += new_nodes
            tensors += new_tensors
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


EXACT = Precision(half_weights=False, int8_words=False)
# Of the image tower int8 loses more than it saves; of the text tower it halves what is left beside the word table.
IMAGE_PRECISION, TEXT_PRECISION, MATCH_PRECISION = Precision(), Precision(int8_linears=True), Precision()


def graphs_of(
    model: TwoTowers, size: tuple[int, int], max_tokens: int, *, whole: bool = False
) -> dict[str, ModelProto]:
    """Return the float32 graphs image.onnx, text.onnx and, with a matching head, itm.onnx, by file name.

    The first two say in their metadata what shape the model has and what its logit scale was, for further training.

    Args:
        size: height and width of the pixels, in pixels.
        max_tokens: word pieces that a text may have.
        whole: texts always have so many, because the tower reads their padding.
    """
    model = model.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    shape = architecture_json(model) if isinstance(model, DualEncoder) else OPEN_CLIP
    notes = {ARCHITECTURE: shape, LOGIT_SCALE: repr(float(model.logit_scale.detach()))}
    graphs = {"image.onnx": image_graph(model, size), "text.onnx": text_graph(model, max_tokens, whole=whole)}
    for graph in graphs.values():
        onnx.helper.set_model_props(graph, notes)
    if model.matcher is not None:
        graphs["itm.onnx"] = match_graph(model.matcher)
    return graphs


def save_graphs(
    graphs: Mapping[str, ModelProto], directory: Path, *, exact: bool = False, int8_linears: bool = True
) -> None:
    """Write `graphs`, by file name, into `directory`: compact, or `exact`, in float32, to compare with torch.

    Without `int8_linears` linear maps of the text tower are float16, twice the size.
    """
    text = TEXT_PRECISION if int8_linears else Precision()
    precisions = {"image.onnx": IMAGE_PRECISION, "text.onnx": text, "itm.onnx": MATCH_PRECISION}
    for name, graph in graphs.items():
        save_graph(graph, directory / name, EXACT if exact else precisions[name])


def save_compact(graphs: Mapping[str, ModelProto], directory: Path, check: Callable[[], object]) -> None:
    """Write `graphs` as compact as `check` allows, which raises ModelError where they lose too much.

    A text tower that has moved far from its start may lose too much to int8: then its linear maps are float16.

    Raises:
        ModelError: they lose too much even so.
    """
    save_graphs(graphs, directory)
    try:
        check()
    except ModelError:
        save_graphs(graphs, directory, int8_linears=False)
        check()


def write_graphs(
    model: DualEncoder, directory: Path, size: tuple[int, int], max_tokens: int, *, exact: bool = False
) -> None:
    """Write what `graphs_of` gives into `directory`, as `save_graphs` does."""
    save_graphs(graphs_of(model, size, max_tokens), directory, exact=exact)


def save_graph(graph: ModelProto, path: Path, precision: Precision) -> None:
    """Write `graph` to `path` as `precision` says, after ONNX's own check."""
    write_graph(compact(graph, precision), path)
