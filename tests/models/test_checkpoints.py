"""What `mmsearch models import` makes of a file: decided by its bytes, and refused in one sentence with a way out."""

from __future__ import annotations

import errno
import os
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsearch.weights_kind import START_BYTES, safetensors_damage, weights_kind

torch = pytest.importorskip("torch")

from openclip_models import CONFIGS, write_openclip  # noqa: E402

pytest.importorskip("open_clip")

from safetensors.torch import load_file, save  # noqa: E402

from mmsearch.errors import MissingExtra, ModelError  # noqa: E402
from mmsearch.model_manifest import load_model_manifest  # noqa: E402
from mmsearch.torch_checkpoint import convert_checkpoint  # noqa: E402

WEIGHTS = "open_clip_model.safetensors"
ARCHITECTURE = ("--architecture", "tiny-vit", "--name", "mine")


@pytest.fixture(scope="module")
def tiny_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model as on the hub. Shared, so only read it."""
    return write_openclip(tmp_path_factory.mktemp("vit") / "vit", CONFIGS["vit"])


@pytest.fixture(autouse=True)
def architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    """open_clip knows the small model's architecture."""
    import open_clip

    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-vit", CONFIGS["vit"]["model_cfg"])


def odd_tensors() -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls some of these a prototype
        return {
            "sparse": torch.eye(3).to_sparse(),
            "compressed": torch.eye(3).to_sparse_csr(),
            "expanded": torch.zeros(1).expand(10**13),
            "complex": torch.zeros(2, dtype=torch.complex64),
            "meta": torch.zeros(2, device="meta"),
            "nested": torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
            "quantized": torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8),
        }


@pytest.mark.parametrize("kind", odd_tensors())
def test_tensors_that_safetensors_does_not_keep_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save({"visual.odd": odd_tensors()[kind]}, tmp_path / "odd.pt")
        with pytest.raises(ModelError, match=r"under 'visual\.odd', which is not kept in safetensors: expected dense"):
            convert_checkpoint(tmp_path / "odd.pt", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_one_name_with_and_without_the_prefix_is_refused(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(1), "module.x": torch.ones(1)}, tmp_path / "both.pt")
    with pytest.raises(ModelError, match=r"holds 'x' twice.*expected one of them"):
        convert_checkpoint(tmp_path / "both.pt", tmp_path / "out.safetensors")


def test_many_names_for_one_tensor_are_refused_before_they_fill_memory_or_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = torch.zeros(1 << 20)
    torch.save({f"x{number}": shared for number in range(1000)}, tmp_path / "shared.pt")
    with monkeypatch.context() as patch:
        patch.setattr("mmsearch.openclip_weights.free_memory", lambda: 1 << 30)
        with pytest.raises(ModelError, match=r"take 4\.2 GB of memory, and 1\.1 GB are free"):
            convert_checkpoint(tmp_path / "shared.pt", tmp_path / "out.safetensors")
    monkeypatch.setattr("mmsearch.openclip_weights.free_memory", lambda: None)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 30))
    with pytest.raises(ModelError, match=r"converting .*needs 4\.3 GB.*make room"):
        convert_checkpoint(tmp_path / "shared.pt", tmp_path / "out.safetensors")


@pytest.mark.parametrize("version", ["2.9.1", "2.6.0+cpu", "1.13.1", "unknown"])
def test_a_torch_whose_protection_can_be_passed_opens_no_checkpoint(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"x": torch.zeros(1)}, tmp_path / "x.pt")
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(torch, "load", lambda *arguments, **options: pytest.fail("was opened"))
    with pytest.raises(MissingExtra, match=r"CVE-2026-24747.*'torch>=2\.10'"):
        convert_checkpoint(tmp_path / "x.pt", tmp_path / "out.safetensors")


@pytest.mark.parametrize("version", ["2.10.0", "2.13.0+cpu", "3.0.0"])
def test_later_ones_do(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"x": torch.zeros(1)}, tmp_path / "x.pt")
    monkeypatch.setattr(torch, "__version__", version)
    convert_checkpoint(tmp_path / "x.pt", tmp_path / "out.safetensors")
    assert load_file(tmp_path / "out.safetensors")["x"].item() == 0


def test_a_disk_that_fills_up_while_converting_is_said_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors import SafetensorError

    def full(*arguments: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    torch.save({"x": torch.zeros(1)}, tmp_path / "x.pt")
    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError) as caught:
        convert_checkpoint(tmp_path / "x.pt", tmp_path / "out.safetensors")
    assert caught.value.errno == errno.ENOSPC


class Program(torch.nn.Module):
    """A whole module, where weights are expected."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def write_checkpoint(kind: str, path: Path) -> None:
    if kind == "a module":
        torch.save(Program(), path)
    elif kind == "a path":
        torch.save({"x": path}, path)
    elif kind == "TorchScript":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.script(Program()).save(os.fspath(path))
    else:
        torch.save({"x": torch.zeros(1000)}, path)
        os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("kind", ["a module", "a path", "TorchScript", "a half"])
def test_torchs_advice_to_switch_its_protection_off_is_never_shown(
    kind: str, models_command: Any, tmp_path: Path
) -> None:
    write_checkpoint(kind, tmp_path / "odd.pt")
    outcome = models_command("import", tmp_path / "odd.pt", "--trust", *ARCHITECTURE)
    assert "refused, --trust or not" in outcome.error
    assert not any(word in outcome.err for word in ("weights_only", "torch.load", "safe_globals"))


@pytest.mark.parametrize("trust", [(), ("--trust",)])
@pytest.mark.parametrize("content", [b"file,caption\na.jpg,a dog\n", b"", b"\x00" * 100])
def test_what_is_no_weights_is_said_to_be_none_and_trust_is_not_offered(
    content: bytes, trust: tuple[str, ...], models_command: Any, tmp_path: Path, store: Path
) -> None:
    for name in ("captions.csv", "weights.safetensors", "weights.pt"):
        (tmp_path / name).write_bytes(content)
        error = models_command("import", tmp_path / name, *trust, *ARCHITECTURE).error
        assert "is neither safetensors nor a torch checkpoint" in error
        assert "trust" not in error and "weights_only" not in error
    assert not store.exists()


@pytest.mark.parametrize("trust", [(), ("--trust",)])
def test_a_cut_off_file_is_to_be_fetched_again_and_trust_is_not_offered(
    trust: tuple[str, ...], tiny_vit: Path, models_command: Any, tmp_path: Path
) -> None:
    whole = (tiny_vit / WEIGHTS).read_bytes()
    for name in ("weights.safetensors", "weights.pt"):
        for size in (len(whole) // 2, 100):
            (tmp_path / name).write_bytes(whole[:size])
            error = models_command("import", tmp_path / name, *trust, *ARCHITECTURE).error
            assert "damaged safetensors file" in error and "fetch or copy it again" in error
            assert "--trust" not in error


def test_a_pickle_called_safetensors_leads_to_trust_and_trust_opens_it(
    tiny_vit: Path, models_command: Any, tmp_path: Path
) -> None:
    torch.save(load_file(tiny_vit / WEIGHTS), tmp_path / "weights.safetensors")
    error = models_command("import", tmp_path / "weights.safetensors", *ARCHITECTURE).error
    assert "is a torch checkpoint, whatever its name is" in error and "add --trust" in error
    outcome = models_command("import", tmp_path / "weights.safetensors", *ARCHITECTURE, "--trust")
    assert outcome.code == 0, outcome.err
    assert load_model_manifest("mine").files[WEIGHTS].bytes > 0


def test_safetensors_called_pt_need_no_trust(tiny_vit: Path, models_command: Any, tmp_path: Path) -> None:
    shutil.copyfile(tiny_vit / WEIGHTS, tmp_path / "weights.pt")
    assert models_command("import", tmp_path / "weights.pt", *ARCHITECTURE).code == 0


def test_a_directory_with_a_pickle_under_the_name_of_safetensors_leads_to_a_command_that_works(
    tiny_vit: Path, models_command: Any, tmp_path: Path
) -> None:
    source = shutil.copytree(tiny_vit, tmp_path / "source")
    torch.save(load_file(tiny_vit / WEIGHTS), source / WEIGHTS)
    error = models_command("import", source, "--name", "mine").error
    assert "mmsearch models import FILE --trust --architecture NAME" in error
    outcome = models_command("import", source / WEIGHTS, "--trust", *ARCHITECTURE)
    assert outcome.code == 0, outcome.err


def test_a_directory_with_cut_off_weights_is_to_be_fetched_again(
    tiny_vit: Path, models_command: Any, tmp_path: Path
) -> None:
    source = shutil.copytree(tiny_vit, tmp_path / "source")
    os.truncate(source / WEIGHTS, (source / WEIGHTS).stat().st_size - 10)
    error = models_command("import", source, "--name", "mine").error
    assert "fetch or copy it again" in error and "--trust" not in error


@given(st.dictionaries(st.text(max_size=8), st.integers(0, 9), max_size=4), st.data())
def test_every_safetensors_file_is_told_and_every_cut_of_it_is_damage(sizes: dict[str, int], data: Any) -> None:
    whole = save({f"{name}.x": torch.zeros(size) for name, size in sizes.items()})
    assert weights_kind(whole[:START_BYTES]) == "safetensors"
    path = Path(os.environ["XDG_DATA_HOME"]).parent / "x.safetensors"
    path.write_bytes(whole)
    assert safetensors_damage(path) == ""
    path.write_bytes(whole[: data.draw(st.integers(9, len(whole) - 1))])
    assert safetensors_damage(path) != ""
    path.write_bytes(whole + b"\0")
    assert safetensors_damage(path) != ""
