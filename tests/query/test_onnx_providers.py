"""Which provider runs a graph. The device is an invention here; where there is a real one, the last test runs on it."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnxruntime
import pytest

from mmsearch import encoder, onnx_providers
from mmsearch.cuda_devices import CudaDevice, cuda_devices
from mmsearch.encoder import OnnxEncoder
from mmsearch.errors import ModelError
from mmsearch.model_manifest import load_model_manifest
from mmsearch.onnx_providers import CPU, CUDA
from mmsearch.onnx_session import OnnxSession

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 3, 8, 8), dtype=np.uint8)
real_session = onnxruntime.InferenceSession


class CudaSession:
    """ONNX Runtime's session with a CUDA provider that starts, unless `starts` is False or it is an error."""

    starts: bool | Exception = True
    fails: Exception | None = None
    together: threading.Barrier | None = None
    stdout: ClassVar[list[Any]] = []

    def __init__(self, graph: bytes, options: Any, *, providers: list[Any], enable_fallback: bool = True) -> None:
        self.asked = [each if isinstance(each, str) else each[0] for each in providers]
        if CUDA in self.asked:
            assert dict([providers[0]])[CUDA] == {"use_tf32": "0"} and not enable_fallback
            self.stdout.append(sys.stdout)
            if isinstance(self.starts, Exception):
                raise self.starts
        self._session = real_session(graph, options, providers=[CPU])

    def get_providers(self) -> list[str]:
        return self.asked if self.starts else [CPU]

    def run(self, *given: Any) -> Any:
        if self.fails is not None and CUDA in self.asked:
            if self.together is not None:
                self.together.wait(10)
            raise self.fails
        return self._session.run(*given)


@pytest.fixture(autouse=True)
def own_messages(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    onnx_providers._say_once.cache_clear()
    CudaSession.stdout.clear()
    yield


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (onnx_providers, encoder):
        monkeypatch.setattr(module, "cuda_devices", lambda: (CudaDevice("A device", 1 << 30),))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: sys.stdout.write("a library speaks\n"), raising=False)
    monkeypatch.setattr(onnxruntime, "InferenceSession", CudaSession)


def encoded(model: Path, device: str) -> tuple[OnnxEncoder, Any]:
    made = OnnxEncoder(load_model_manifest(model), threads=1, device=device)
    return made, made.encode_pixels(PIXELS)


@pytest.mark.parametrize(("device", "on_gpu"), [("auto", True), ("cuda", True), ("cpu", False), ("mps", False)])
def test_a_device_is_used_where_the_setting_lets_it(
    device: str, on_gpu: bool, gpu: None, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, embeddings = encoded(tiny_model_dir, device)
    assert made.on_gpu == on_gpu
    manifest = load_model_manifest(tiny_model_dir)
    assert OnnxSession(manifest, manifest.text_file, threads=1, device=device).on_gpu == on_gpu
    assert embeddings.shape == (3, 16)
    assert capsys.readouterr().out == "", "stdout belongs to the command"
    assert set(CudaSession.stdout) <= {sys.stdout}, "and to its other threads, while a session opens"


@pytest.mark.parametrize(
    ("starts", "said"),
    [(False, "cannot start CUDA (a library speaks)"), (RuntimeError("no kernel"), "(no kernel)")],
)
def test_a_provider_that_does_not_start_leaves_the_model_to_the_cpu_and_says_so_once(
    starts: bool | Exception,
    said: str,
    gpu: None,
    tiny_model_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(CudaSession, "starts", starts)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            made, embeddings = encoded(tiny_model_dir, "cuda")
    assert not made.on_gpu
    np.testing.assert_array_equal(embeddings, encoded(tiny_model_dir, "cpu")[1])
    assert [said in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_device_that_fails_in_the_middle_leaves_the_model_to_the_cpu_and_says_so_once(
    device: str, gpu: None, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made, embeddings = encoded(tiny_model_dir, device)
    assert made.on_gpu
    monkeypatch.setattr(CudaSession, "fails", RuntimeError("BFCArena: 0 bytes are free\nand how it came to that"))
    monkeypatch.setattr(CudaSession, "together", threading.Barrier(4))
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: made.encode_pixels(PIXELS), range(4)):
            np.testing.assert_array_equal(found, embeddings)
    assert not made.on_gpu
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().endswith("failed on 3 items: BFCArena: 0 bytes are free; the CPU goes on")


def test_what_fails_on_the_cpu_too_is_an_error(
    gpu: None, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = load_model_manifest(tiny_model_dir)
    session = OnnxSession(manifest, manifest.image_file, threads=1, device="cuda")
    monkeypatch.setattr(CudaSession, "fails", RuntimeError("out of memory"))
    with pytest.raises(ModelError, match=r"failed on 3 items: .*nothing of the kind"):
        session.run({"nothing of the kind": (3, 16)}, {"pixels": PIXELS})


@pytest.mark.parametrize(("device", "level"), [("cuda", logging.WARNING), ("auto", logging.INFO)])
def test_a_build_without_cuda_is_named_with_what_to_install(
    device: str,
    level: int,
    gpu: None,
    tiny_model_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    with caplog.at_level(logging.INFO):
        assert not encoded(tiny_model_dir, device)[0].on_gpu
    (record,) = caplog.records
    assert record.levelno == level
    assert "install onnxruntime-gpu" in record.getMessage()


def test_without_a_device_auto_asks_for_none(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for module in (onnx_providers, encoder):
        monkeypatch.setattr(module, "cuda_devices", lambda: ())
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: pytest.fail("asked"))
    with caplog.at_level(logging.INFO):
        assert not encoded(tiny_model_dir, "auto")[0].on_gpu
    assert not caplog.records


@pytest.mark.skipif(
    not cuda_devices() or CUDA not in onnxruntime.get_available_providers(),
    reason="no CUDA device, or an ONNX Runtime without CUDA",
)
def test_embeddings_on_a_device_are_those_of_the_cpu(tiny_model_dir: Path) -> None:
    made, embeddings = encoded(tiny_model_dir, "cuda")
    assert made.on_gpu
    np.testing.assert_allclose(embeddings, encoded(tiny_model_dir, "cpu")[1], atol=1e-5)
