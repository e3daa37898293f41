"""Directories as the hub lays them out: what their manifest says, and the names that lead to models."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from safetensors.torch import save_file

from mmsearch.errors import ModelError
from mmsearch.model_manifest import load_model_manifest, parse_manifest
from mmsearch.openclip_config import read_hub_model
from mmsearch.openclip_tokenizer import hub_tokenizer_json


def test_the_manifest_says_what_the_configuration_says(openclip_dirs: dict[str, Path]) -> None:
    vit, siglip, coca = (load_model_manifest(openclip_dirs[kind]) for kind in ("vit", "siglip", "coca"))
    assert (vit.runtime, vit.dim, vit.max_tokens, vit.clean, vit.pad) == ("open_clip", 32, 77, "lower", False)
    assert (vit.preprocess.resize, vit.preprocess.interpolation) == ("crop", "bicubic")
    assert vit.mean == (0.481, 0.458, 0.408)
    assert vit.logit_scale == pytest.approx(1 / 0.07)
    assert (siglip.clean, siglip.pad, siglip.preprocess.resize) == ("canonicalize", True, "squash")
    assert (coca.pad, coca.preprocess.resize, coca.preprocess.fill) == (True, "longest", 7)
    assert coca.std == pytest.approx((0.26862954, 0.26130258, 0.27577711))


@pytest.mark.parametrize(
    ("dtype", "accuracy"), [(torch.float64, 1e-9), (torch.float32, 1e-6), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)]
)
@pytest.mark.parametrize("shape", [(), (1,)])
def test_the_scale_is_read_in_every_precision(
    openclip_dirs: dict[str, Path], tmp_path: Path, *, dtype: torch.dtype, accuracy: float, shape: tuple[int, ...]
) -> None:
    model = shutil.copytree(openclip_dirs["vit"], tmp_path / "model")
    others = {"a": torch.ones(3, dtype=torch.uint8), "z": torch.ones(9)}
    scale = torch.tensor(math.log(100), dtype=torch.float64).to(dtype).reshape(shape)
    save_file({**others, "logit_scale": scale}, model / "open_clip_model.safetensors")
    assert read_hub_model(model).table["logit_scale"] == pytest.approx(100, rel=accuracy)


@pytest.mark.parametrize("scale", [torch.tensor(4), torch.tensor([]), torch.tensor(math.nan), torch.tensor(1e9)])
def test_a_scale_that_is_no_sensible_number_is_not_taken(
    openclip_dirs: dict[str, Path], tmp_path: Path, scale: torch.Tensor
) -> None:
    model = shutil.copytree(openclip_dirs["vit"], tmp_path / "model")
    save_file({"logit_scale": scale}, model / "open_clip_model.safetensors")
    assert "logit_scale" not in read_hub_model(model).table


def test_reading_a_hub_directory_imports_no_torch(openclip_dirs: dict[str, Path]) -> None:
    script = (
        "import sys\nfrom mmsearch.model_manifest import load_model_manifest\n"
        "load_model_manifest(sys.argv[1]); load_model_manifest('mini')\n"
        "print(sorted({'torch', 'open_clip', 'torchvision', 'ftfy', 'transformers'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(openclip_dirs["vit"])], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(
    "change",
    [
        {"preprocess_cfg": {"resize_mode": "longest"}},
        {"preprocess_cfg": {"mean": [0.1, 0.2, 0.3]}},
        {"preprocess_cfg": {"interpolation": "bilinear"}},
    ],
)
def test_what_changes_embeddings_changes_the_fingerprint(
    openclip_dirs: dict[str, Path], tmp_path: Path, change: dict[str, object]
) -> None:
    model = shutil.copytree(openclip_dirs["vit"], tmp_path / "model")
    before = load_model_manifest(model).fingerprint
    assert before == load_model_manifest(openclip_dirs["vit"]).fingerprint
    config = json.loads((model / "open_clip_config.json").read_text())
    (model / "open_clip_config.json").write_text(json.dumps({**config, **change}))
    assert load_model_manifest(model).fingerprint != before


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("image", {"mean": [0.1, 0.2, 0.3]}),
        ("image", {"std": [0.1, 0.2, 0.3]}),
        ("image", {"resize": "longest", "fill": 1}),
        ("text", {"clean": "whitespace"}),
        ("text", {"pad": True}),
    ],
)
def test_what_a_manifest_says_of_embeddings_is_in_the_fingerprint(
    openclip_dirs: dict[str, Path], part: str, change: dict[str, object]
) -> None:
    directory = openclip_dirs["vit"]
    table = read_hub_model(directory).table
    changed = {**table, part: {**table[part], **change}}
    before, after = (parse_manifest(each, directory, file="manifest.json") for each in (table, changed))
    assert before.fingerprint != after.fingerprint


def test_a_matching_head_needs_an_exported_model(openclip_dirs: dict[str, Path]) -> None:
    facts = {"tokens": 1, "token_dim": 1, "state_dim": 1, "max_text_tokens": 1, "candidates": 1, "weight": 0.1}
    table = {**read_hub_model(openclip_dirs["vit"]).table, "itm": {"file": "itm.onnx", **facts}}
    with pytest.raises(ModelError, match="itm needs the runtime onnx: export the model"):
        parse_manifest(table, openclip_dirs["vit"], file="manifest.json")


def test_a_name_can_be_made_of_any_directory(openclip_dirs: dict[str, Path]) -> None:
    for name, expected in (("a/b c", "a-b-c"), ("ViT-B-32/x_y", "ViT-B-32-x_y"), ("…", "model"), ("x" * 99, "x" * 64)):
        assert read_hub_model(openclip_dirs["vit"], name=name).table["name"] == expected


def test_a_directory_is_meant_where_there_is_one(
    openclip_dirs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(openclip_dirs["vit"], tmp_path / "ViT-B-32" / "laion2b_s34b_b79k")
    monkeypatch.chdir(tmp_path)
    assert load_model_manifest("ViT-B-32/laion2b_s34b_b79k").runtime == "open_clip"


@pytest.mark.parametrize(
    ("name", "pulled"),
    [("ViT-B-32/laion2b_s34b_b79k", "small"), ("hf-hub:a/b", "hf-hub:a/b"), ("ViT-B-16/openai", "ViT-B-16/openai")],
)
def test_a_model_that_is_not_here_is_one_that_can_be_pulled(name: str, pulled: str) -> None:
    with pytest.raises(ModelError, match=f"mmsearch models pull {pulled}"):
        load_model_manifest(name)


@pytest.fixture
def bert(tmp_path: Path) -> bytes:
    words = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3, "<bos>": 4, "<eos>": 5}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    special = [("[CLS]", 1), ("[SEP]", 2)]
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=special)
    return tokenizer.to_str().encode()


def ids(data: bytes, text: str) -> list[int]:
    tokenizer = tokenizers.Tokenizer.from_buffer(data)
    tokenizer.enable_truncation(4)
    return list(tokenizer.encode(text).ids)


def test_a_separator_is_stripped_as_open_clip_strips_it(bert: bytes) -> None:
    stripped = hub_tokenizer_json(bert, {"pad_token": "[PAD]"}, strip_separator=True, file="t")
    for text in ("a", "a a a a"):
        wanted = np.array(ids(bert, text))
        assert ids(stripped, text) == np.where(wanted == 2, 0, wanted).tolist()


def test_the_marks_at_the_ends_follow_the_configuration_of_gemma(bert: bytes) -> None:
    config = {"tokenizer_class": "GemmaTokenizer", "bos_token": "<bos>", "eos_token": {"content": "<eos>"}}
    for given, wanted in (({"add_bos_token": False, "add_eos_token": True}, [3, 5]), ({}, [4, 3])):
        data = hub_tokenizer_json(bert, {**config, **given}, strip_separator=False, file="t")
        assert ids(data, "a") == wanted


def test_a_tokenizer_that_lacks_nothing_stays_as_it_is(bert: bytes) -> None:
    assert hub_tokenizer_json(bert, {}, strip_separator=False, file="t") == bert
