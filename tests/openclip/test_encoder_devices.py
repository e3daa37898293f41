"""Where a model runs and in what precision: chosen by settings, never part of what a collection is built with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from openclip_models import CONFIGS

from mmsearch.errors import UsageError
from mmsearch.model import Model, load_model
from mmsearch.openclip_encoder import Compute, resolved
from mmsearch.settings import Settings, load_settings

TEXTS = ["a photo of a red dog", "blue beach", "the cat on the green beach"]


def loaded(model: Model) -> torch.dtype:
    model.load(images=True, texts=True)
    towers = model.encoder._towers  # type: ignore[attr-defined]
    assert towers is not None
    dtypes: set[torch.dtype] = {next(tower.parameters()).dtype for tower in towers}
    assert len(dtypes) == 1
    return dtypes.pop()


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize(("precision", "cosine"), [("bf16", 0.999), ("fp16", 0.9999)])
def test_half_precision_is_near_full_precision(
    openclip_dirs: dict[str, Path], kind: str, precision: str, cosine: float
) -> None:
    import numpy as np

    full = load_model(openclip_dirs[kind], threads=1, device="cpu", precision="fp32")
    half = load_model(openclip_dirs[kind], threads=1, device="cpu", precision=precision)
    size = (3, 3, full.preprocess.height, full.preprocess.width)
    pixels = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    assert loaded(half) == {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert half.fingerprint == full.fingerprint
    assert (full.encoder.encode_pixels(pixels) * half.encoder.encode_pixels(pixels)).sum(axis=1).min() > cosine
    assert (full.encode_texts(TEXTS) * half.encode_texts(TEXTS)).sum(axis=1).min() > cosine


def test_the_cpu_computes_in_full_precision_unless_told_otherwise() -> None:
    assert resolved(Compute(1, "cpu")) == (torch.device("cpu"), torch.float32)
    assert resolved(Compute(1, "cpu", "bf16"))[1] == torch.bfloat16


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_there_is_refused(openclip_dirs: dict[str, Path]) -> None:
    model = load_model(openclip_dirs["vit"], threads=1, device="cuda")
    with pytest.raises(UsageError, match=r"device is cuda: torch .* sees no such device here; choose auto or cpu"):
        model.encode_texts(["a"])
    assert resolved(Compute(1)) in ((torch.device("cpu"), torch.float32), (torch.device("mps"), torch.float32))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_embeddings_of_the_cpu(openclip_dirs: dict[str, Path]) -> None:
    wanted = load_model(openclip_dirs["vit"], threads=1, device="cpu").encode_texts(TEXTS)
    for precision, cosine in (("fp32", 0.9999), ("bf16", 0.999), ("fp16", 0.9999), ("auto", 0.999)):
        found = load_model(openclip_dirs["vit"], threads=1, device="cuda", precision=precision).encode_texts(TEXTS)
        assert (wanted * found).sum(axis=1).min() > cosine


def test_settings_choose_device_and_precision(openclip_dirs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMSEARCH_DEVICE", "cpu")
    monkeypatch.setenv("MMSEARCH_PRECISION", "bf16")
    assert loaded(load_model(openclip_dirs["vit"], threads=1)) == torch.bfloat16
    assert loaded(load_model(openclip_dirs["vit"], threads=1, precision="fp32")) == torch.float32


@pytest.mark.parametrize(("name", "value"), [("precision", "int8"), ("device", "tpu")])
def test_another_device_or_precision_is_refused(
    openclip_dirs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    with pytest.raises(UsageError, match=f"{name} is '{value}': expected one of auto, "):
        load_model(openclip_dirs["vit"], **{name: value})  # type: ignore[arg-type]
    monkeypatch.setenv(f"MMSEARCH_{name.upper()}", value)
    with pytest.raises(UsageError, match=f"{name} is '{value}'"):
        load_settings()


def test_the_settings_file_may_name_them_too(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('device = "cuda"\nprecision = "fp16"\n')
    assert load_settings({}, config=tmp_path / "config.toml") == Settings(device="cuda", precision="fp16")
