"""Encoder: pictures and sentences a second of an open_clip model, exported to ONNX, against open_clip itself in torch.

The baseline is what a script would do: open_clip's own towers in eager mode, sentences padded to the model's whole
length as its tokenizer pads them, in float32 and under bfloat16 autocast. Ours are what the product runs on a CPU: the
same towers in torch, in float32 and with weights in bfloat16, and the model as `mmsearch models export` writes it, in
float32 and in int8. How near each of ours is to the baseline in float32 stands beside the times: the smallest cosine
between their embeddings. Pixels and tokens are at hand: decoding and tokenizing are not timed. Weights are random
unless `--model` names an open_clip model; what they are does not change the time, and hardly the cosines.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from mmsearch.errors import UsageError
from mmsearch.eval.bench.request import BenchRequest
from mmsearch.eval.bench.result import BenchResult, Cell
from mmsearch.eval.bench.timing import Ratio, Sample, alternate, in_process, median_cpu_ms, median_ms, paired_ratio
from mmsearch.model import Model
from mmsearch.model_manifest import ModelManifest, load_model_manifest
from mmsearch.openclip import import_open_clip, load_openclip
from mmsearch.openclip_config import CONFIG_FILE, WEIGHTS_FILE
from mmsearch.settings import load_settings
from mmsearch.training.clip_export import export_model

DEFAULT_SIZE, DEFAULT_ROUNDS = 16, 7
ARCHITECTURE = "ViT-B-32"
PLAIN, AUTOCAST = "open_clip in torch, float32", "open_clip in torch, bfloat16 autocast"
TORCH, BFLOAT = "product in torch, float32", "product in torch, bfloat16"
ONNX, INT8 = "product in ONNX, float32", "product in ONNX, int8"
SENTENCE = "two dogs run across a field with a red ball in the afternoon"
_SEED = 7

Floats = npt.NDArray[np.float32]
Call = Callable[[], Floats]


def run(request: BenchRequest) -> BenchResult:
    """Return the time of a batch of pictures and of one of sentences, for each contestant."""
    with request.workplace() as work:
        manifest = _manifest(request, work)
        return measure(manifest, request, work=work)


def measure(manifest: ModelManifest, request: BenchRequest, *, work: Path) -> BenchResult:
    """Return the same for the open_clip model of `manifest`; exported models are written into `work`."""
    size, rounds = request.size or DEFAULT_SIZE, request.rounds or DEFAULT_ROUNDS
    threads = request.threads or load_settings().thread_count
    torch.set_num_threads(threads)
    images, texts = _baselines(manifest, size)
    for name, model in _products(manifest, threads, work=work).items():
        images[name], texts[name] = _images(model, size), _texts(model, size)
    rows: list[tuple[Cell, ...]] = []
    ratios: dict[str, Ratio] = {}
    for kind, calls in (("pictures", images), ("sentences", texts)):
        exact = calls[PLAIN]()
        near = {name: _smallest_cosine(call(), exact) for name, call in calls.items()}
        samples = alternate({name: in_process(call) for name, call in calls.items()}, rounds)
        rows += [(kind, name, *_times(taken, size), f"{near[name]:.6f}") for name, taken in samples.items()]
        for name in (TORCH, BFLOAT, ONNX, INT8):
            for baseline in (PLAIN, AUTOCAST):
                ratios[f"{kind}: {name} / {baseline}"] = paired_ratio(samples[name], samples[baseline])
        for name in (TORCH, BFLOAT):
            ratios[f"{kind}: {ONNX} / {name}"] = paired_ratio(samples[ONNX], samples[name])
    return BenchResult(
        name="encoder",
        columns=("what", "way", "wall ms a batch", "CPU ms a batch", "a second", "smallest cosine"),
        rows=tuple(rows),
        ratios=ratios,
        notes=(f"{manifest.name}; batches of {size}; {threads} threads; sentence: '{SENTENCE}'",),
    )


def _products(manifest: ModelManifest, threads: int, *, work: Path) -> dict[str, Model]:
    """Return the product's ways to run the model of `manifest`; what it exports for them is written into `work`."""
    ways = {
        TORCH: Model(manifest, threads=threads, device="cpu", precision="fp32"),
        BFLOAT: Model(manifest, threads=threads, device="cpu", precision="bf16"),
    }
    for name, int8 in ((ONNX, False), (INT8, True)):
        written = export_model(manifest, work / f"exported-{'int8' if int8 else 'float32'}", int8=int8)
        ways[name] = Model(written, threads=threads, device="cpu")
    return ways


def _manifest(request: BenchRequest, work: Path) -> ModelManifest:
    """Return the model that was asked for; by default one of random weights, which it writes."""
    if request.model == "mini":
        return load_model_manifest(_random_model(work / f"random-{ARCHITECTURE}"))
    manifest = load_model_manifest(request.model)
    if manifest.runtime != "open_clip":
        raise UsageError(f"--model is '{request.model}', an ONNX model: expected one that open_clip runs")
    return manifest


def _random_model(directory: Path) -> Path:
    """Write ViT-B-32 with random weights into `directory`, as the hub has models; return `directory`."""
    open_clip = import_open_clip()
    described: dict[str, Any] = open_clip.get_model_config(ARCHITECTURE)
    torch.manual_seed(_SEED)
    weights = open_clip.CLIP(**described).state_dict()
    directory.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in weights.items()}, directory / WEIGHTS_FILE)
    config = {"model_cfg": described, "preprocess_cfg": {}}
    (directory / CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")
    return directory


def _baselines(manifest: ModelManifest, size: int) -> tuple[dict[str, Call], dict[str, Call]]:
    """Return open_clip's own ways with pictures, and with sentences."""
    clip = load_openclip(manifest)
    pixels = torch.from_numpy(_pixels(manifest, size))
    mean, std = (torch.tensor(each).reshape(1, 3, 1, 1) for each in (manifest.mean, manifest.std))
    found, _ = Model(manifest, threads=1).tokenizer.encode([SENTENCE] * size)
    ids = functional.pad(torch.from_numpy(found), (0, manifest.max_tokens - found.shape[1]))

    def images() -> Tensor:
        found: Tensor = clip.encode_image((pixels.float() / 255 - mean) / std, normalize=True)
        return found

    def texts() -> Tensor:
        found: Tensor = clip.encode_text(ids, normalize=True)
        return found

    return {PLAIN: _plain(images), AUTOCAST: _cast(images)}, {PLAIN: _plain(texts), AUTOCAST: _cast(texts)}


def _plain(call: Callable[[], Tensor]) -> Call:
    @torch.inference_mode()
    def plain() -> Floats:
        return call().numpy()

    return plain


def _cast(call: Callable[[], Tensor]) -> Call:
    # Not `inference_mode`: there autocast keeps no weight that it has converted, and converts each at every use.
    @torch.no_grad()
    def cast() -> Floats:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return call().float().numpy()

    return cast


def _images(model: Model, size: int) -> Call:
    pixels = _pixels(model.manifest, size)
    return lambda: model.encoder.encode_pixels(pixels)


def _texts(model: Model, size: int) -> Call:
    ids, mask = model.tokenizer.encode([SENTENCE] * size)
    return lambda: model.encoder.encode_tokens(ids, mask)


def _pixels(manifest: ModelManifest, size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    shape = (size, 3, manifest.preprocess.height, manifest.preprocess.width)
    return np.random.default_rng(_SEED).integers(0, 256, shape, dtype=np.uint8)


def _smallest_cosine(one: Floats, other: Floats) -> float:
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)  # autocast gives lengths of 0.998 to 1.002
    return float(((one * other).sum(1) / lengths).min())


def _times(samples: list[Sample], size: int) -> tuple[Cell, ...]:
    wall = median_ms(samples)
    return wall, median_cpu_ms(samples), 1000 * size / wall
