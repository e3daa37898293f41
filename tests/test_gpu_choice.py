"""When a search goes to a GPU, what is tried there, and what happens where it does not work. No device is needed."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpu_fakes import GpuFaiss

from mmsearch import cuda_devices, faiss_gpu, index_device
from mmsearch.collection import Collection
from mmsearch.cuda_devices import CudaDevice
from mmsearch.index_device import AUTO_ROWS, CUDA_ROWS, open_index, planned_place
from mmsearch.refined_index import RefinedIndex
from mmsearch.settings import Settings
from mmsearch.vector_index import ExactIndex

GIB = 1 << 30
DEVICE = CudaDevice("A device", 80 * GIB)


@pytest.fixture(autouse=True)
def nothing_said_before() -> Iterator[None]:
    index_device._say_once.cache_clear()
    cuda_devices.cuda_devices.cache_clear()
    yield
    cuda_devices.cuda_devices.cache_clear()


@pytest.fixture
def vectors() -> np.ndarray[Any, np.dtype[np.float16]]:
    found = np.random.default_rng(0).standard_normal((600, 8))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float16)


@pytest.fixture
def one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that names a device, and a rule that asks for it from a few hundred rows on."""
    monkeypatch.setattr(index_device, "cuda_devices", lambda: (DEVICE,))
    monkeypatch.setattr(index_device, "_FEWEST_ROWS", {"auto": 500, "cuda": 300})


def with_faiss(monkeypatch: pytest.MonkeyPatch, fake: GpuFaiss) -> None:
    monkeypatch.setattr(faiss_gpu, "faiss_module", lambda: fake)


def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(util, "find_spec", lambda name: None)


@pytest.mark.parametrize(
    ("device", "rows", "expected"),
    [("cpu", 600, False), ("mps", 600, False), ("auto", 500, False), ("auto", 501, True), ("cuda", 301, True)],
)
def test_a_device_is_asked_where_the_setting_and_the_size_say_so(
    device: str, rows: int, expected: bool, vectors: Any, one_device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_faiss(monkeypatch, GpuFaiss())
    some = vectors[:rows]
    index = open_index(some, lambda: ExactIndex(some), device=device)
    assert isinstance(index, RefinedIndex) == expected
    if isinstance(index, RefinedIndex):
        assert index.place == "flat float16 by faiss on cuda:0"


def test_large_enough_is_what_the_rule_says() -> None:
    assert (CUDA_ROWS, AUTO_ROWS) == (10_000, 100_000)
    assert index_device._FEWEST_ROWS == {"auto": AUTO_ROWS, "cuda": CUDA_ROWS}


@pytest.mark.parametrize(("device", "said"), [("auto", 0), ("cuda", 1)])
def test_without_a_device_only_who_asked_for_one_is_told_and_once(
    device: str, said: int, vectors: Any, one_device: None, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(index_device, "cuda_devices", lambda: ())
    for _ in range(2):
        assert isinstance(open_index(vectors, lambda: ExactIndex(vectors), device=device), ExactIndex)
    assert len(caplog.records) == said


def test_what_cannot_use_the_device_is_named_and_the_cpu_answers(
    vectors: Any, one_device: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with_faiss(monkeypatch, GpuFaiss(devices=0))
    without_torch(monkeypatch)
    for _ in range(2):
        assert isinstance(open_index(vectors, lambda: ExactIndex(vectors), device="auto"), ExactIndex)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "A device (86 GB) is not used, searching on the CPU: faiss is built without GPU, or finds no device;"
        " torch is not installed"
    )


def test_a_torch_that_sees_no_device_is_named(
    vectors: Any, one_device: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(index_device, "_version", lambda name: None)
    with_faiss(monkeypatch, GpuFaiss(devices=0))
    open_index(vectors, lambda: ExactIndex(vectors), device="auto")
    assert f"torch {torch.__version__}" in caplog.text


def test_a_torch_whose_name_says_that_it_has_no_cuda_is_not_loaded(
    vectors: Any, one_device: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with_faiss(monkeypatch, GpuFaiss(devices=0))
    monkeypatch.setattr(util, "find_spec", lambda name: object())
    monkeypatch.setattr(index_device, "_version", lambda name: "2.13.0+cpu")
    for loaded in ("mmsearch.torch_index", "torch"):
        monkeypatch.setitem(sys.modules, loaded, None)
    open_index(vectors, lambda: ExactIndex(vectors), device="auto")
    assert "torch 2.13.0+cpu is built without CUDA" in caplog.text


def test_a_build_that_lacks_what_is_asked_of_it_leaves_the_search_to_the_cpu(
    vectors: Any, one_device: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with_faiss(monkeypatch, GpuFaiss(without=("GpuIndexFlatConfig",)))
    without_torch(monkeypatch)
    assert isinstance(open_index(vectors, lambda: ExactIndex(vectors), device="cuda"), ExactIndex)
    assert "searching on the CPU: GpuIndexFlatConfig; torch" in caplog.text


def test_a_device_that_fails_while_it_is_filled_leaves_the_search_to_the_cpu(
    vectors: Any, one_device: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake = GpuFaiss()

    def no_memory() -> None:
        raise RuntimeError("cudaMalloc error out of memory [2]\nsomewhere")

    fake.StandardGpuResources = no_memory  # type: ignore[attr-defined]
    with_faiss(monkeypatch, fake)
    without_torch(monkeypatch)
    assert isinstance(open_index(vectors, lambda: ExactIndex(vectors), device="cuda"), ExactIndex)
    assert "cudaMalloc error out of memory [2]; torch" in caplog.text


def test_a_mask_that_leaves_little_goes_to_the_index_that_knows_masks(
    vectors: Any, one_device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = GpuFaiss()
    with_faiss(monkeypatch, fake)
    index = open_index(vectors, lambda: ExactIndex(vectors), device="cuda")
    query = vectors[:1].astype(np.float32)
    for share, calls in ((1.0, 1), (0.8, 2), (0.5, 2)):
        index.search(query, 3, np.arange(600) < 600 * share)
        assert fake.built[0].calls == calls
    index.search(query, 2100)
    assert fake.built[0].calls == 3, "600 rows are fewer than FAISS can select"


def test_a_plan_says_where_without_loading_anything(one_device: None, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"faiss-gpu": "1.15.1", "torch": "2.13.0"}
    monkeypatch.setattr(index_device, "_version", installed.get)
    assert planned_place("exact", 10, device="auto") == "numpy on the CPU"
    assert planned_place("sqfp16", 501, device="cpu") == "faiss on the CPU"
    assert planned_place("sqfp16", 501, device="auto") == "faiss on the GPU"
    del installed["faiss-gpu"]
    monkeypatch.setattr(util, "find_spec", lambda name: object())
    assert planned_place("sqfp16", 501, device="auto") == "torch on the GPU"
    installed["torch"] = "2.13.0+cpu"
    assert planned_place("sqfp16", 501, device="auto") == "faiss on the CPU"


class Driver:
    """NVIDIA's library with two devices, the second of which cannot be asked."""

    def __init__(self, *, ready: bool = True) -> None:
        self._ready = ready

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return 0 if self._ready else 100

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = 2
        return 0

    def cuDeviceGet(self, device: Any, number: int) -> int:  # noqa: N802
        device._obj.value = number
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:  # noqa: N802
        name.value = b"Some Card"
        return 0

    def cuDeviceTotalMem_v2(self, memory: Any, device: Any) -> int:  # noqa: N802
        memory._obj.value = 80 * 10**9
        return int(device.value)


def test_the_driver_is_asked_for_names_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    assert cuda_devices.cuda_devices() == (CudaDevice("Some Card", 80 * 10**9),)
    assert str(cuda_devices.cuda_devices()[0]) == "Some Card (80 GB)"


def test_no_driver_and_one_that_does_not_start_mean_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(ready=False))
    assert cuda_devices.cuda_devices() == ()
    cuda_devices.cuda_devices.cache_clear()

    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert cuda_devices.cuda_devices() == ()


def test_a_collection_in_a_program_searches_on_the_device_of_the_settings(
    tmp_path: Path, tiny_model_dir: Path, one_device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_faiss(monkeypatch, GpuFaiss())
    monkeypatch.setattr(index_device, "_FEWEST_ROWS", {"cuda": 0})
    (tmp_path / "notes").mkdir()
    for colour in ("red", "green", "blue"):
        (tmp_path / "notes" / f"{colour}.txt").write_text(colour, encoding="utf-8")
    found = {}
    for device in ("cpu", "cuda"):
        settings = Settings(model=str(tiny_model_dir), workers=1, threads=1, device=device)
        with Collection.open(tmp_path / "collection", settings=settings) as collection:
            collection.add([tmp_path / "notes"])
            found[device] = [(hit.text, hit.similarity) for hit in collection.search("green", to="texts")]
            (segment,) = collection._current_snapshot().segments
            assert isinstance(segment.index, RefinedIndex) == (device == "cuda")
    assert len(found["cuda"]) == 3
    assert found["cuda"] == found["cpu"]


def test_what_is_on_a_device_stays_there_when_a_photo_is_added_and_goes_with_the_collection(
    tmp_path: Path, tiny_model_dir: Path, one_device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = GpuFaiss()
    with_faiss(monkeypatch, fake)
    monkeypatch.setattr(index_device, "_FEWEST_ROWS", {"cuda": 3})
    (tmp_path / "notes").mkdir()
    settings = Settings(model=str(tiny_model_dir), workers=1, threads=1, device="cuda")
    gc.disable()
    try:
        with Collection.open(tmp_path / "collection", settings=settings) as collection:
            for number in range(12):
                note = tmp_path / "notes" / f"{number}.txt"
                note.write_text(f"red {number}", encoding="utf-8")
                # So old that it need not be read again.
                os.utime(note, (1e9, 1e9))
                if number >= 10:
                    collection.add([tmp_path / "notes"])
                    assert len(collection.search("red", to="texts", k=20)) == number + 1
            assert len(fake.built) == 1
            held = weakref.ref(fake.built.pop())
            assert held() is not None
        assert held() is None, "without waiting for Python to look for cycles"
    finally:
        gc.enable()


def test_one_query_from_the_command_line_touches_neither_torch_nor_a_device(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    """Even where the settings ask for one: both would take longer than the search."""
    script = (
        "import sys\n"
        "from mmsearch.cli.quick import run_quickly\n"
        "code = run_quickly(['query', 'red'])\n"
        "loaded = {'torch', 'mmsearch.index_device', 'mmsearch.cuda_devices'} & set(sys.modules)\n"
        "sys.exit(f'{code} {loaded}' if code or 'torch' in loaded or 'mmsearch.index_device' in loaded else 0)\n"
    )
    environment = {**os.environ, "MMSEARCH_DEVICE": "cuda", "MMSEARCH_MODEL": str(tiny_model_dir)}
    environment |= {"MMSEARCH_COLLECTION": str(tmp_path / "collection")}
    (tmp_path / "notes.txt").write_text("red", encoding="utf-8")
    index = [sys.executable, "-m", "mmsearch", "index", str(tmp_path / "notes.txt")]
    subprocess.run(index, check=True, env=environment, capture_output=True)
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
