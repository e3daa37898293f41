"""A real model in miniature: two ONNX towers of a few kilobytes that `load_model(directory)` opens like any other.

It knows the colours in `COLOURS`: the sentence "red" and a red picture get the same embedding, so a test can ask for
"red" and name the file that must come first. Every other word is spelled out in characters, so different sentences
get different embeddings. A picture is seen as a grid of 4 x 4 mean colours. Nothing here is trained and nothing is
random between runs.

With `itm=True` the same towers give tokens and states as well, and there is a matching head: a sentence matches a
picture when every colour word in it is the colour of some quarter of the picture. So for "red blue" the head prefers
a picture that is red on the left and blue on the right, where the embeddings prefer a purple one.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

SIDE = 8
DIM = 16
MAX_TOKENS = 12
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "cyan": (0, 255, 255),
    "magenta": (255, 0, 255),
    "black": (0, 0, 0),
    "white": (255, 255, 255),
}
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-"
_GRID = 4
TOKENS, TOKEN_DIM, STATE_DIM, MAX_TEXT_TOKENS = 4, 8, 8, 8
_INT8_SCALE = 254
_SURE, _STEEP = 4.0, 8.0
_HEAD_FACTS = {
    "file": "itm.onnx",
    "tokens": TOKENS,
    "token_dim": TOKEN_DIM,
    "state_dim": STATE_DIM,
    "max_text_tokens": MAX_TEXT_TOKENS,
    "candidates": 20,
    "weight": 0.1,
}
_BANK_FILES = {"text_to_image": "bank-texts.npy", "image_to_text": "bank-images.npy"}


def write_tiny_model(directory: Path, *, name: str = "tiny", seed: int = 0, itm: bool = False) -> Path:
    """`directory`, filled with a complete model. Another `seed` gives other embeddings and another fingerprint.

    With `itm` it has a matching head and banks; embeddings stay the same, the fingerprint does not.
    """
    directory.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    projection = random.standard_normal((3 * _GRID * _GRID, DIM)).astype(np.float32)
    tokens = list(_SPECIAL) + list(COLOURS) + [*_CHARACTERS, *(f"##{character}" for character in _CHARACTERS)]
    table = _token_table(tokens, projection, random)
    onnx.save_model(_image_tower(projection, itm=itm), directory / "image.onnx")
    onnx.save_model(_text_tower(table, _state_table(tokens) if itm else None), directory / "text.onnx")
    if itm:
        onnx.save_model(_matching_head(), directory / "itm.onnx")
        for file, bank in zip(_BANK_FILES.values(), _banks(tokens, table, projection), strict=True):
            np.save(directory / file, bank.astype(np.float16))
    _tokenizer(tokens).save(str(directory / "tokenizer.json"))
    write_manifest(directory, name=name)
    return directory


def write_manifest(directory: Path, *, name: str = "tiny") -> None:
    """Writes `manifest.json` for the files as they are now."""
    has_head = (directory / "itm.onnx").exists()
    names = ["image.onnx", "text.onnx", "tokenizer.json"]
    files = {}
    for file in [*names, "itm.onnx", *_BANK_FILES.values()] if has_head else names:
        data = (directory / file).read_bytes()
        files[file] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    manifest = {
        "format": 1,
        "name": name,
        "version": "1",
        "dim": DIM,
        "image": {"file": "image.onnx", "size": [SIDE, SIDE], "resize": "squash", "interpolation": "bilinear"},
        "text": {"file": "text.onnx", "tokenizer": "tokenizer.json", "max_tokens": MAX_TOKENS},
        "quality": {},
        "license": "Apache-2.0",
        "files": files,
    }
    if has_head:
        manifest["itm"] = _HEAD_FACTS
        manifest["hubness"] = {
            direction: {"bank": file, "neighbours": 4, "strength": 0.5} for direction, file in _BANK_FILES.items()
        }
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")


def _token_table(
    tokens: list[str], projection: NDArray[np.float32], random: np.random.Generator
) -> NDArray[np.float32]:
    """One row a token, (V, DIM): what the image tower makes of a colour, zeros for special tokens, else noise."""
    table = 0.5 * random.standard_normal((len(tokens), DIM)).astype(np.float32)
    table[: len(_SPECIAL)] = 0
    for row, token in enumerate(tokens):
        if token in COLOURS:
            grid = np.repeat(np.asarray(COLOURS[token], np.float32) / 255 - 0.5, _GRID * _GRID)
            table[row] = grid @ projection
    return table


def _state_table(tokens: list[str]) -> NDArray[np.float32]:
    """One row a token, (V, STATE_DIM): whether it is a colour, which (from -0.5 to 0.5), and what tells rows apart."""
    table = np.zeros((len(tokens), STATE_DIM), np.float32)
    table[:, 4:] = np.sin(np.arange(len(tokens))[:, None] * np.arange(1, STATE_DIM - 3))
    for row, token in enumerate(tokens):
        if token in COLOURS:
            table[row, :4] = [1, *(np.asarray(COLOURS[token], np.float32) / 255 - 0.5)]
    return table


def _banks(
    tokens: list[str], table: NDArray[np.float32], projection: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Unit embeddings of sentences and of pictures of one colour or two, (36, DIM) each."""
    pairs = list(itertools.combinations_with_replacement(COLOURS, 2))
    sentences = np.stack([sum(table[tokens.index(word)] for word in dict.fromkeys(pair)) for pair in pairs])
    halves = np.asarray([[COLOURS[word] for word in pair] for pair in pairs], np.float32) / 255 - 0.5
    grids = np.broadcast_to(halves.transpose(0, 2, 1)[:, :, None, :, None], (len(pairs), 3, _GRID, 2, _GRID // 2))
    found = [each + _bias() for each in (sentences, grids.reshape(len(pairs), -1) @ projection)]
    unit_texts, unit_images = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in found)
    return unit_texts, unit_images


def _image_tower(projection: NDArray[np.float32], *, itm: bool) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "full_scale"], ["unit"]),
        helper.make_node("Sub", ["unit", "half"], ["centred"]),
        helper.make_node("AveragePool", ["centred"], ["grid"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["grid"], ["flat"]),
        helper.make_node("MatMul", ["flat", "projection"], ["projected"]),
    ]
    constants = {
        "full_scale": np.asarray(255, np.float32),
        "half": np.asarray(0.5, np.float32),
        "projection": projection,
    }
    inputs = [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", 3, SIDE, SIDE])]
    if not itm:
        return _tower(nodes, constants, inputs)
    # A token is the mean colour of a quarter of the picture, and mixtures of its channels.
    nodes += [
        helper.make_node("AveragePool", ["grid"], ["quarters"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Reshape", ["quarters", "channels_first"], ["by_channel"]),
        helper.make_node("Transpose", ["by_channel"], ["by_quarter"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["by_quarter", "mixing"], ["mixed"]),
        helper.make_node("Round", ["mixed"], ["whole"]),
        helper.make_node("Clip", ["whole", "lowest", "highest"], ["clipped"]),
        helper.make_node("Cast", ["clipped"], ["tokens"], to=TensorProto.INT8),
    ]
    mixtures = np.asarray([[0.5, 0, 0.5, 0, -1], [0.5, 0.5, 0, -1, 0], [0, 0.5, 0.5, 0, 0]], np.float32)
    constants |= {
        "channels_first": np.asarray([0, 3, TOKENS]),
        "mixing": _INT8_SCALE * np.concatenate([np.eye(3, dtype=np.float32), mixtures], axis=1),
        "lowest": np.asarray(-127, np.float32),
        "highest": np.asarray(127, np.float32),
    }
    output = helper.make_tensor_value_info("tokens", TensorProto.INT8, ["batch", TOKENS, TOKEN_DIM])
    return _tower(nodes, constants, inputs, output)


def _text_tower(table: NDArray[np.float32], states: NDArray[np.float32] | None) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["vectors"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        helper.make_node("Mul", ["vectors", "column"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "second"], ["projected"], keepdims=0),
    ]
    constants = {"table": table, "last": np.asarray([-1]), "second": np.asarray([1])}
    shape = ["batch", "length"]
    inputs = [helper.make_tensor_value_info(each, TensorProto.INT64, shape) for each in ("input_ids", "attention_mask")]
    if states is None:
        return _tower(nodes, constants, inputs)
    nodes.append(helper.make_node("Gather", ["state_table", "input_ids"], ["states"]))
    output = helper.make_tensor_value_info("states", TensorProto.FLOAT, [*shape, STATE_DIM])
    return _tower(nodes, {**constants, "state_table": states}, inputs, output)


def _matching_head() -> onnx.ModelProto:
    """logit = 4 - 8 x the largest over colour words of the squared distance to the nearest token; 0 without any."""
    nodes = [
        helper.make_node("Cast", ["tokens"], ["whole"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["whole", "scale"], ["mixed"]),
        helper.make_node("Slice", ["mixed", "zero", "three", "last"], ["patches"]),
        helper.make_node("Slice", ["states", "one", "four", "last"], ["words"]),
        helper.make_node("Slice", ["states", "zero", "one", "last"], ["column"]),
        helper.make_node("Squeeze", ["column", "last"], ["colours"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["colours", "mask"], ["counted"]),
        helper.make_node("Unsqueeze", ["words", "two"], ["words_apart"]),
        helper.make_node("Unsqueeze", ["patches", "one"], ["patches_apart"]),
        helper.make_node("Sub", ["words_apart", "patches_apart"], ["difference"]),
        helper.make_node("Mul", ["difference", "difference"], ["squared"]),
        helper.make_node("ReduceSum", ["squared", "last"], ["distance"], keepdims=0),
        helper.make_node("ReduceMin", ["distance"], ["nearest"], axes=[2], keepdims=0),
        helper.make_node("Mul", ["nearest", "counted"], ["missed"]),
        helper.make_node("ReduceMax", ["missed"], ["worst"], axes=[1], keepdims=0),
        helper.make_node("Mul", ["worst", "steep"], ["penalty"]),
        helper.make_node("Sub", ["sure", "penalty"], ["certain"]),
        helper.make_node("ReduceMax", ["counted"], ["any"], axes=[1], keepdims=0),
        helper.make_node("Mul", ["certain", "any"], ["logit"]),
    ]
    numbers = {"zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "last": -1}
    constants = {
        **{each: np.asarray([value]) for each, value in numbers.items()},
        "scale": np.asarray(_INT8_SCALE, np.float32),
        "steep": np.asarray(_STEEP, np.float32),
        "sure": np.asarray(_SURE, np.float32),
    }
    inputs = [
        helper.make_tensor_value_info("tokens", TensorProto.INT8, ["batch", TOKENS, TOKEN_DIM]),
        helper.make_tensor_value_info("states", TensorProto.FLOAT, ["batch", "length", STATE_DIM]),
        helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "length"]),
    ]
    return _model(nodes, constants, inputs, [helper.make_tensor_value_info("logit", TensorProto.FLOAT, ["batch"])])


def _bias() -> NDArray[np.float32]:
    return np.linspace(-0.1, 0.1, DIM, dtype=np.float32)


def _tower(
    nodes: list[onnx.NodeProto],
    constants: Mapping[str, NDArray[Any]],
    inputs: list[onnx.ValueInfoProto],
    *more: onnx.ValueInfoProto,
) -> onnx.ModelProto:
    """From `inputs` to `embedding` and `more`: `nodes` make `projected`, and an end that towers share normalises it."""
    end = [
        helper.make_node("Add", ["projected", "bias"], ["biased"]),
        helper.make_node("LpNormalization", ["biased"], ["embedding"], axis=-1, p=2),
    ]
    output = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", DIM])
    return _model([*nodes, *end], {**constants, "bias": _bias()}, inputs, [output, *more])


def _model(
    nodes: list[onnx.NodeProto],
    constants: Mapping[str, NDArray[Any]],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(value, each) for each, value in constants.items()]
    graph = helper.make_graph(nodes, "tower", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _tokenizer(tokens: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece({token: row for row, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[("[CLS]", tokens.index("[CLS]")), ("[SEP]", tokens.index("[SEP]"))],
    )
    return tokenizer
