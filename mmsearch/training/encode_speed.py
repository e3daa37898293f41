"""How fast a model encodes on one core, beside a yardstick timed in alternation.

    python -m mmsearch.training.encode_speed [--model mini] [--rounds 20]

The yardstick for photos is EfficientNet-Lite2 at 260 px in float32, without any head, in the same ONNX Runtime.
Medians of single calls; decoding is not included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor, nn

from mmsearch.errors import MMSearchError
from mmsearch.model import Model, load_model
from mmsearch.training.starting_weights import load_image_tower
from mmsearch.training.towers import EfficientNetLite
from mmsearch.training.tracing import traced

YARDSTICK, YARDSTICK_SIZE = "lite2", 260
SENTENCE = "two dogs run across a field with a red ball in the afternoon"
CANDIDATES = 20


class _Pooled(nn.Module):
    """The bare tower: pixels -> the mean of its map."""

    def __init__(self, tower: EfficientNetLite) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, pixels: Tensor) -> Tensor:
        pooled: Tensor = self.tower(pixels).mean(1)
        return pooled


def yardstick() -> Callable[[], object]:
    """Return a call that encodes one photo with the yardstick, on one thread."""
    tower, _, _ = load_image_tower(YARDSTICK)
    pixels = torch.zeros((2, 3, YARDSTICK_SIZE, YARDSTICK_SIZE), dtype=torch.uint8)
    graph = traced(_Pooled(tower), {"pixels": pixels}, {"pixels": {0: torch.export.Dim("batch")}}, outputs=("mean",))
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    one = pixels[:1].numpy()
    return lambda: session.run(None, {"pixels": one})


def calls(model: Model) -> dict[str, Callable[[], object]]:
    """Return what is timed of `model`, by name; rerank is of `CANDIDATES` photos whose tokens are at hand."""
    size = model.preprocess
    pixels = np.full((1, 3, size.height, size.width), 128, dtype=np.uint8)
    timed: dict[str, Callable[[], object]] = {
        "photo": lambda: model.encoder.encode_pixels_with_tokens(pixels),
        "sentence": lambda: model.encode_texts([SENTENCE]),
    }
    matcher, tokens = model.matcher, model.encoder.encode_pixels_with_tokens(pixels)[1]
    if matcher is not None and tokens is not None:
        text, many = model.encode_texts_with_states([SENTENCE]), np.repeat(tokens, CANDIDATES, axis=0)
        timed["rerank"] = lambda: matcher.logits(many, text.states, text.mask)
    return timed


def medians(timed: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median milliseconds of each call, one of each in turn, after two turns that do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for number in range(rounds + 2):
        for name, call in timed.items():
            started = time.perf_counter()
            call()
            if number >= 2:
                seconds[name].append(time.perf_counter() - started)
    return {name: 1000 * statistics.median(values) for name, values in seconds.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the medians as JSON; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m mmsearch.training.encode_speed", description=__doc__)
    parser.add_argument("--model", default="mini", help="a bundled model's name, or the directory of another one")
    parser.add_argument("--rounds", type=int, default=20)
    asked = parser.parse_args(arguments)
    try:
        timed = calls(load_model(asked.model, threads=1))
        found = medians({"yardstick": yardstick(), **timed}, asked.rounds)
    except MMSearchError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    report = {f"{name}_ms": round(value, 2) for name, value in found.items()}
    report["photo_speed_to_yardstick"] = round(found["yardstick"] / found["photo"], 2)
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
