"""What can be wrong with an open_clip model, or with what runs it: each is one clear line."""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import mmsearch.openclip_weights as openclip_weights
from mmsearch.errors import MissingExtra, MMSearchError, ModelError
from mmsearch.model import load_model
from mmsearch.model_manifest import load_model_manifest
from mmsearch.openclip_config import read_hub_model

WEIGHTS = "open_clip_model.safetensors"


@pytest.fixture
def model_dir(openclip_dirs: dict[str, Path], tmp_path: Path) -> Path:
    return shutil.copytree(openclip_dirs["vit"], tmp_path / "model")


def pinned(directory: Path) -> Path:
    """`directory` with a manifest of its files as they are now, as a pulled model has it."""
    model = read_hub_model(directory, name="pulled")
    for name, data in model.generated.items():
        (directory / name).write_bytes(data)
    (directory / "manifest.json").write_text(json.dumps(model.table), encoding="utf-8")
    return directory


def complaint(directory: Path) -> str:
    with pytest.raises(MMSearchError) as caught:
        load_model(directory, threads=1, device="cpu").load(texts=True)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_a_pulled_directory_and_the_hubs_own_are_one_model(model_dir: Path) -> None:
    before = load_model(model_dir, threads=1, device="cpu")
    embedding = before.encode_texts(["a red dog"])
    after = load_model(pinned(model_dir), threads=1, device="cpu")
    assert after.fingerprint == before.fingerprint
    assert (after.name, before.name) == ("pulled", "model")
    assert (after.encode_texts(["a red dog"]) == embedding).all()


def test_truncated_weights_are_refused(model_dir: Path) -> None:
    data = (model_dir / WEIGHTS).read_bytes()
    (pinned(model_dir) / WEIGHTS).write_bytes(data[:-1])
    assert "is not the one its manifest pins: it has" in complaint(model_dir)


@pytest.mark.case("S28")
def test_tampered_weights_are_refused(model_dir: Path) -> None:
    data = bytearray((model_dir / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (pinned(model_dir) / WEIGHTS).write_bytes(data)
    assert "is not the one its manifest pins: its SHA-256" in complaint(model_dir)


@pytest.mark.parametrize("cut", [0, 1, 7, 100, 5000])
def test_safetensors_that_end_early_are_refused_without_a_manifest_too(model_dir: Path, cut: int) -> None:
    data = (model_dir / WEIGHTS).read_bytes()
    (model_dir / WEIGHTS).write_bytes(data[:cut])
    assert f"{WEIGHTS} is no safetensors file" in complaint(model_dir)


@pytest.mark.case("S25")
@pytest.mark.promise("R10")
def test_a_pickle_that_is_called_safetensors_is_not_unpickled(model_dir: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"logit_scale": torch.zeros(1)}, buffer)
    (model_dir / WEIGHTS).write_bytes(buffer.getvalue())
    assert f"{WEIGHTS} is a pickle or torch archive" in complaint(model_dir)
    assert "mmsearch models import" in complaint(model_dir)


@pytest.mark.case("S25")
@pytest.mark.promise("R10")
def test_a_pickle_beside_the_configuration_is_no_weights(model_dir: Path) -> None:
    (model_dir / WEIGHTS).rename(model_dir / "open_clip_pytorch_model.bin")
    assert "has its weights as a pickle alone (open_clip_pytorch_model.bin)" in complaint(model_dir)


def change_weights(directory: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = load_file(directory / WEIGHTS)
    change(weights)
    save_file(weights, directory / WEIGHTS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda weights: weights.pop("ln_final.bias"), 'Missing key(s) in state_dict: "ln_final.bias"'),
        (lambda weights: weights.update(more=torch.zeros(1)), 'Unexpected key(s) in state_dict: "more"'),
        (lambda weights: weights.update({"ln_final.bias": torch.zeros(3)}), "size mismatch for ln_final.bias"),
    ],
)
def test_weights_that_do_not_fit_are_refused(model_dir: Path, change: Callable[..., Any], said: str) -> None:
    change_weights(model_dir, change)
    found = complaint(model_dir)
    assert f"the weights in {WEIGHTS} do not fit its open_clip_config.json" in found
    assert said in found


def test_a_scale_that_is_no_list_fits_a_model_that_wants_one(model_dir: Path) -> None:
    path = model_dir / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["nonscalar_logit_scale"] = True
    path.write_text(json.dumps(config))
    assert load_model(model_dir, threads=1, device="cpu").encode_texts(["a dog"]).shape == (1, 32)


def test_weights_of_half_precision_and_a_scale_in_a_list_are_fine(model_dir: Path) -> None:
    wanted = load_model(model_dir, threads=1, device="cpu").encode_texts(["a dog"])

    def halve(weights: dict[str, torch.Tensor]) -> None:
        for name in weights:
            weights[name] = weights[name].half()
        weights["logit_scale"] = weights["logit_scale"].reshape(1)

    change_weights(model_dir, halve)
    found = load_model(model_dir, threads=1, device="cpu", precision="fp32").encode_texts(["a dog"])
    assert (wanted * found).sum() > 0.9999


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.pop("model_cfg"), "expected a table model_cfg"),
        (lambda c: c["model_cfg"].pop("text_cfg"), "model_cfg.text_cfg is missing"),
        (lambda c: c["model_cfg"]["text_cfg"].update(hf_model_name="roberta-base"), "of the package transformers"),
        (
            lambda c: c["model_cfg"]["vision_cfg"].update(timm_model_name="hf-hub:a/b"),
            "not a place to download it from",
        ),
        (lambda c: c["model_cfg"]["vision_cfg"].update(timm_model_name="no_such"), "builds no model from its"),
        (lambda c: c["model_cfg"]["vision_cfg"].update(image_size="big"), "image_size or preprocess_cfg"),
        (lambda c: c["model_cfg"]["vision_cfg"].update(sides=4), "builds no model from its"),
        (lambda c: c["model_cfg"]["text_cfg"].update(tokenizer_mode="clips"), "which is not supported"),
        (lambda c: c["model_cfg"]["text_cfg"].update(tokenizer_kwargs={"clean": "x"}), "which is not supported"),
        (lambda c: c["model_cfg"]["text_cfg"].update(context_length=-1), "text.max_tokens is -1"),
        (lambda c: c["preprocess_cfg"].update(resize_mode="fit"), "resize_mode is 'fit'"),
        (lambda c: c["preprocess_cfg"].update(std=[0, 0, 0]), "image.std is [0.0, 0.0, 0.0]"),
        (lambda c: c.update(preprocess_cfg=["x"]), "image_size or preprocess_cfg"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused(
    model_dir: Path, change: Callable[[dict[str, Any]], Any], said: str
) -> None:
    path = model_dir / "open_clip_config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    assert said in complaint(model_dir)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff"])
def test_a_configuration_that_is_no_table_is_refused(model_dir: Path, data: bytes) -> None:
    (model_dir / "open_clip_config.json").write_bytes(data)
    assert "open_clip_config.json" in complaint(model_dir)


def test_a_tokenizer_of_the_hub_that_cannot_be_read_is_refused(openclip_dirs: dict[str, Path], tmp_path: Path) -> None:
    model = shutil.copytree(openclip_dirs["siglip"], tmp_path / "model")
    (model / "tokenizer_config.json").write_text('{"pad_token": "<nothing>"}')
    assert "has no token <nothing>" in complaint(model)
    (model / "tokenizer.json").write_text("{}")
    assert "is not a tokenizer of the package tokenizers" in complaint(model)
    (model / "tokenizer.json").unlink()
    assert "tokenizer.json cannot be read: No such file" in complaint(model)


def test_too_little_memory_is_said_before_anything_is_read(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openclip_weights, "free_memory", lambda: 1000)
    assert "of memory to be loaded, and 0.0 GB are free" in complaint(model_dir)


def test_memory_that_runs_out_while_encoding_is_said(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(model_dir, threads=1, device="cpu")
    model.load(texts=True)

    def exhausted(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(torch.nn.functional, "normalize", exhausted)
    with pytest.raises(ModelError, match="needs more memory to encode 2 items at once than there is: use a smaller"):
        model.encode_texts(["a", "b"])


def test_free_memory_is_a_number_of_bytes_where_the_system_says_it() -> None:
    free = openclip_weights.free_memory()
    assert free is None or free > 1 << 20


@pytest.mark.parametrize("package", ["torch", "torchvision", "open_clip", "safetensors"])
def test_a_package_that_is_missing_is_named(model_dir: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    there = importlib.util.find_spec
    pinned(model_dir)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else there(name))
    with pytest.raises(MissingExtra, match=rf"need {package}; install with: pip install 'mmsearch\[clip\]'"):
        load_model(model_dir)


def test_a_torchvision_of_another_build_is_one_line_and_no_traceback(model_dir: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken" / "torchvision"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from mmsearch.model import load_model\n"
        "try: load_model(sys.argv[2], device='cpu').load(texts=True)\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    command = [sys.executable, "-c", script, str(broken.parent), str(model_dir)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.startswith("ModelError open_clip cannot be imported: operator torchvision::nms does not exist; torch ")
    assert "may not fit each other: pip install --force-reinstall --no-deps 'torchvision==0." in said
    assert said.count("\n") == 1


def test_the_hubs_cache_of_links_is_read(openclip_dirs: dict[str, Path], tmp_path: Path) -> None:
    for each in openclip_dirs["vit"].iterdir():
        (tmp_path / each.name).symlink_to(each)
    assert load_model_manifest(tmp_path).read(WEIGHTS)[:1]
