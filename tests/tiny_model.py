"""A real model in miniature: two ONNX towers of a few kilobytes that `load_model(directory)` opens like any other.

It knows the colours in `COLOURS`: the sentence "red" and a red picture get the same embedding, so a test can ask for
"red" and name the file that must come first. Every other word is spelled out in characters, so different sentences
get different embeddings. A picture is seen as a grid of 4 x 4 mean colours. Nothing here is trained and nothing is
random between runs.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

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


def write_tiny_model(directory: Path, *, name: str = "tiny", seed: int = 0) -> Path:
    """`directory`, filled with a complete model. Another `seed` gives other embeddings and another fingerprint."""
    directory.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    projection = random.standard_normal((3 * _GRID * _GRID, DIM)).astype(np.float32)
    tokens = list(_SPECIAL) + list(COLOURS) + [*_CHARACTERS, *(f"##{character}" for character in _CHARACTERS)]
    onnx.save_model(_image_tower(projection), directory / "image.onnx")
    onnx.save_model(_text_tower(_token_table(tokens, projection, random)), directory / "text.onnx")
    _tokenizer(tokens).save(str(directory / "tokenizer.json"))
    write_manifest(directory, name=name)
    return directory


def write_manifest(directory: Path, *, name: str = "tiny") -> None:
    """Writes `manifest.json` for the files as they are now."""
    files = {}
    for file in ("image.onnx", "text.onnx", "tokenizer.json"):
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


def _image_tower(projection: NDArray[np.float32]) -> onnx.ModelProto:
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
    return _tower(nodes, constants, inputs)


def _text_tower(table: NDArray[np.float32]) -> onnx.ModelProto:
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
    return _tower(nodes, constants, inputs)


def _tower(
    nodes: list[onnx.NodeProto], constants: dict[str, NDArray[np.generic]], inputs: list[onnx.ValueInfoProto]
) -> onnx.ModelProto:
    """From `inputs` to `embedding`: `nodes` make `projected`, and the end that both towers share normalises it."""
    end = [
        helper.make_node("Add", ["projected", "bias"], ["biased"]),
        helper.make_node("LpNormalization", ["biased"], ["embedding"], axis=-1, p=2),
    ]
    bias = np.linspace(-0.1, 0.1, DIM, dtype=np.float32)
    initializers = [numpy_helper.from_array(value, each) for each, value in {**constants, "bias": bias}.items()]
    output = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", DIM])
    graph = helper.make_graph([*nodes, *end], "tower", inputs, [output], initializers)
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
