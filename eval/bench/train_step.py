"""Train step: one step of the product's training, against the same step written plainly.

The product caches what the frozen early half of the image tower says of each photo, freezes what has nothing to learn,
and computes in bfloat16 where the processor is quick at it. The plain step does none of that: pixels through the whole
tower, every weight learns, float32. Both have the contrastive loss alone, the same sizes and the same optimizer. Model
and inputs are random: what is measured is time, and nothing is learned. The product's full step, with the matching
head, stands beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from mmsearch.eval.bench.request import BenchRequest
from mmsearch.eval.bench.result import BenchResult, Cell
from mmsearch.eval.bench.timing import Sample, alternate, in_process, median_cpu_ms, median_ms, paired_ratio
from mmsearch.training.batches import BatchConfig, Dataset
from mmsearch.training.captions import CaptionedImages
from mmsearch.training.dual_encoder import DualConfig, DualEncoder
from mmsearch.training.fitting import FitConfig, Loop, freeze
from mmsearch.training.objectives import Objectives
from mmsearch.training.towers import LITE_CONFIGS, EfficientNetLite, ImageTowerConfig, MiniLM, TextTowerConfig
from mmsearch.training.word_pieces import WordPieces

DEFAULT_SIZE, DEFAULT_ROUNDS = 64, 5
OURS, FULL, PLAIN = "product, contrastive loss", "product, all default losses", "plain torch, contrastive loss"
_SEED = 3


@dataclass(frozen=True, slots=True)
class TrainShape:
    """Sizes of what is trained. The defaults are those of the model that mmsearch trains."""

    image: ImageTowerConfig = LITE_CONFIGS["lite0"]
    text: TextTowerConfig = field(default_factory=TextTowerConfig)
    dual: DualConfig = field(default_factory=DualConfig)
    side: int = 224  # pixels
    words: int = 16  # a caption
    captions: int = 2  # a photo


def run(request: BenchRequest) -> BenchResult:
    """Return the time of one step of `request.size` photos."""
    return measure(request, TrainShape())


def measure(request: BenchRequest, shape: TrainShape) -> BenchResult:
    """Return the time of one step of a model and inputs of that shape."""
    images, rounds = request.size or DEFAULT_SIZE, request.rounds or DEFAULT_ROUNDS
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    torch.manual_seed(_SEED)
    contestants = {
        OURS: in_process(_product_step(shape, images, Objectives(itm=0.0))),
        PLAIN: in_process(_plain_step(shape, images)),
        FULL: in_process(_product_step(shape, images, Objectives())),
    }
    samples = alternate(contestants, rounds)
    return BenchResult(
        name="train-step",
        columns=("step", "wall ms", "CPU ms", "photos a second"),
        rows=tuple(_row(name, taken, images) for name, taken in samples.items()),
        ratios={f"{name} / {PLAIN}": paired_ratio(samples[name], samples[PLAIN]) for name in (OURS, FULL)},
        notes=(
            f"{images} photos of {shape.side} px with {shape.captions} captions of {shape.words} tokens each, random;"
            f" {torch.get_num_threads()} threads",
            "making the cache is not in the step: it is one pass of the early half over the photos, once for each view",
        ),
    )


def _model(shape: TrainShape) -> DualEncoder:
    return DualEncoder(EfficientNetLite(shape.image), MiniLM(shape.text), shape.dual).train()


def _product_step(shape: TrainShape, images: int, objectives: Objectives) -> Callable[[], object]:
    model = _model(shape)
    config = FitConfig(
        warm_epochs=0.0,
        objectives=objectives,
        batches=BatchConfig(images=images, captions_per_image=shape.captions),
    )
    freeze(model, config)
    loop = Loop(model, _dataset(model, shape, images), config, None)
    batch = np.arange(images)
    return lambda: loop.step(batch)


def _plain_step(shape: TrainShape, images: int) -> Callable[[], object]:
    model = _model(shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    pixels = torch.randint(0, 256, (images, 3, shape.side, shape.side), dtype=torch.uint8)
    ids, mask = _ids(shape, images * shape.captions), torch.ones(images * shape.captions, shape.words).long()
    owners = torch.arange(images).repeat_interleave(shape.captions)

    def step() -> None:
        photos = model.embed_image_tokens(model.image_tower(pixels))
        logits = model.logit_scale * photos @ model.embed_texts(ids, mask).t()
        targets = functional.one_hot(owners, images).float().t() / shape.captions
        loss = functional.cross_entropy(logits, targets) + functional.cross_entropy(logits.t(), owners)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()

    return step


def _dataset(model: DualEncoder, shape: TrainShape, images: int) -> Dataset:
    count = images * shape.captions
    with torch.no_grad():
        pixels = torch.randint(0, 256, (images, 3, shape.side, shape.side), dtype=torch.uint8)
        early = model.image_tower.early(pixels).permute(0, 2, 3, 1).contiguous().numpy().astype(np.float16)
    pieces = WordPieces(_ids(shape, count), torch.full((count,), shape.words))
    names = tuple(f"caption {number}" for number in range(count))
    captions = CaptionedImages(
        tuple(Path(f"{number}.jpg") for number in range(images)), names, np.arange(count) // shape.captions
    )
    return Dataset([early], pieces, captions, functional.normalize(torch.randn(count, 8), dim=-1))


def _ids(shape: TrainShape, count: int) -> torch.Tensor:
    return torch.randint(5, shape.text.vocabulary, (count, shape.words))


def _row(name: str, samples: list[Sample], images: int) -> tuple[Cell, ...]:
    wall = median_ms(samples)
    return name, wall, median_cpu_ms(samples), 1000 * images / wall
