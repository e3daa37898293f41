"""What the tests of `mmsearch models` share: a hub on the loopback, and running the command."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_hub import FakeHub, HubServer
from hub_model import REPOSITORY, Outcome, hub_config, tiny_files

from mmsearch.cli.main import run


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """The hub that pulls go to, with `hf-hub:someone/tiny-siglip` in it."""
    import huggingface_hub.constants as constants

    fake = FakeHub()
    fake.add(REPOSITORY, tiny_files())
    server = HubServer(fake)
    server.thread.start()
    monkeypatch.setattr("mmsearch.model_hub._endpoint", lambda library: server.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    # What the library holds back is lost with the connection: ten million bytes, more than all that is here.
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    # A pull asks for all that will run the model; these tests run none.
    monkeypatch.setattr("mmsearch.model_plan.require_clip_extra", lambda: None)
    # Its list of names is not worth importing torch for, and not the same in every version.
    monkeypatch.setitem(sys.modules, "open_clip", None)
    yield fake
    server.shutdown()
    server.thread.join()
    server.server_close()


@pytest.fixture
def store() -> Path:
    """Where models are installed in this test."""
    from mmsearch.model_store import store_directory

    return store_directory()


@pytest.fixture
def models_command(capfd: pytest.CaptureFixture[str]) -> Any:
    """Runs `mmsearch models ...` within this process."""

    def call(*arguments: str | Path) -> Outcome:
        capfd.readouterr()
        code = run(["models", *(os.fspath(each) for each in arguments)])
        return Outcome(code, *capfd.readouterr())

    return call


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small open_clip model with weights that fit, as on the hub. Shared, so only read it."""
    pytest.importorskip("torch")
    from openclip_models import write_openclip

    for needed in ("open_clip", "onnxscript"):
        pytest.importorskip(needed)
    return write_openclip(tmp_path_factory.mktemp("original") / "original", hub_config(vocab_size=64))


@pytest.fixture(scope="session")
def with_onnx(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The same model installed, with its ONNX form, in a store that no test uses. Shared, so only copy it."""
    from mmsearch.model_import import ImportOptions, import_model
    from mmsearch.model_manifest import load_model_manifest
    from mmsearch.training.clip_form import write_onnx_form

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", os.fspath(tmp_path_factory.mktemp("data")))
        installed = import_model(ImportOptions(source=original, name="mine"))
        write_onnx_form(load_model_manifest(installed.directory))
        yield installed.directory


@pytest.fixture
def mine(with_onnx: Path, store: Path) -> Path:
    """The model `mine` with its ONNX form, installed in this test's own store."""
    return shutil.copytree(with_onnx, store / "mine")
