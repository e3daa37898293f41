from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from openclip_models import CONFIGS, write_openclip  # noqa: E402

OPEN_CLIP = pytest.importorskip("open_clip")

from fake_hub import FakeHub  # noqa: E402
from hub_model import NAME, REPOSITORY  # noqa: E402

from mmsearch.model import load_model  # noqa: E402
from mmsearch.model_manifest import load_model_manifest  # noqa: E402
from mmsearch.openclip_names import hub_config, nearest, published  # noqa: E402

ARCHITECTURE = "tiny-vit"
TEXTS = ["a red dog", "the beach"]


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model as on the hub. Shared, so only read it."""
    return write_openclip(tmp_path_factory.mktemp("vit") / "vit", CONFIGS["vit"])


@pytest.fixture
def architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name by which open_clip knows the small model's architecture in this test."""
    import open_clip

    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, ARCHITECTURE, CONFIGS["vit"]["model_cfg"])
    return ARCHITECTURE


@pytest.fixture
def checkpoint(tiny_vit: Path, tmp_path: Path) -> Path:
    """The same weights as training in parallel writes them: a pickle, with other things beside."""
    from safetensors.torch import load_file

    weights = load_file(tiny_vit / "open_clip_model.safetensors")
    path = tmp_path / "epoch_3.pt"
    state = {f"module.{name}": value for name, value in weights.items()}
    torch.save({"epoch": 3, "name": "run", "state_dict": state}, path)
    return path


def embedded(model: str | Path) -> Any:
    return load_model(model, threads=1).encode_texts(TEXTS)


def test_a_directory_as_on_the_hub_is_copied(tiny_vit: Path, models_command: Any, store: Path, tmp_path: Path) -> None:
    source = shutil.copytree(tiny_vit, tmp_path / "source")
    outcome = models_command("import", source, "--name", "mine", "--license", "CC0")
    assert outcome.code == 0, outcome.err
    shutil.rmtree(source)
    manifest = load_model_manifest("mine")
    assert (manifest.directory, manifest.name, manifest.license) == (store / "mine", "mine", "CC0")
    np.testing.assert_array_equal(embedded("mine"), embedded(tiny_vit))


def test_a_pulled_model_encodes_like_the_same_files_in_place(
    hub: FakeHub, tiny_vit: Path, models_command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", OPEN_CLIP)
    hub.add(REPOSITORY, {path.name: path.read_bytes() for path in tiny_vit.iterdir()})
    assert models_command("pull", NAME, "--no-onnx").code == 0
    np.testing.assert_array_equal(embedded(NAME), embedded(tiny_vit))


def test_safetensors_of_a_named_architecture(
    tiny_vit: Path, architecture: str, models_command: Any, tmp_path: Path
) -> None:
    file = shutil.copy(tiny_vit / "open_clip_model.safetensors", tmp_path / "weights.safetensors")
    outcome = models_command("import", file, "--architecture", architecture)
    assert outcome.code == 0, outcome.err
    np.testing.assert_array_equal(embedded("weights"), embedded(tiny_vit))


def test_a_trusted_checkpoint_becomes_safetensors_with_a_warning(
    checkpoint: Path, tiny_vit: Path, architecture: str, models_command: Any, store: Path
) -> None:
    outcome = models_command("import", checkpoint, "--trust", "--architecture", architecture, "--name", "mine")
    assert outcome.code == 0, outcome.err
    assert "pickle" in outcome.err
    assert sorted(path.suffix for path in (store / "mine").iterdir()) == [".json"] * 4 + [".safetensors"]
    np.testing.assert_array_equal(embedded("mine"), embedded(tiny_vit))


@pytest.mark.case("S25")
@pytest.mark.promise("R10")
def test_a_checkpoint_is_not_even_opened_without_trust(
    checkpoint: Path, models_command: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "load", lambda *arguments, **options: pytest.fail("was opened"))
    error = models_command("import", checkpoint, "--architecture", ARCHITECTURE).error
    assert "pickle" in error and "--trust" in error
    assert not store.exists()


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


@pytest.mark.case("S25")
@pytest.mark.promise("R10")
def test_a_malicious_checkpoint_is_refused_even_when_trusted(
    architecture: str, models_command: Any, store: Path, tmp_path: Path
) -> None:
    path, proof = tmp_path / "bad.pt", tmp_path / "it-ran"
    torch.save({"state_dict": {"x": Malicious(proof)}}, path)
    outcome = models_command("import", path, "--trust", "--architecture", architecture)
    assert outcome.code == 1
    assert "refused, --trust or not" in outcome.error
    assert not proof.exists()
    assert sorted(path.name for path in store.iterdir()) == [".lock"]


@pytest.mark.parametrize("content", [[1, 2], {"x": 1}, {"state_dict": {}}, {3: torch.zeros(1)}])
def test_a_checkpoint_without_weights_is_refused(
    content: Any, architecture: str, models_command: Any, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "odd.pt")
    error = models_command("import", tmp_path / "odd.pt", "--trust", "--architecture", architecture).error
    assert "expected" in error


def test_rubbish_is_refused(architecture: str, models_command: Any, store: Path, tmp_path: Path) -> None:
    (tmp_path / "rubbish.pt").write_bytes(b"\x00" * 100)
    assert models_command("import", tmp_path / "rubbish.pt", "--trust", "--architecture", architecture).code == 1
    assert not store.exists()


def test_weights_that_do_not_fit_the_architecture_leave_nothing(
    architecture: str, models_command: Any, store: Path, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    save_file({"logit_scale": torch.zeros(())}, tmp_path / "few.safetensors")
    error = models_command("import", tmp_path / "few.safetensors", "--architecture", architecture).error
    assert "do not fit" in error
    assert sorted(path.name for path in store.iterdir()) == [".lock"]


def test_an_unknown_architecture_is_told_the_nearest(models_command: Any, tiny_vit: Path) -> None:
    file = tiny_vit / "open_clip_model.safetensors"
    error = models_command("import", file, "--architecture", "ViT-B32", "--name", "mine").error
    assert "ViT-B-32" in error


def test_another_tokenizer_has_to_be_given(
    models_command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import open_clip

    directory = write_openclip(tmp_path / "siglip", CONFIGS["siglip"])
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-siglip", CONFIGS["siglip"]["model_cfg"])
    weights = ("import", directory / "open_clip_model.safetensors", "--architecture", "tiny-siglip", "--name", "mine")
    assert "--tokenizer" in models_command(*weights).error
    outcome = models_command(*weights, "--tokenizer", directory / "tokenizer.json")
    assert outcome.code == 0, outcome.err
    np.testing.assert_array_equal(embedded("mine"), embedded(directory))


@pytest.mark.parametrize("name", ["mini", "base", "../x", "a/b", "", ".hidden"])
def test_names_that_mean_something_else_are_refused(
    name: str, tiny_vit: Path, models_command: Any, store: Path
) -> None:
    assert models_command("import", tiny_vit, "--name", name).code == 2
    assert not store.exists() or [path.name for path in store.iterdir()] == [".lock"]


def test_a_taken_name_is_refused_and_what_is_there_stays(tiny_vit: Path, models_command: Any) -> None:
    assert models_command("import", tiny_vit, "--name", "mine").code == 0
    before = load_model_manifest("mine").fingerprint
    assert "already" in models_command("import", tiny_vit, "--name", "mine").error
    assert load_model_manifest("mine").fingerprint == before


def test_what_is_no_source_is_a_usage_error(
    models_command: Any, tmp_path: Path, tiny_vit: Path, tiny_model_dir: Path
) -> None:
    assert models_command("import", tmp_path / "none.safetensors").code == 2
    assert models_command("import", tmp_path).code == 2
    outcome = models_command("import", tiny_model_dir)
    assert (outcome.code, "--model DIR" in outcome.error) == (2, True)
    assert "--architecture" in models_command("import", tiny_vit / "open_clip_model.safetensors").error


def test_open_clips_own_names_are_known() -> None:
    names = published()
    assert names["ViT-B-32/laion2b_s34b_b79k"] == "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
    assert len(names) > 100
    assert "ViT-H-14/laion2b_s32b_b79k" in nearest("ViT-H-14/laion2b_s32b_b97k")


def test_an_architecture_brings_the_preprocessing_of_its_published_checkpoints() -> None:
    siglip, clip = hub_config("ViT-B-16-SigLIP"), hub_config("ViT-B-32")
    assert siglip["preprocess_cfg"]["resize_mode"] == "squash"
    assert siglip["preprocess_cfg"]["mean"] == [0.5, 0.5, 0.5]
    assert clip["preprocess_cfg"]["resize_mode"] == "shortest"
    assert json.loads(json.dumps(clip)) == clip
