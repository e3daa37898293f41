"""Finds ONNX tensors whose data lies outside the model file.

Loaders have followed such references out of the model's directory again and again (CVE-2022-25882, CVE-2024-27318,
CVE-2026-27489 and more), so no loader ever follows one: a model whose weights do not fit into one protobuf message may
keep them in one file, which is read and checked like the model itself and handed over as bytes; any other reference is
refused before a loader sees it. The check walks the protobuf itself: it needs neither the `onnx` package nor a copy of
the weights, which it steps over.
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_DEPTH = 64

# Message -> field number -> message, for every way from ModelProto to a TensorProto (onnx.proto, IR version 13).
_CHILDREN: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
}
_TENSOR_EXTERNAL_DATA = 13
_TENSOR_DATA_LOCATION = 14
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
# Model -> graph -> tensor: an initializer of the main graph, the only place where bytes can be handed over.
_INITIALIZER_DEPTH = 2


def has_external_data(model: bytes) -> bool:
    """True when some tensor of the serialised ONNX `model` names data in another file.

    Raises:
        ValueError: `model` is not a protobuf message.
    """
    return any(True for _ in _locations(memoryview(model), "Model", 0))


def external_files(model: bytes) -> frozenset[str]:
    """The names of the files that tensors of the serialised ONNX `model` name, empty when it holds all of its data.

    "" stands for a tensor that names none, and for one in a place where it cannot be given its data.

    Raises:
        ValueError: `model` is not a protobuf message.
    """
    return frozenset(_locations(memoryview(model), "Model", 0))


def _locations(message: memoryview, kind: str, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        raise ValueError(f"graphs nested more than {_MAX_DEPTH} deep")
    if kind == "Tensor":
        named = list(_tensor_locations(message))
        yield from named if depth == _INITIALIZER_DEPTH else [""] * bool(named)
        return
    children = _CHILDREN.get(kind, {})
    for number, value in _fields(message):
        if number in children and isinstance(value, memoryview):
            yield from _locations(value, children[number], depth + 1)


def _tensor_locations(tensor: memoryview) -> Iterator[str]:
    """Where `tensor` says that its data lies, "" where it only says that it is elsewhere."""
    outside, named = False, False
    for number, value in _fields(tensor):
        outside |= number == _TENSOR_EXTERNAL_DATA or (number == _TENSOR_DATA_LOCATION and value != 0)
        if number == _TENSOR_EXTERNAL_DATA and isinstance(value, memoryview):
            entry = {key: bytes(text) for key, text in _fields(value) if isinstance(text, memoryview)}
            if entry.get(_ENTRY_KEY) == b"location":
                named = True
                yield entry.get(_ENTRY_VALUE, b"").decode("utf-8", "surrogateescape")
    if outside and not named:
        yield ""


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """(field number, value) in order; the value of a fixed-width field, which nobody here needs, is given as 0."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if number >= 1 << 29:
            raise ValueError("a field number is out of range")
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield number, value
        elif wire == _BYTES:
            length, at = _varint(message, at)
            if at + length > end:
                raise ValueError("a field is longer than the message it is in")
            yield number, message[at : at + length]
            at += length
        elif wire in (_FIXED32, _FIXED64):
            at += 4 if wire == _FIXED32 else 8
            yield number, 0
        else:
            raise ValueError(f"wire type {wire}")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """The number that starts at `at` and where the next field starts."""
    value = shift = 0
    while at < len(message) and shift < 64:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("a number does not end")
