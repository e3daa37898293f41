"""The ONNX form of an installed model: when it runs, that it answers for its original, and what keeps it true."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from openclip_models import write_openclip
from PIL import Image

import mmsearch
from mmsearch.cuda_devices import CudaDevice
from mmsearch.encoder import OnnxEncoder
from mmsearch.errors import ModelError
from mmsearch.model import Model, load_model
from mmsearch.model_lookup import find_model, reference
from mmsearch.model_manifest import load_model_manifest, verify
from mmsearch.openclip_encoder import OpenClipEncoder

TEXTS = ["a red dog", "the beach", "", "a photo of the cat on the beach, and of a dog"]


def rewrite(directory: Path, **fields: Any) -> None:
    """Changes fields of the manifest in `directory`; None takes one out."""
    path = directory / "manifest.json"
    table = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({key: value for key, value in table.items() if value is not None}))


def change_tokenizer(directory: Path) -> None:
    """Other words for the model in `directory`, and a manifest that says so."""
    path = directory / "tokenizer.json"
    path.write_bytes(path.read_bytes() + b"\n")
    files = json.loads((directory / "manifest.json").read_text())["files"]
    files[path.name] = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
    rewrite(directory, files=files)


def pictures(count: int) -> list[Image.Image]:
    random = np.random.default_rng(count)
    return [Image.fromarray(random.integers(0, 256, (40, 50, 3), dtype=np.uint8)) for _ in range(count)]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA device in this machine, as far as the choice of a form can see."""
    monkeypatch.setattr("mmsearch.model_forms.cuda_devices", lambda: (CudaDevice("H100", 80 << 30),))


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch models need is not installed."""
    monkeypatch.setitem(sys.modules, "torch", None)


def test_the_form_gives_the_embeddings_of_its_original_under_the_same_fingerprint(mine: Path) -> None:
    manifest = load_model_manifest("mine")
    form = load_model_manifest(mine / "onnx")
    verify(form)
    assert (manifest.runtime, form.runtime) == ("open_clip", "onnx")
    assert form.fingerprint == manifest.fingerprint == manifest.own_fingerprint != form.own_fingerprint
    in_torch, in_onnx = Model(manifest, threads=1), load_model("mine", threads=1, device="cpu")
    assert in_onnx.manifest == form
    np.testing.assert_allclose(in_onnx.encode_texts(TEXTS), in_torch.encode_texts(TEXTS), atol=1e-5)
    np.testing.assert_allclose(in_onnx.encode_images(pictures(3)), in_torch.encode_images(pictures(3)), atol=1e-5)


def test_what_torch_has_indexed_is_answered_where_torch_cannot_be_imported(
    mine: Path, with_onnx: Path, tmp_path: Path
) -> None:
    shutil.rmtree(mine / "onnx")
    (tmp_path / "photos").mkdir()
    for number, picture in enumerate(pictures(4)):
        picture.save(tmp_path / "photos" / f"{number}.png")
    with mmsearch.open(tmp_path / "collection", model="mine") as collection:
        assert collection.add([tmp_path / "photos"]).items == 4
        expected = [hit.path for hit in collection.search("a red dog", k=4)]
    shutil.copytree(with_onnx / "onnx", mine / "onnx")
    program = """
import sys
for blocked in ("torch", "torchvision", "open_clip", "timm", "onnx", "safetensors"):
    sys.modules[blocked] = None
import json, mmsearch
from mmsearch.cli.main import run
with mmsearch.open(sys.argv[1]) as collection:
    print(json.dumps([hit.path for hit in collection.search("a red dog", k=4)]))
sys.exit(run(["query", "a red dog", "--collection", sys.argv[1], "--paths", "-k", "1"]))
"""
    arguments = [sys.executable, "-c", program, str(tmp_path / "collection")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    by_program, by_command = done.stdout.splitlines()
    assert json.loads(by_program) == expected
    assert by_command == expected[0]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"device": "cpu"}, OnnxEncoder),
        ({"device": "cpu", "precision": "fp32"}, OnnxEncoder),
        ({"device": "cpu", "precision": "bf16"}, OpenClipEncoder),
        ({"device": "cuda"}, OpenClipEncoder),
        ({"device": "mps"}, OpenClipEncoder),
    ],
)
def test_a_device_that_is_named_decides(mine: Path, asked: dict[str, str], expected: type) -> None:
    assert isinstance(load_model("mine", threads=1, **asked).encoder, expected)


@pytest.mark.usefixtures("gpu")
def test_where_there_is_a_gpu_it_runs_in_torch(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(load_model("mine", threads=1).encoder, OpenClipEncoder)
    # One query would be done before the device is ready.
    assert isinstance(load_model("mine", threads=1, once=True).encoder, OnnxEncoder)
    monkeypatch.setenv("MMSEARCH_DEVICE", "cpu")
    assert isinstance(load_model("mine", threads=1).encoder, OnnxEncoder)


def test_where_there_is_none_it_runs_as_onnx(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmsearch.model_forms.accelerated", lambda: False)
    for name in ("mine", mine):
        assert isinstance(load_model(name, threads=1).encoder, OnnxEncoder)


@pytest.mark.usefixtures("gpu", "no_torch")
def test_where_torch_is_not_installed_it_runs_as_onnx_whatever_there_is(mine: Path) -> None:
    for asked in ({}, {"device": "cuda"}, {"precision": "fp16"}):
        assert isinstance(load_model("mine", threads=1, **asked).encoder, OnnxEncoder)


def test_a_directory_that_was_not_installed_has_no_form(original: Path, with_onnx: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(original, tmp_path / "theirs")
    shutil.copytree(with_onnx / "onnx", directory / "onnx")
    assert isinstance(load_model(directory, threads=1, device="cpu").encoder, OpenClipEncoder)


def test_a_collection_remembers_the_model_and_not_its_form(mine: Path) -> None:
    wanted = reference(load_model("mine", threads=1, device="cpu"))
    assert (wanted.name, wanted.location) == ("mine", str(mine))
    assert wanted == reference(Model(load_model_manifest("mine"), threads=1))
    shutil.rmtree(mine / "onnx")
    assert find_model(wanted).manifest.directory == mine


def other_weights(form: Path, tmp_path: Path) -> None:
    (seeded := tmp_path / "seeded").mkdir()
    config = json.loads((form.parent / "open_clip_config.json").read_text())
    write_openclip(seeded, config, seed=1)
    rewrite(form, embeds_as={**load_claim(form), "fingerprint": load_model_manifest(seeded).fingerprint})


def load_claim(form: Path) -> dict[str, str]:
    claim: dict[str, str] = json.loads((form / "manifest.json").read_text())["embeds_as"]
    return claim


DAMAGES = {
    "no manifest": lambda form, tmp_path: (form / "manifest.json").unlink(),
    "rubbish": lambda form, tmp_path: (form / "manifest.json").write_bytes(b"{"),
    "no claim": lambda form, tmp_path: rewrite(form, embeds_as=None),
    "other files": lambda form, tmp_path: change_tokenizer(form),
    "other weights": other_weights,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_form_that_cannot_be_used_is_said_and_torch_runs(
    mine: Path, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    DAMAGES[damage](mine / "onnx", tmp_path)
    with caplog.at_level(logging.WARNING, "mmsearch"):
        model = load_model("mine", threads=1, device="cpu")
    assert isinstance(model.encoder, OpenClipEncoder)
    assert "the ONNX form of model 'mine' cannot be used" in caplog.text
    assert "mmsearch models export mine writes it anew; until then it runs in torch" in caplog.text
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModelError, match=r"cannot be used.*mmsearch models export mine writes it anew"):
        load_model("mine", threads=1, device="cpu")


@pytest.mark.case("S28")
def test_a_graph_that_was_changed_is_refused(mine: Path) -> None:
    with (mine / "onnx" / "text.onnx").open("r+b") as file:
        file.write(b"\1")
    with pytest.raises(ModelError, match=r"onnx/text\.onnx is not the one its manifest pins"):
        load_model("mine", threads=1, device="cpu").encode_texts(["a"])


def test_a_claim_is_void_for_files_that_were_not_compared(mine: Path) -> None:
    before = load_model_manifest(mine / "onnx")
    change_tokenizer(mine / "onnx")
    after = load_model_manifest(mine / "onnx")
    assert after.embeds_as == before.embeds_as
    assert after.fingerprint == after.own_fingerprint not in (before.fingerprint, before.own_fingerprint)


@pytest.mark.parametrize(
    "claim",
    ["0" * 32, {"fingerprint": "0" * 32}, {"fingerprint": "0" * 31, "measured": "0" * 32}, {"fingerprint": 1}, [], 7],
)
def test_a_claim_of_another_shape_is_an_error(mine: Path, claim: object) -> None:
    rewrite(mine / "onnx", embeds_as=claim)
    with pytest.raises(ModelError, match=r"embeds_as"):
        load_model_manifest(mine / "onnx")


def test_only_an_exported_model_can_make_a_claim(mine: Path) -> None:
    rewrite(mine, embeds_as={"fingerprint": "0" * 32, "measured": "0" * 32})
    with pytest.raises(ModelError, match="embeds_as is for exported models"):
        load_model_manifest(mine)
