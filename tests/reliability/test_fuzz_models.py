"""Any configuration, tokenizer and weights as a hub gives them, any ONNX graph, any marker, any array."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz_strategies import DEPTHS, changed, damaged, dumped, nested
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mmsearch.errors import ModelError
from mmsearch.model_manifest import parse_manifest
from mmsearch.model_store import MARKER, Installed, read_marker
from mmsearch.npy_files import map_npy, npy_header, read_npy_rows
from mmsearch.onnx_external_data import external_files
from mmsearch.openclip_config import CONFIG_FILE, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE, read_hub_model
from mmsearch.openclip_tokenizer import hub_tokenizer_json
from mmsearch.weights_kind import safetensors_damage, weights_kind

pytestmark = pytest.mark.usefixtures("bounded")
FUZZ = settings(settings.get_profile("fuzz"))

CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "timm_model_name": "vit"},
        "text_cfg": {
            "context_length": 8,
            "vocab_size": 16,
            "hf_tokenizer_name": "someone/tiny",
            "tokenizer_kwargs": {"clean": "canonicalize", "strip_sep_token": True},
            "pool_type": "last",
        },
    },
    "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "longest"},
}
TOKENIZER: dict[str, Any] = {
    "version": "1.0",
    "added_tokens": [{"id": 0, "content": "<pad>"}, {"id": 2, "content": "[SEP]"}, {"id": 3, "content": "[CLS]"}],
    "padding": {"pad_token": "<pad>"},
    "model": {"type": "WordLevel", "vocab": {"<pad>": 0, "red": 1, "[SEP]": 2, "[CLS]": 3}, "unk_token": "<pad>"},
}
ABOUT: dict[str, Any] = {
    "pad_token": {"content": "<pad>"},
    "tokenizer_class": "GemmaTokenizer",
    "bos_token": "red",
    "add_bos_token": True,
    "sep_token": "[SEP]",
}


def weights(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + bytes(4)


WEIGHTS = b'{"logit_scale":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}'


def read_or_refused(directory: Path, files: dict[str, bytes]) -> None:
    sound = {
        CONFIG_FILE: dumped(CONFIG),
        TOKENIZER_FILE: dumped(TOKENIZER),
        TOKENIZER_CONFIG_FILE: dumped(ABOUT),
        WEIGHTS_FILE: weights(WEIGHTS),
    }
    for name, data in {**sound, **files}.items():
        (directory / name).write_bytes(data)
    try:
        model = read_hub_model(directory, name="tiny")
        json.dumps(model.table)
        parse_manifest(model.table, directory, file=CONFIG_FILE)
    except ModelError as error:
        str(error).encode("utf-8", "backslashreplace")


def test_what_nothing_is_changed_in_is_read(tmp_path: Path) -> None:
    read_or_refused(tmp_path, {})
    assert read_hub_model(tmp_path).table["dim"] == 16


@pytest.mark.case("S45")
@FUZZ
@given(config=changed(CONFIG))
@example(config={**CONFIG, "preprocess_cfg": {"resize_mode": []}})
@example(config={**CONFIG, "preprocess_cfg": {"mean": 10**400}})
@example(config={**CONFIG, "preprocess_cfg": [1]})
@example(config={"model_cfg": {**CONFIG["model_cfg"], "vision_cfg": {"image_size": [1, 2, 3]}}})
@example(config={"model_cfg": {**CONFIG["model_cfg"], "text_cfg": {"hf_tokenizer_name": "x", "tokenizer_kwargs": [1]}}})
def test_any_configuration_is_read_or_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    read_or_refused(tmp_path, {CONFIG_FILE: dumped(config)})


@pytest.mark.case("S45")
@FUZZ
@given(tokenizer=changed(TOKENIZER), about=changed(ABOUT))
@example(tokenizer={**TOKENIZER, "\ud800": None}, about={"tokenizer_class": "GemmaTokenizer", "bos_token": "red"})
@example(tokenizer={**TOKENIZER, "added_tokens": [{"content": "<pad>", "id": float("inf")}]}, about={})
@example(tokenizer={**TOKENIZER, "padding": [1]}, about={})
@example(tokenizer={**TOKENIZER, "padding": {"pad_token": []}}, about={})
@example(tokenizer={**TOKENIZER, "model": {"vocab": {"<pad>": "x"}}, "added_tokens": []}, about={"pad_token": "<pad>"})
def test_any_tokenizer_is_read_or_refused(tmp_path: Path, tokenizer: dict[str, Any], about: dict[str, Any]) -> None:
    read_or_refused(tmp_path, {TOKENIZER_FILE: dumped(tokenizer), TOKENIZER_CONFIG_FILE: dumped(about)})


@pytest.mark.case("S45")
@pytest.mark.parametrize("number", ["x", "7", [], 1.5, {}])
def test_a_number_of_a_token_is_a_number(number: Any) -> None:
    tokenizer = {**TOKENIZER, "added_tokens": [], "model": {"vocab": {"<pad>": number}}}
    with pytest.raises(ModelError, match="as the number of its token <pad>"):
        hub_tokenizer_json(dumped(tokenizer), {}, strip_separator=False, file=TOKENIZER_FILE)


@pytest.mark.case("S45")
@FUZZ
@given(data=st.binary(max_size=100), name=st.sampled_from([CONFIG_FILE, TOKENIZER_FILE, TOKENIZER_CONFIG_FILE]))
@example(data=nested(DEPTHS[0]), name=TOKENIZER_CONFIG_FILE)
@example(data=b'{"model": {"vocab": {}}, "x": ' + nested(990) + b"}", name=TOKENIZER_FILE)
@example(data=nested(DEPTHS[2]), name=CONFIG_FILE)
def test_any_bytes_of_the_hub_are_read_or_refused(tmp_path: Path, data: bytes, name: str) -> None:
    read_or_refused(tmp_path, {name: data})


@pytest.mark.case("S45")
@FUZZ
@given(header=damaged(WEIGHTS) | changed(json.loads(WEIGHTS)).map(dumped))
@example(header=nested(DEPTHS[2]))
@example(header=b"[1]")
@example(header=b'{"logit_scale":{"dtype":"F64","data_offsets":[-1e999,1]}}')
@example(header=b'{"logit_scale":{"dtype":["F64"],"data_offsets":[0,8]}}')
@example(header=b'{"logit_scale":{"dtype":"F32","data_offsets":[9223372036854775807,8]}}')
def test_any_header_of_weights_is_read_or_passed_over(tmp_path: Path, header: bytes) -> None:
    read_or_refused(tmp_path, {WEIGHTS_FILE: weights(header)})
    assert isinstance(safetensors_damage(tmp_path / WEIGHTS_FILE), str)


@pytest.mark.case("S45")
@FUZZ
@given(data=st.binary(max_size=60))
@example(data=b"\xff" * 8 + b"{}")
def test_any_bytes_as_weights(tmp_path: Path, data: bytes) -> None:
    assert weights_kind(data) in ("safetensors", "pickle", "neither")
    read_or_refused(tmp_path, {WEIGHTS_FILE: data})
    safetensors_damage(tmp_path / WEIGHTS_FILE)


@pytest.mark.case("S43")
@FUZZ
@given(data=st.binary(max_size=60) | changed({"format": 1, "source": "s", "revision": "r", "license": "l"}).map(dumped))
@example(data=nested(DEPTHS[1]))
@example(data=b"[1]")
@example(data=b"1")
def test_any_marker_is_a_models_or_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / MARKER).write_bytes(data)
    assert isinstance(read_marker(tmp_path), Installed | None)


@pytest.mark.case("S49", "S26")
@FUZZ
@given(data=st.data())
def test_a_graph_with_anything_changed_names_its_files_or_is_refused(
    tiny_itm_model_dir: Path, data: st.DataObject
) -> None:
    sound = (tiny_itm_model_dir / data.draw(st.sampled_from(["image.onnx", "itm.onnx"]))).read_bytes()
    with contextlib.suppress(ValueError):
        assert external_files(data.draw(damaged(sound[:2000]) | damaged(sound))) is not None


def numpy_bytes(array: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.case("S48")
@FUZZ
@given(data=st.binary(max_size=100) | damaged(numpy_bytes(np.ones((3, 4), np.float16))))
@example(data=b"\x93NUMPY\x01\x00\x10\x00{'descr': eval('1')}\n" + bytes(40))
@example(data=b"")
def test_any_bytes_are_an_array_or_refused(tmp_path: Path, data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert read_npy_rows(data, np.dtype(np.float16), 4).shape[1] == 4
    (tmp_path / "a.npy").write_bytes(data)
    with contextlib.suppress(ValueError):
        assert map_npy(tmp_path / "a.npy", np.dtype(np.float16), (3, 4)).shape == (3, 4)


@pytest.mark.case("S48")
@FUZZ
@given(shape=st.lists(st.integers(-(1 << 70), 1 << 70), min_size=1, max_size=3).map(tuple))
@example(shape=(1 << 62, 1 << 62))
@example(shape=(-1, 4))
@example(shape=(0, 1 << 64))
def test_any_shape_is_an_array_or_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    dtype = np.dtype(np.float32)
    (tmp_path / "a.npy").write_bytes(npy_header(dtype, shape) + bytes(0 if 0 in shape else 16))
    with contextlib.suppress(ValueError):
        assert map_npy(tmp_path / "a.npy", dtype, shape).shape == shape
