"""`mmsearch models` and the ONNX form: `export` and `pull` make it, `list` and `info` show it, `remove` takes it."""

from __future__ import annotations

import os
import shutil
import sys
from base64 import b64decode
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import openclip_models  # noqa: F401

OPEN_CLIP = pytest.importorskip("open_clip")

from fake_hub import FakeHub  # noqa: E402
from hub_model import DIRECTORY, NAME, REPOSITORY, left_behind  # noqa: E402

from mmsearch.cuda_devices import CudaDevice  # noqa: E402
from mmsearch.encoder import OnnxEncoder  # noqa: E402
from mmsearch.errors import ModelError  # noqa: E402
from mmsearch.model import Model, load_model  # noqa: E402
from mmsearch.model_manifest import load_model_manifest, verify  # noqa: E402
from mmsearch.model_store import changing_the_store  # noqa: E402
from mmsearch.training import clip_form  # noqa: E402


@pytest.fixture
def real_hub(hub: FakeHub, original: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """The hub with a model whose weights fit, on a machine without a GPU that has all that an export needs."""
    monkeypatch.setitem(sys.modules, "open_clip", OPEN_CLIP)
    monkeypatch.setattr("mmsearch.model_forms.accelerated", lambda: False)
    hub.add(REPOSITORY, {path.name: path.read_bytes() for path in original.iterdir()})
    return hub


@pytest.fixture
def quick_export(with_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Exports that take no time: where they were written to."""
    written: list[Path] = []

    def export(manifest: Any, out: Path, **_: object) -> None:
        written.append(shutil.copytree(with_onnx / "onnx", out))

    monkeypatch.setattr(clip_form, "export_model", export)
    return written


def test_export_without_out_gives_an_installed_model_its_form(mine: Path, models_command: Any, store: Path) -> None:
    shutil.rmtree(mine / "onnx")
    outcome = models_command("export", "mine")
    assert outcome.code == 0, outcome.err
    assert outcome.out == "mine has its ONNX form, and runs in it on the CPU: without torch, and faster\n"
    model = load_model("mine", threads=1, device="cpu")
    verify(model.manifest)
    assert model.manifest.directory == mine / "onnx"
    in_torch = Model(load_model_manifest("mine"), threads=1)
    np.testing.assert_allclose(model.encode_texts(["a dog"]), in_torch.encode_texts(["a dog"]), atol=1e-5)
    assert left_behind(store) == []


@pytest.mark.usefixtures("quick_export")
@pytest.mark.parametrize("link", [False, True])
def test_a_form_that_is_there_is_replaced(
    mine: Path, models_command: Any, store: Path, tmp_path: Path, link: bool
) -> None:
    if link:
        (mine / "onnx").rename(tmp_path / "theirs")
        (mine / "onnx").symlink_to(tmp_path / "theirs")
    (mine / "onnx" / "manifest.json").write_bytes(b"{")
    outcome = models_command("export", "mine", "--json")
    assert outcome.code == 0, outcome.err
    assert b64decode(outcome.json["out"]["path_b64"]) == os.fsencode(mine / "onnx")
    assert outcome.json["fingerprint"] == load_model_manifest("mine").fingerprint
    verify(load_model_manifest(mine / "onnx"))
    assert not (mine / "onnx").is_symlink() and (tmp_path / "theirs" / "text.onnx").exists() == link
    assert left_behind(store) == []


def test_an_export_that_fails_leaves_the_form_that_is_there(
    mine: Path, models_command: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(manifest: Any, out: Path, **_: object) -> None:
        (out / "half").mkdir(parents=True)
        raise ModelError("it does not agree")

    monkeypatch.setattr(clip_form, "export_model", fail)
    assert models_command("export", "mine").error == "it does not agree"
    verify(load_model_manifest(mine / "onnx"))
    assert left_behind(store) == []
    assert not list(store.glob(".new-*"))


def test_an_export_waits_for_nobody_who_is_changing_the_store(mine: Path, models_command: Any) -> None:
    with changing_the_store():
        assert "another mmsearch" in models_command("export", "mine").error


def test_what_has_no_place_for_a_form_needs_out(
    original: Path, mine: Path, models_command: Any, tmp_path: Path
) -> None:
    outside = shutil.copytree(mine, tmp_path / "outside")
    for directory in (original, outside):
        outcome = models_command("export", directory)
        assert (outcome.code, "not an installed one: say where to write with --out DIR" in outcome.error) == (2, True)
    outcome = models_command("export", "mine", "--int8")
    assert (outcome.code, "say where to write it with --out DIR" in outcome.error) == (2, True)
    outcome = models_command("export", "mini")
    assert (outcome.code, "ONNX already" in outcome.error) == (2, True)


def test_list_and_info_show_both_forms(mine: Path, models_command: Any) -> None:
    (line,) = (line for line in models_command("list").out.splitlines() if " mine " in line)
    assert "installed + onnx" in line
    page = {line[:11].strip(): line[12:] for line in models_command("info", "mine").out.splitlines()}
    assert page["Runtime"] == "open_clip, and onnx on the CPU"
    facts = models_command("info", "mine", "--json").json["model"]
    assert b64decode(facts["onnx_form"]["path_b64"]) == os.fsencode(mine / "onnx")
    shutil.rmtree(mine / "onnx")
    alone = models_command("info", "mine", "--json").json["model"]
    assert alone["onnx_form"] is None and alone["bytes"] < facts["bytes"]
    assert (alone["fingerprint"], alone["runtime"]) == (facts["fingerprint"], "open_clip")


def test_info_says_what_is_wrong_with_a_form(mine: Path, models_command: Any) -> None:
    (mine / "onnx" / "manifest.json").write_bytes(b"{")
    outcome = models_command("info", "mine")
    assert outcome.code == 0
    assert "Trouble     the ONNX form of model 'mine' cannot be used" in outcome.out


def test_remove_takes_the_form_too(mine: Path, models_command: Any, store: Path) -> None:
    size = sum(path.stat().st_size for path in mine.rglob("*") if path.is_file())
    assert models_command("remove", "mine", "--json").json["bytes"] == size
    assert not mine.exists() and left_behind(store) == []


def test_pull_makes_the_form_where_there_is_no_gpu(real_hub: FakeHub, models_command: Any, store: Path) -> None:
    outcome = models_command("pull", NAME, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["model"]["onnx_form"] is not None
    assert isinstance(load_model(NAME, threads=1, device="cpu").encoder, OnnxEncoder)
    assert left_behind(store) == []


@pytest.mark.usefixtures("real_hub")
def test_pull_leaves_the_form_out_where_it_is_not_wanted_or_not_used(
    models_command: Any, store: Path, quick_export: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert models_command("pull", NAME, "--no-onnx").code == 0
    monkeypatch.setattr("mmsearch.model_forms.accelerated", lambda: True)
    assert models_command("pull", NAME).code == 0
    monkeypatch.setattr("mmsearch.model_forms.accelerated", lambda: False)
    with monkeypatch.context() as patch:
        patch.setattr("mmsearch.training.clip_export.NEEDS", ("no_such_package",))
        assert models_command("pull", NAME).code == 0
    assert quick_export == []
    # The same command adds what was left out, once.
    for _ in range(2):
        assert models_command("pull", NAME).code == 0
    assert len(quick_export) == 1 and (store / DIRECTORY / "onnx").is_dir()


@pytest.mark.usefixtures("real_hub")
@pytest.mark.parametrize("error", [ModelError("needs 3 GB of memory more"), RuntimeError("line one\nline two")])
def test_a_form_that_cannot_be_made_is_a_warning_and_the_model_is_there(
    models_command: Any, store: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(clip_form, "export_model", fail)
    outcome = models_command("pull", NAME)
    assert outcome.code == 0
    said = outcome.err.splitlines()[-1]
    assert said.startswith("mmsearch: the model is installed, without its ONNX form: ")
    assert said.endswith(f"mmsearch models export {NAME} tries it again")
    assert str(error).split("\n", 1)[0] in said
    assert load_model_manifest(NAME).directory == store / DIRECTORY
    assert left_behind(store) == []


@pytest.mark.usefixtures("real_hub")
def test_an_interrupt_meanwhile_says_what_there_is(
    models_command: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(clip_form, "export_model", interrupted)
    outcome = models_command("pull", NAME)
    assert outcome.code == 130
    assert "the model is installed, without its ONNX form" in outcome.err
    assert (store / DIRECTORY / "manifest.json").exists() and left_behind(store) == []


def test_a_gpu_is_seen_by_what_the_driver_names(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmsearch.model_forms import accelerated

    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    for devices in ((), (CudaDevice("H100", 80 << 30),)):
        monkeypatch.setattr("mmsearch.model_forms.cuda_devices", lambda devices=devices: devices)
        assert accelerated() == bool(devices)
