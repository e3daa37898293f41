"""Models that somebody prepared: refused by the command in one line, and nothing of them is run or followed."""

from __future__ import annotations

import os
import pickle  # noqa: TID251 - to make what must never be loaded
import shutil
import zipfile
from pathlib import Path

import onnx
import pytest
from PIL import Image
from tiny_model import write_manifest

from mmsearch import onnx_providers
from mmsearch.cli.main import run


class Canary:
    """Whoever unpickles it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def model(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the model to spoil; commands take it by themselves."""
    copied = shutil.copytree(tiny_model_dir, tmp_path / "model")
    monkeypatch.setenv("MMSEARCH_MODEL", str(copied))
    monkeypatch.setenv("MMSEARCH_COLLECTION", str(tmp_path / "collection"))
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "photos" / "red.png")
    return copied


def refusal(model: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What the command says, in one line, when it is to index with the model."""
    assert run(["index", str(model.parent / "photos")]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and said[0].startswith("mmsearch: ")
    return said[0]


def zipped(data: bytes, path: Path) -> bytes:
    """What `torch.save` makes of a pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3")
    return path.read_bytes()


@pytest.mark.case("S25")
@pytest.mark.promise("R10")
@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize("file", ["image.onnx", "text.onnx", "tokenizer.json"])
@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_a_pickle_in_a_models_place_is_refused_and_not_run(
    form: str, file: str, pinned: bool, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = model.parent / "ran"
    data = pickle.dumps(Canary(ran))
    (model / file).write_bytes(data if form == "pickle" else zipped(data, model.parent / "checkpoint.pt"))
    if pinned:
        write_manifest(model)
    # Indexing a picture reads the image tower; a sentence needs the other two.
    asked = ["index", str(model.parent / "photos")] if file == "image.onnx" else ["tag", str(model.parent / "photos")]
    code = run([*asked, *([] if file == "image.onnx" else ["--label", "red", "--label", "blue"])])
    assert code == 1 and file.removesuffix(".json") in capsys.readouterr().err
    assert not ran.exists()


@pytest.mark.case("S26")
@pytest.mark.parametrize(
    "where", ["../secret", "{secret}", "link.bin", "hard.bin", "image.onnx.data", "a/../../secret", ""]
)
def test_a_graph_that_refers_to_other_files_is_never_loaded(
    where: str, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def loads(*_: object, **__: object) -> None:
        pytest.fail("the graph reached ONNX Runtime")

    secret = model.parent / "secret"
    secret.write_bytes(bytes(1 << 16))
    (model / "link.bin").symlink_to(secret)
    os.link(secret, model / "hard.bin")
    (model / "image.onnx.data").symlink_to(secret)
    graph = onnx.load(model / "image.onnx")
    tensor = graph.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=where.format(secret=secret))
    (model / "image.onnx").write_bytes(graph.SerializeToString())
    write_manifest(model)
    monkeypatch.setattr(onnx_providers, "open_session", loads)
    assert "image.onnx keeps tensors in other files" in refusal(model, capsys)


@pytest.mark.case("S28")
@pytest.mark.parametrize("file", ["image.onnx", "text.onnx", "tokenizer.json"])
def test_a_file_with_another_hash_is_refused(file: str, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray((model / file).read_bytes())
    data[len(data) // 2] ^= 1
    (model / file).write_bytes(data)
    photos = str(model.parent / "photos")
    asked = ["index", photos] if file == "image.onnx" else ["tag", photos, "--label", "red", "--label", "blue"]
    assert run(asked) == 1
    assert f"{file} is not the one its manifest pins" in capsys.readouterr().err
