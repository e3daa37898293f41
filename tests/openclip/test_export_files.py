"""How graphs of an exported model are stored: int8 arithmetic, and weights too large for one file."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tiny_model import SIDE

from mmsearch.encoder import OnnxEncoder
from mmsearch.errors import ModelError
from mmsearch.model_manifest import load_model_manifest
from mmsearch.training.graph_files import write_graph
from mmsearch.training.int8_linears import use_int8_linears

Floats = NDArray[np.float32]
WIDE = 64


def graph_of(nodes: list[onnx.NodeProto], constants: dict[str, NDArray[Any]]) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", WIDE])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", None])
    graph = helper.make_graph(nodes, "g", [given], [made], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model: onnx.ModelProto, x: Floats) -> Floats:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["y"], {"x": x})[0], np.float32)


def two_layers(seed: int = 0) -> tuple[onnx.ModelProto, dict[str, Floats]]:
    """A Gemm with its weight on its side and a bias, and a MatMul after it."""
    random = np.random.default_rng(seed)
    shapes = {"w": (48, WIDE), "b": (48,), "v": (48, 32)}
    constants = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"], transB=1),
        helper.make_node("MatMul", ["h", "v"], ["y"]),
    ]
    return graph_of(nodes, constants), constants


@given(st.integers(0, 1000), st.sampled_from([1e-6, 1.0, 1e6]))
def test_int8_is_as_near_as_its_steps_are_small(seed: int, scale: float) -> None:
    random = np.random.default_rng(seed)
    weight = random.standard_normal((WIDE, 32)).astype(np.float32)
    x = (scale * random.standard_normal((3, WIDE))).astype(np.float32)
    model = graph_of([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weight})
    assert use_int8_linears(model) == 1
    # Half a step of either factor, and of both at once; sums in float32 add a little.
    step_x, step_w = np.ptp(x, axis=1, keepdims=True) / 127, np.abs(weight).max(0) / 127
    bound = (step_x / 2) @ np.abs(weight).sum(0, keepdims=True) + np.abs(x).sum(1, keepdims=True) * (step_w / 2)
    bound = 1.001 * (bound + WIDE * step_x * step_w / 4)
    assert (np.abs(run(model, x) - x @ weight) <= bound).all()


def test_a_row_does_not_know_the_others_of_its_batch() -> None:
    model, _ = two_layers()
    assert use_int8_linears(model) == 2
    random = np.random.default_rng(1)
    rows = random.standard_normal((5, WIDE)).astype(np.float32) * np.asarray([[1], [1000], [0.001], [1], [0]], "f")
    together = run(model, rows)
    assert np.array_equal(together, np.concatenate([run(model, row[np.newaxis]) for row in rows]))
    assert np.isfinite(together).all()


def test_maps_with_a_bias_or_a_weight_on_its_side_keep_their_meaning() -> None:
    model, constants = two_layers()
    use_int8_linears(model)
    onnx.checker.check_model(model, full_check=True)
    assert {tensor.name for tensor in model.graph.initializer}.isdisjoint({"w", "v"})
    x = np.random.default_rng(2).standard_normal((4, WIDE)).astype(np.float32)
    expected = (x @ constants["w"].T + constants["b"]) @ constants["v"]
    found = run(model, x)
    assert (found * expected).sum() / (np.linalg.norm(found) * np.linalg.norm(expected)) > 0.999


def test_what_is_no_large_linear_map_stays_as_it_is() -> None:
    random = np.random.default_rng(0)
    small, shared = (random.standard_normal(shape).astype(np.float32) for shape in ((WIDE, 4), (WIDE, WIDE)))
    nodes = [
        helper.make_node("MatMul", ["x", "shared"], ["h"]),
        helper.make_node("Add", ["h", "other"], ["i"]),
        helper.make_node("Gather", ["shared", "first"], ["other"]),
        helper.make_node("MatMul", ["i", "small"], ["y"]),
    ]
    nodes = [nodes[0], nodes[2], nodes[1], nodes[3]]
    model = graph_of(nodes, {"shared": shared, "small": small, "first": np.asarray([0])})
    before = model.SerializeToString()
    assert use_int8_linears(model) == 0
    assert model.SerializeToString() == before


@pytest.fixture
def divided(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """The tiny model with the weights of its image tower in a file of their own."""
    directory = shutil.copytree(tiny_model_dir, tmp_path / "divided")
    graph = onnx.load(directory / "image.onnx")
    write_graph(graph, directory / "image.onnx", largest_inside=100)
    pin(directory)
    return directory


def pin(directory: Path, *, without: str = "") -> None:
    """Writes the manifest anew for the files as they are now."""
    path = directory / "manifest.json"
    table = json.loads(path.read_text())
    files = [each for each in sorted(directory.iterdir()) if each.name not in (path.name, without)]
    table["files"] = {
        each.name: {"sha256": hashlib.sha256(each.read_bytes()).hexdigest(), "bytes": each.stat().st_size}
        for each in files
    }
    path.write_text(json.dumps(table))


def pixels(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(count).integers(0, 256, (count, 3, SIDE, SIDE), dtype=np.uint8)


@pytest.mark.parametrize("once", [False, True])
def test_weights_in_a_second_file_give_the_same_embeddings(tiny_model_dir: Path, divided: Path, once: bool) -> None:
    assert (divided / "image.onnx.data").stat().st_size > 3000
    assert (divided / "image.onnx").stat().st_size < (tiny_model_dir / "image.onnx").stat().st_size
    expected = OnnxEncoder(load_model_manifest(tiny_model_dir), threads=1).encode_pixels(pixels(3))
    for _ in range(2):  # the second time the graph that was kept is used, if one was
        encoder = OnnxEncoder(load_model_manifest(divided), threads=1, once=once)
        assert np.allclose(encoder.encode_pixels(pixels(3)), expected, atol=1e-6)


def test_the_fingerprint_knows_the_second_file(divided: Path) -> None:
    before = load_model_manifest(divided)
    data = bytearray((divided / "image.onnx.data").read_bytes())
    data[-1] ^= 1
    (divided / "image.onnx.data").write_bytes(data)
    pin(divided)
    after = load_model_manifest(divided)
    assert before.files["image.onnx"] == after.files["image.onnx"]
    assert before.fingerprint != after.fingerprint
    assert before.sha256("image.onnx") != after.sha256("image.onnx")


@pytest.mark.case("S28")
def test_a_second_file_that_was_changed_is_refused(divided: Path) -> None:
    with (divided / "image.onnx.data").open("r+b") as file:
        file.write(b"\1")
    with pytest.raises(ModelError, match=r"image\.onnx\.data is not the one its manifest pins"):
        OnnxEncoder(load_model_manifest(divided), threads=1).load_image_tower()


@pytest.mark.case("S26")
def test_a_second_file_that_is_not_pinned_is_not_read(divided: Path) -> None:
    pin(divided, without="image.onnx.data")
    with pytest.raises(ModelError, match=r"other files than image\.onnx\.data, and the manifest has to pin that one"):
        OnnxEncoder(load_model_manifest(divided), threads=1).load_image_tower()


@pytest.mark.case("S26")
@pytest.mark.parametrize("change", ["too far", "too long", "in a node"])
def test_a_reference_that_leads_out_of_the_second_file_is_refused(divided: Path, change: str) -> None:
    graph = onnx.load(divided / "image.onnx", load_external_data=False)
    tensor = next(each for each in graph.graph.initializer if each.external_data)
    entries = {each.key: each for each in tensor.external_data}
    if change == "too far":
        entries["offset"].value = str(1 << 40)
    elif change == "too long":
        tensor.dims[0] = 1 << 20
        entries["length"].value = str(tensor.dims[0] * tensor.dims[1] * 4)
    else:
        graph.graph.node.append(helper.make_node("Constant", [], ["unused"], value=tensor))
    (divided / "image.onnx").write_bytes(graph.SerializeToString())
    pin(divided)
    with pytest.raises(ModelError, match=r"image\.onnx (cannot be loaded|keeps tensors in other files)"):
        OnnxEncoder(load_model_manifest(divided), threads=1).load_image_tower()
