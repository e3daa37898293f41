from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from mmsearch.onnx_external_data import has_external_data


def varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def external_tensor() -> onnx.TensorProto:
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "weights")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../secret")
    return tensor


def graph(
    *, initializers: list[onnx.TensorProto] | None = None, nodes: list[onnx.NodeProto] | None = None
) -> onnx.GraphProto:
    return helper.make_graph(nodes or [helper.make_node("Identity", ["x"], ["y"])], "g", [], [], initializers or [])


def in_attribute() -> onnx.ModelProto:
    return helper.make_model(graph(nodes=[helper.make_node("Constant", [], ["c"], value=external_tensor())]))


def in_subgraph() -> onnx.ModelProto:
    branch = graph(initializers=[external_tensor()])
    return helper.make_model(
        graph(nodes=[helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=graph())])
    )


def in_function() -> onnx.ModelProto:
    node = helper.make_node("Constant", [], ["c"], value=external_tensor())
    function = helper.make_function("d", "f", [], ["c"], [node], [helper.make_opsetid("", 17)])
    return helper.make_model(graph(), functions=[function])


def in_sparse_tensor() -> onnx.ModelProto:
    model = helper.make_model(graph())
    model.graph.sparse_initializer.add().values.CopyFrom(external_tensor())
    return model


def in_training() -> onnx.ModelProto:
    model = helper.make_model(graph())
    model.training_info.add().algorithm.CopyFrom(graph(initializers=[external_tensor()]))
    return model


def only_the_location_flag() -> onnx.ModelProto:
    tensor = external_tensor()
    tensor.ClearField("external_data")
    return helper.make_model(graph(initializers=[tensor]))


def only_the_reference() -> onnx.ModelProto:
    tensor = external_tensor()
    tensor.ClearField("data_location")
    return helper.make_model(graph(initializers=[tensor]))


@pytest.mark.case("S26")
@pytest.mark.parametrize(
    "model",
    [
        helper.make_model(graph(initializers=[external_tensor()])),
        in_attribute(),
        in_subgraph(),
        in_function(),
        in_sparse_tensor(),
        in_training(),
        only_the_location_flag(),
        only_the_reference(),
    ],
    ids=["initializer", "attribute", "subgraph", "function", "sparse", "training", "flag", "reference"],
)
def test_external_data_is_found_wherever_a_tensor_can_be(model: onnx.ModelProto) -> None:
    assert has_external_data(model.SerializeToString())


def test_a_model_with_all_data_inside_passes(tiny_model_dir: Path) -> None:
    for name in ("image.onnx", "text.onnx"):
        assert not has_external_data((tiny_model_dir / name).read_bytes())
    kept_inside = numpy_helper.from_array(np.zeros(4, np.float32))
    kept_inside.data_location = TensorProto.DEFAULT
    assert not has_external_data(helper.make_model(graph(initializers=[kept_inside])).SerializeToString())


@pytest.mark.case("S26")
def test_every_message_that_may_hold_a_tensor_is_walked() -> None:
    """The table of field numbers against the schema itself: a new way to a tensor in a new onnx must be added."""
    from mmsearch.onnx_external_data import _CHILDREN

    messages = {f"{name}Proto" for name in (*_CHILDREN, "Tensor")} - {"TrainingProto"} | {"TrainingInfoProto"}
    for name, children in _CHILDREN.items():
        schema = getattr(onnx, "TrainingInfoProto" if name == "Training" else f"{name}Proto").DESCRIPTOR
        found = {
            f.number: f.message_type.name for f in schema.fields if f.message_type and f.message_type.name in messages
        }
        assert found == {
            number: "TrainingInfoProto" if child == "Training" else f"{child}Proto"
            for number, child in children.items()
        }


@pytest.mark.case("S26", "S49")
@given(st.binary(max_size=200))
def test_any_bytes_are_answered_or_refused(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert has_external_data(data) in (True, False)


@pytest.mark.case("S49")
def test_a_cut_model_is_refused(tiny_model_dir: Path) -> None:
    data = (tiny_model_dir / "image.onnx").read_bytes()
    with pytest.raises(ValueError, match="longer than the message"):
        has_external_data(data[: len(data) // 2])


@pytest.mark.case("S26")
def test_a_field_number_with_hidden_high_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="out of range"):
        has_external_data(varint((7 << 3 | 2) + (1 << 40)) + b"\0")


@pytest.mark.case("S49")
def test_endless_nesting_is_refused() -> None:
    message = b""
    for number in (6, 5, 1) * 40 + (7,):  # graph in attribute in node in graph ... in model
        message = varint(number << 3 | 2) + varint(len(message)) + message
    with pytest.raises(ValueError, match="nested"):
        has_external_data(message)
