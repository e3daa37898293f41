"""Gives a float32 graph int8 arithmetic: for its linear maps, which are nearly all the work of a transformer.

Weights get one scale an output; what they are multiplied with gets a scale and an offset a row, found at each call.
ONNX Runtime's own dynamic quantisation has one scale for a whole batch: an embedding would depend on its batch then.

With x = low + step * q and w = scale * v, where q and v are whole numbers,
x @ w = step * scale * (q @ v) + low * sum(w).
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

# Processors without VNNI add two products in 16 bits: 2 x 127 x 127 fits, 2 x 255 x 127 would silently be cut off. Of
# the two, weights need the eighth bit, their sign, more than rows do.
_LARGEST_WEIGHT, _LARGEST_INPUT = 127, 127
_SMALLEST_RANGE = 1e-12
_SMALLEST = 1024  # elements; below, making the rows whole numbers costs more than it saves
_CONSTANTS = {
    "int8.largest": np.float32(_LARGEST_INPUT),
    "int8.tiny": np.float32(_SMALLEST_RANGE),
    "int8.last_axis": np.asarray([-1], np.int64),
}


def use_int8_linears(model: ModelProto) -> int:
    """Change the linear maps of `model`, a float32 graph, to int8 arithmetic; return how many there were.

    A map is a MatMul or a plain Gemm with a constant matrix of float32.
    """
    graph = model.graph
    maps = _linear_maps(graph)
    if not maps:
        return 0
    weights = {node.input[1] for node in maps.values()}
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in _CONSTANTS.items()]
    flipped = {node.input[1]: _flag(node, "transB") for node in maps.values()}
    for tensor in graph.initializer:
        if tensor.name in weights:
            tensors += _int8_weight(tensor, flipped=flipped[tensor.name])
    nodes: list[NodeProto] = []
    whole: set[str] = set()
    for place, node in enumerate(graph.node):
        if place not in maps:
            nodes.append(node)
            continue
        if node.input[0] not in whole:
            whole.add(node.input[0])
            nodes += _whole_rows(node.input[0])
        nodes += _products(node)
    kept = [tensor for tensor in graph.initializer if tensor.name not in weights]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend([*kept, *tensors])
    return len(maps)


def _linear_maps(graph: GraphProto) -> dict[int, NodeProto]:
    """Return the linear maps by their place among the nodes."""
    large = {
        tensor.name
        for tensor in graph.initializer
        if len(tensor.dims) == 2 and tensor.data_type == TensorProto.FLOAT and np.prod(tensor.dims) >= _SMALLEST
    }
    found = {
        place: node
        for place, node in enumerate(graph.node)
        if (node.op_type == "MatMul" or (node.op_type == "Gemm" and _is_plain(node))) and node.input[1] in large
    }
    uses = Counter(name for node in graph.node for name in node.input)
    ours = Counter(node.input[1] for node in found.values())
    both_ways = {name for name in ours if len({_flag(n, "transB") for n in found.values() if n.input[1] == name}) > 1}
    return {
        place: node
        for place, node in found.items()
        if uses[node.input[1]] == ours[node.input[1]] and node.input[1] not in both_ways
    }


def _is_plain(gemm: NodeProto) -> bool:
    factors = [each.f for each in gemm.attribute if each.name in ("alpha", "beta")]
    return all(factor == 1 for factor in factors) and not _flag(gemm, "transA")


def _flag(node: NodeProto, name: str) -> bool:
    return any(each.name == name and each.i for each in node.attribute)


def _int8_weight(tensor: TensorProto, *, flipped: bool) -> list[TensorProto]:
    """Return the matrix (inputs, outputs) as int8, and the scale and the sum of each output."""
    weight: npt.NDArray[np.float32] = numpy_helper.to_array(tensor)
    weight = weight.T if flipped else weight
    scales = np.maximum(np.abs(weight).max(0), np.float32(_SMALLEST_RANGE)) / np.float32(_LARGEST_WEIGHT)
    rounded = np.ascontiguousarray(np.rint(weight / scales).astype(np.int8))
    sums = rounded.sum(0, dtype=np.int64) * scales.astype(np.float64)
    return [
        numpy_helper.from_array(rounded, f"{tensor.name}.int8"),
        numpy_helper.from_array(scales.astype(np.float32), f"{tensor.name}.scale"),
        numpy_helper.from_array(sums.astype(np.float32), f"{tensor.name}.sum"),
    ]


def _whole_rows(name: str) -> list[NodeProto]:
    """Return the nodes that make `name`, float32 (..., inputs), of numbers from 0 to 127, a lowest and a step a row."""
    return [
        helper.make_node("ReduceMax", [name, "int8.last_axis"], [f"{name}.high"], keepdims=1),
        helper.make_node("ReduceMin", [name, "int8.last_axis"], [f"{name}.low"], keepdims=1),
        helper.make_node("Sub", [f"{name}.high", f"{name}.low"], [f"{name}.width"]),
        helper.make_node("Max", [f"{name}.width", "int8.tiny"], [f"{name}.range"]),
        helper.make_node("Div", [f"{name}.range", "int8.largest"], [f"{name}.step"]),
        helper.make_node("Sub", [name, f"{name}.low"], [f"{name}.above"]),
        helper.make_node("Div", [f"{name}.above", f"{name}.step"], [f"{name}.steps"]),
        helper.make_node("Round", [f"{name}.steps"], [f"{name}.rounded"]),
        helper.make_node("Cast", [f"{name}.rounded"], [f"{name}.whole"], to=TensorProto.UINT8),
    ]


def _products(node: NodeProto) -> list[NodeProto]:
    """Return the nodes that stand for the linear map `node`."""
    rows, weight, output = node.input[0], node.input[1], node.output[0]
    bias = node.input[2] if len(node.input) > 2 else ""
    mapped = f"{output}.without_bias" if bias else output
    nodes = [
        helper.make_node("MatMulInteger", [f"{rows}.whole", f"{weight}.int8"], [f"{output}.whole_sum"]),
        helper.make_node("Cast", [f"{output}.whole_sum"], [f"{output}.float_sum"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{output}.float_sum", f"{rows}.step"], [f"{output}.by_row"]),
        helper.make_node("Mul", [f"{output}.by_row", f"{weight}.scale"], [f"{output}.by_output"]),
        helper.make_node("Mul", [f"{rows}.low", f"{weight}.sum"], [f"{output}.from_low"]),
        helper.make_node("Add", [f"{output}.by_output", f"{output}.from_low"], [mapped]),
    ]
    if bias:
        nodes.append(helper.make_node("Add", [mapped, bias], [output]))
    return nodes
