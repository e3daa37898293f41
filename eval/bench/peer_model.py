"""A stand-in for rclip's model: its architecture, CLIP ViT-B/32 at 256 pixels, with random weights.

The real weights cannot be fetched offline, and time does not depend on them. What depends on them, which photos are
found, is meaningless with these and never looked at. Radford et al. 2021, arXiv 2103.00020; the sizes are open_clip's
`ViT-B-32-256`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_SEED = 32
_SCALE = 0.02


@dataclass(frozen=True, slots=True)
class TowerSize:
    """One transformer of CLIP: `tokens` positions of `width` numbers through `layers`, to an embedding of `dim`."""

    width: int
    layers: int
    heads: int
    tokens: int
    dim: int = 512


@dataclass(frozen=True, slots=True)
class PeerSize:
    """Both towers: the image's `patch` in pixels, the text's `vocabulary`."""

    image: TowerSize = TowerSize(width=768, layers=12, heads=12, tokens=(256 // 32) ** 2 + 1)
    text: TowerSize = TowerSize(width=512, layers=12, heads=8, tokens=77)
    patch: int = 32
    vocabulary: int = 49_408


class _Graph:
    """An ONNX graph in the making; every method adds nodes and returns the name of what they give."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(_SEED)

    def weight(self, *shape: int) -> str:
        return self.constant(_SCALE * self._random.standard_normal(shape, np.float32))

    def constant(self, value: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def node(self, operation: str, *inputs: str, **attributes: Any) -> str:
        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, list(inputs), [name], **attributes))
        return name

    def linear(self, x: str, inputs: int, outputs: int) -> str:
        return self.node("Add", self.node("MatMul", x, self.weight(inputs, outputs)), self.weight(outputs))

    def norm(self, x: str, width: int) -> str:
        ones = self.constant(np.ones(width, np.float32))
        return self.node("LayerNormalization", x, ones, self.weight(width), axis=-1)

    def heads(self, x: str, size: TowerSize, order: list[int]) -> str:
        split = self.constant(np.array([0, 0, size.heads, size.width // size.heads]))
        return self.node("Transpose", self.node("Reshape", x, split), perm=order)

    def attention(self, x: str, size: TowerSize, mask: str | None) -> str:
        query = self.heads(self.linear(x, size.width, size.width), size, [0, 2, 1, 3])
        key = self.heads(self.linear(x, size.width, size.width), size, [0, 2, 3, 1])
        value = self.heads(self.linear(x, size.width, size.width), size, [0, 2, 1, 3])
        scale = self.constant(np.float32((size.width // size.heads) ** -0.5))  # type: ignore[arg-type]
        weights = self.node("Mul", self.node("MatMul", query, key), scale)
        if mask is not None:
            weights = self.node("Add", weights, mask)
        mixed = self.node("MatMul", self.node("Softmax", weights, axis=-1), value)
        joined = self.constant(np.array([0, 0, size.width]))
        flat = self.node("Reshape", self.node("Transpose", mixed, perm=[0, 2, 1, 3]), joined)
        return self.linear(flat, size.width, size.width)

    def transformer(self, x: str, size: TowerSize, mask: str | None = None) -> str:
        for _ in range(size.layers):
            x = self.node("Add", x, self.attention(self.norm(x, size.width), size, mask))
            inner = self.node("Gelu", self.linear(self.norm(x, size.width), size.width, 4 * size.width))
            x = self.node("Add", x, self.linear(inner, 4 * size.width, size.width))
        return self.norm(x, size.width)

    def save(self, path: Path, x: str, inputs: onnx.ValueInfoProto, dim: int) -> None:
        self.nodes.append(helper.make_node("Identity", [x], ["output"]))
        output = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", dim])
        graph = helper.make_graph(self.nodes, "tower", [inputs], [output], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        onnx.save_model(model, path)


def write_peer_model(directory: Path, size: PeerSize | None = None) -> None:
    """Write `visual.onnx` and `textual.onnx` to `directory`, as rclip expects them: one input called `input`."""
    size = size or PeerSize()
    directory.mkdir(parents=True, exist_ok=True)
    _write_image_tower(directory / "visual.onnx", size)
    _write_text_tower(directory / "textual.onnx", size)


def _write_image_tower(path: Path, size: PeerSize) -> None:
    graph, tower = _Graph(), size.image
    kernel = graph.weight(tower.width, 3, size.patch, size.patch)
    patches = graph.node("Conv", "input", kernel, strides=[size.patch] * 2)
    flat = graph.node("Reshape", patches, graph.constant(np.array([0, tower.width, tower.tokens - 1])))
    tokens = graph.node("Transpose", flat, perm=[0, 2, 1])
    batch = graph.node("Slice", graph.node("Shape", tokens), *(graph.constant(np.array([at])) for at in (0, 1)))
    shape = graph.node("Concat", batch, graph.constant(np.array([1, tower.width])), axis=0)
    first = graph.node("Expand", graph.weight(1, 1, tower.width), shape)
    placed = graph.node("Add", graph.node("Concat", first, tokens, axis=1), graph.weight(tower.tokens, tower.width))
    seen = graph.transformer(graph.norm(placed, tower.width), tower)
    pooled = graph.node("Gather", seen, graph.constant(np.array(0)), axis=1)
    side = size.patch * round((tower.tokens - 1) ** 0.5)
    inputs = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, side, side])
    graph.save(path, graph.node("MatMul", pooled, graph.weight(tower.width, tower.dim)), inputs, tower.dim)


def _write_text_tower(path: Path, size: PeerSize) -> None:
    graph, tower = _Graph(), size.text
    words = graph.node("Gather", graph.weight(size.vocabulary, tower.width), "input", axis=0)
    placed = graph.node("Add", words, graph.weight(tower.tokens, tower.width))
    mask = graph.constant(np.triu(np.full((tower.tokens, tower.tokens), -np.inf, np.float32), 1))
    seen = graph.transformer(placed, tower, mask)
    # CLIP reads the sentence off its end-of-text token, the one with the largest number.
    end = graph.node("ArgMax", "input", axis=1, keepdims=0)
    place = graph.node("Unsqueeze", end, graph.constant(np.array([1])))
    pooled = graph.node("GatherND", seen, place, batch_dims=1)
    inputs = helper.make_tensor_value_info("input", TensorProto.INT64, ["batch", tower.tokens])
    graph.save(path, graph.node("MatMul", pooled, graph.weight(tower.width, tower.dim)), inputs, tower.dim)
