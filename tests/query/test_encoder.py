from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_model import DIM, SIDE, STATE_DIM, TOKEN_DIM, TOKENS, write_manifest

from mmsearch.encoder import Encoder, OnnxEncoder
from mmsearch.errors import ModelError
from mmsearch.model_manifest import load_model_manifest

RANDOM = np.random.default_rng(5)


def pixels(count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return RANDOM.integers(0, 256, (count, 3, SIDE, SIDE), dtype=np.uint8)


def spoiled(
    source: Path, target: Path, change: Callable[[onnx.ModelProto], object], *, tower: str = "image.onnx"
) -> OnnxEncoder:
    """The encoder of a copy of the model one of whose towers `change` has edited, pinned anew."""
    shutil.copytree(source, target)
    model = onnx.load(target / tower)
    change(model)
    (target / tower).write_bytes(model.SerializeToString())
    write_manifest(target)
    return OnnxEncoder(load_model_manifest(target), threads=1)


@pytest.fixture
def encoder(tiny_model_dir: Path) -> OnnxEncoder:
    return OnnxEncoder(load_model_manifest(tiny_model_dir), threads=1)


def test_embeddings_are_unit_float32_rows(encoder: OnnxEncoder) -> None:
    keeps_the_protocol: Encoder = encoder
    embeddings = keeps_the_protocol.encode_pixels(pixels(5))
    assert embeddings.dtype == np.float32
    assert embeddings.shape == (5, DIM)
    assert embeddings.flags["C_CONTIGUOUS"]
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)


def test_tokens_give_embeddings_and_the_masked_ones_do_not_count(encoder: OnnxEncoder) -> None:
    ids = np.array([[2, 4, 3], [2, 4, 9]], np.int64)
    mask = np.array([[1, 1, 0], [1, 1, 0]], np.int64)
    first, second = encoder.encode_tokens(ids, mask)
    np.testing.assert_array_equal(first, second)


def test_the_image_tower_computes_what_its_graph_says(encoder: OnnxEncoder, tiny_model_dir: Path) -> None:
    graph = onnx.load(tiny_model_dir / "image.onnx").graph
    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    batch = pixels(3)
    grid = (batch / np.float32(255) - np.float32(0.5)).reshape(3, 3, 4, 2, 4, 2).mean(axis=(3, 5)).reshape(3, -1)
    expected = grid @ constants["projection"] + constants["bias"]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.encode_pixels(batch), expected, atol=1e-5)


def test_nothing_in_gives_nothing_out_and_loads_nothing(tiny_model_dir: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_model_dir, tmp_path / "model")
    encoder = OnnxEncoder(load_model_manifest(model), threads=1)
    (model / "image.onnx").unlink()
    (model / "text.onnx").unlink()
    none = np.zeros((0, 0), np.int64)
    assert encoder.encode_pixels(pixels(0)).shape == encoder.encode_tokens(none, none).shape == (0, DIM)


def test_a_tower_is_read_when_it_is_first_used_and_not_before(tiny_model_dir: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_model_dir, tmp_path / "model")
    (model / "image.onnx").unlink()
    encoder = OnnxEncoder(load_model_manifest(model), threads=1)
    ids = np.array([[2, 4]], np.int64)
    assert encoder.encode_tokens(ids, np.ones_like(ids)).shape == (1, DIM)
    with pytest.raises(ModelError, match=r"image\.onnx does not exist"):
        encoder.encode_pixels(pixels(1))


@pytest.mark.case("S28")
def test_a_changed_file_is_refused_before_it_is_loaded(tiny_model_dir: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_model_dir, tmp_path / "model")
    with (model / "image.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ModelError, match="is not the one its manifest pins"):
        OnnxEncoder(load_model_manifest(model), threads=1).encode_pixels(pixels(1))


@pytest.mark.case("S26")
@pytest.mark.parametrize("where", ["../secret.bin", "/etc/hostname", "image.data", "link.bin"])
def test_weights_outside_the_file_are_refused_before_loading(tiny_model_dir: Path, tmp_path: Path, where: str) -> None:
    def move_out(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=where)

    with pytest.raises(ModelError, match=r"image\.onnx keeps tensors in other files"):
        spoiled(tiny_model_dir, tmp_path / "model", move_out).load_image_tower()


@pytest.mark.parametrize("data", [b"", b"not a model", b"\x00" * 64, b"\x18\x00\x00\x00ORTM" + b"\x00" * 64])
def test_rubbish_that_is_pinned_is_a_model_error_on_one_line(tiny_model_dir: Path, tmp_path: Path, data: bytes) -> None:
    model = shutil.copytree(tiny_model_dir, tmp_path / "model")
    (model / "image.onnx").write_bytes(data)
    write_manifest(model)
    with pytest.raises(ModelError) as caught:
        OnnxEncoder(load_model_manifest(model), threads=1).load_image_tower()
    assert "image.onnx" in str(caught.value)
    assert str(caught.value).isprintable()


def test_an_embedding_that_is_not_finite_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    def poison(model: onnx.ModelProto) -> None:
        bias = next(each for each in model.graph.initializer if each.name == "bias")
        bias.CopyFrom(numpy_helper.from_array(np.full(DIM, np.nan, np.float32), "bias"))

    with pytest.raises(ModelError, match="gave an embedding of length nan, expected 1"):
        spoiled(tiny_model_dir, tmp_path / "model", poison).encode_pixels(pixels(2))


def test_a_model_that_does_not_normalise_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    def cut_the_end_off(model: onnx.ModelProto) -> None:
        model.graph.node.pop()
        model.graph.node[-1].output[0] = "embedding"

    with pytest.raises(ModelError, match="gave an embedding of length"):
        spoiled(tiny_model_dir, tmp_path / "model", cut_the_end_off).encode_pixels(pixels(2))


def test_a_model_of_half_precision_is_normalised_the_rest_of_the_way(tiny_model_dir: Path, tmp_path: Path) -> None:
    def stretch(model: onnx.ModelProto) -> None:
        model.graph.node[-1].output[0] = "nearly"
        model.graph.initializer.append(numpy_helper.from_array(np.float32([1.005]), "stretch"))
        model.graph.node.append(helper.make_node("Mul", ["nearly", "stretch"], ["embedding"]))

    embeddings = spoiled(tiny_model_dir, tmp_path / "model", stretch).encode_pixels(pixels(2))
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)


def test_a_model_with_another_dimension_than_it_says_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    def double(model: onnx.ModelProto) -> None:
        model.graph.node[-1].output[0] = "once"
        model.graph.node.append(helper.make_node("Concat", ["once", "once"], ["embedding"], axis=1))
        model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 2 * DIM

    with pytest.raises(ModelError, match=r"gave the shape \(2, 32\), expected \(2, 16\)"):
        spoiled(tiny_model_dir, tmp_path / "model", double).encode_pixels(pixels(2))


def test_a_model_with_other_inputs_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    def rename(model: onnx.ModelProto) -> None:
        model.graph.input[0].name = model.graph.node[0].input[0] = "picture"

    with pytest.raises(ModelError, match=r"image\.onnx failed on 1 items"):
        spoiled(tiny_model_dir, tmp_path / "model", rename).encode_pixels(pixels(1))


def test_pixels_and_tokens_of_the_wrong_kind_are_refused(encoder: OnnxEncoder) -> None:
    with pytest.raises(ValueError, match="pixels are float64"):
        encoder.encode_pixels(pixels(1).astype(np.float64))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"pixels are uint8 \(1, 3, 8, 7\)"):
        encoder.encode_pixels(pixels(1)[..., :7])
    with pytest.raises(ValueError, match=r"are not int64 \(B, L\)"):
        encoder.encode_tokens(np.zeros((1, 2), np.int64), np.zeros((1, 3), np.int64))


def test_a_failing_model_writes_nothing_to_stderr(
    tiny_model_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    encoder = OnnxEncoder(load_model_manifest(tiny_model_dir), threads=1)
    with pytest.raises(ModelError):
        encoder.encode_tokens(np.array([[10**6]], np.int64), np.ones((1, 1), np.int64))
    assert capfd.readouterr().err == ""


def test_threads_may_share_an_encoder(encoder: OnnxEncoder) -> None:
    batch = pixels(4)
    answers: list[object] = []
    workers = [threading.Thread(target=lambda: answers.append(encoder.encode_pixels(batch))) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(answers) == 8
    for answer in answers:
        np.testing.assert_array_equal(answer, answers[0])


# -- what a matching head reads --------------------------------------------------------------------------------------


@pytest.fixture
def with_head(tiny_itm_model_dir: Path) -> OnnxEncoder:
    return OnnxEncoder(load_model_manifest(tiny_itm_model_dir), threads=1)


def test_tokens_and_states_come_beside_the_same_embeddings(with_head: OnnxEncoder, encoder: OnnxEncoder) -> None:
    batch = pixels(5)
    embeddings, tokens = with_head.encode_pixels_with_tokens(batch)
    np.testing.assert_array_equal(embeddings, encoder.encode_pixels(batch))
    assert tokens is not None and tokens.dtype == np.int8
    assert tokens.shape == (5, TOKENS, TOKEN_DIM)
    quarters = (batch / np.float32(255) - np.float32(0.5)).reshape(5, 3, 2, 4, 2, 4).mean(axis=(3, 5)).reshape(5, 3, 4)
    np.testing.assert_allclose(tokens[..., :3], 254 * quarters.transpose(0, 2, 1), atol=0.51)
    ids, mask = np.array([[2, 4, 3], [2, 5, 0]], np.int64), np.array([[1, 1, 1], [1, 1, 0]], np.int64)
    embeddings, states = with_head.encode_tokens_with_states(ids, mask)
    np.testing.assert_array_equal(embeddings, encoder.encode_tokens(ids, mask))
    assert states is not None and states.dtype == np.float32
    assert states.shape == (2, 3, STATE_DIM)
    np.testing.assert_array_equal(states[0, 1, :4], [1, 0.5, -0.5, -0.5])


def test_a_model_without_a_head_gives_none_of_either(encoder: OnnxEncoder) -> None:
    batch, ids = pixels(2), np.array([[2, 4]], np.int64)
    embeddings, tokens = encoder.encode_pixels_with_tokens(batch)
    np.testing.assert_array_equal(embeddings, encoder.encode_pixels(batch))
    assert tokens is None
    assert encoder.encode_tokens_with_states(ids, np.ones_like(ids))[1] is None


def test_nothing_in_gives_empty_tokens_and_states(with_head: OnnxEncoder) -> None:
    embeddings, tokens = with_head.encode_pixels_with_tokens(pixels(0))
    assert tokens is not None and tokens.dtype == np.int8
    assert (embeddings.shape, tokens.shape) == ((0, DIM), (0, TOKENS, TOKEN_DIM))
    none = np.zeros((0, 0), np.int64)
    embeddings, states = with_head.encode_tokens_with_states(none, none)
    assert states is not None and (embeddings.shape, states.shape) == ((0, DIM), (0, 0, STATE_DIM))


def test_tokens_of_another_type_shape_or_name_are_refused(tiny_itm_model_dir: Path, tmp_path: Path) -> None:
    def not_cast(model: onnx.ModelProto) -> None:
        cast = next(each for each in model.graph.node if each.output[0] == "tokens")
        cast.attribute[0].i = TensorProto.INT32
        model.graph.output[1].type.tensor_type.elem_type = TensorProto.INT32

    def longer(model: onnx.ModelProto) -> None:
        next(each for each in model.graph.node if each.output[0] == "tokens").output[0] = "once"
        model.graph.node.append(helper.make_node("Concat", ["once", "once"], ["tokens"], axis=1))
        model.graph.output[1].type.tensor_type.shape.dim[1].dim_value = 2 * TOKENS

    def renamed(model: onnx.ModelProto) -> None:
        next(each for each in model.graph.node if each.output[0] == "tokens").output[0] = "patches"
        model.graph.output[1].name = "patches"

    for number, (change, complaint) in enumerate(
        [
            (not_cast, "gave tokens of int32, expected int8"),
            (longer, r"gave the shape \(2, 8, 8\), expected \(2, 4, 8\) \(tokens\)"),
            (renamed, r"image\.onnx failed on 2 items"),
        ]
    ):
        broken = spoiled(tiny_itm_model_dir, tmp_path / str(number), change)
        with pytest.raises(ModelError, match=complaint):
            broken.encode_pixels_with_tokens(pixels(2))


def test_states_that_are_not_finite_are_refused(tiny_itm_model_dir: Path, tmp_path: Path) -> None:
    def poison(model: onnx.ModelProto) -> None:
        table = next(each for each in model.graph.initializer if each.name == "state_table")
        table.CopyFrom(numpy_helper.from_array(np.full_like(numpy_helper.to_array(table), np.inf), "state_table"))

    broken = spoiled(tiny_itm_model_dir, tmp_path / "model", poison, tower="text.onnx")
    ids = np.array([[2, 4]], np.int64)
    with pytest.raises(ModelError, match=r"text\.onnx gave states that are not finite"):
        broken.encode_tokens_with_states(ids, np.ones_like(ids))
