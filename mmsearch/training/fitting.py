"""The training loop: a starting dual encoder and cached features in, the averaged weights out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mmsearch.training.batches import BatchConfig, Batches, Dataset, Rows, as_map
from mmsearch.training.class_knowledge import Knowledge, knowledge_loss
from mmsearch.training.dual_encoder import DualEncoder
from mmsearch.training.features import EarlyMaps
from mmsearch.training.losses import itc_loss
from mmsearch.training.towers import EARLY_STAGES
from mmsearch.training.validation import Recalls, recalls
from mmsearch.training.weight_average import WeightAverage
from mmsearch.training.word_pieces import WordPieces

Log = Callable[[str], None]
_TEXT_CHUNKS = 4  # captions are sorted by length and cut in four, so that one long caption does not pad all the others


@dataclass(frozen=True)
class FitConfig:
    """How to train. Learning rates are the peaks of a cosine schedule with a short linear rise."""

    epochs: int = 12  # that the cosine schedule spans
    stop_after: int = 12  # epochs that are run of it
    head_rate: float = 1e-3
    image_rate: float = 1.5e-4
    text_rate: float = 1e-4
    weight_decay: float = 0.05
    clip: float = 2.0
    warm_epochs: float = 1.0  # only the heads learn at first; random heads would send noise into the towers
    average_decay: float = 0.99  # of the average of the weights, a step
    validate_every: int = 4  # epochs
    seed: int = 0
    batches: BatchConfig = field(default_factory=BatchConfig)


@torch.no_grad()
def encode_captions(model: DualEncoder, pieces: WordPieces, batch: int = 250) -> npt.NDArray[np.float32]:
    """Return float32 embeddings (T, D) of all `pieces`, in their order."""
    order = torch.argsort(pieces.lengths)
    parts = []
    for start in range(0, len(order), batch):
        with torch.autocast("cpu", torch.bfloat16):
            parts.append(model.embed_texts(*pieces.batch(order[start : start + batch])))
    embeddings: npt.NDArray[np.float32] = torch.cat(parts)[torch.argsort(order)].numpy()
    return embeddings


@torch.no_grad()
def encode_maps(model: DualEncoder, maps: EarlyMaps, batch: int = 128) -> npt.NDArray[np.float32]:
    """Return float32 embeddings (N, D) of cached early maps."""
    parts = []
    for start in range(0, len(maps), batch):
        with torch.autocast("cpu", torch.bfloat16):
            parts.append(model.embed_image_tokens(model.image_tower.late(as_map(maps[start : start + batch]))))
    embeddings: npt.NDArray[np.float32] = torch.cat(parts).numpy()
    return embeddings


def validate(model: DualEncoder, data: Dataset) -> Recalls:
    """Return the recalls of `model` on the first view of `data`."""
    model.eval()
    return recalls(encode_maps(model, data.views[0]), encode_captions(model, data.pieces), data.captions.image_of)


def freeze(model: DualEncoder, config: FitConfig) -> None:
    """Stop gradients where nothing is to be learned: the cached half, the word table, towers with a rate of 0."""
    tower = model.image_tower
    tower.requires_grad_(config.image_rate > 0)
    tower.stem.requires_grad_(False)
    tower.stages[:EARLY_STAGES].requires_grad_(False)
    model.text_tower.requires_grad_(config.text_rate > 0)
    model.text_tower.word_embeddings.requires_grad_(False)


def parameter_groups(model: DualEncoder, config: FitConfig) -> list[dict[str, Any]]:
    """Return optimizer groups of what `freeze` left learning: heads and towers at their own rates, biases undecayed."""
    rates = {"image_tower": config.image_rate, "text_tower": config.text_rate}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = rates.get(name.split(".")[0], config.head_rate)
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": p, "lr": rate, "peak": rate, "weight_decay": d} for (rate, d), p in groups.items()]


class _Loop:
    """One training run: what a step needs, and how far it has come."""

    def __init__(self, model: DualEncoder, train: Dataset, config: FitConfig, knowledge: Knowledge | None) -> None:
        self.model, self.config, self.knowledge = model, config, knowledge
        self.batches = Batches(train, config.batches, np.random.default_rng(config.seed))
        self.optimizer = torch.optim.AdamW(parameter_groups(model, config))
        self.average = WeightAverage(model, config.average_decay)
        self.warm_steps = int(config.warm_epochs * self.batches.steps)
        self.step_number, self.last_step = 0, config.epochs * self.batches.steps

    def set_rates(self) -> None:
        """Set every group's rate: a cosine over the run, with a linear rise of half a pass once the group learns."""
        cosine = 0.5 * (1 + math.cos(math.pi * self.step_number / self.last_step))
        for group in self.optimizer.param_groups:
            start = self.warm_steps if group["peak"] != self.config.head_rate else 0
            rise = (self.step_number - start + 1) / max(1.0, self.batches.steps / 2)
            group["lr"] = group["peak"] * min(1.0, max(0.0, rise)) * cosine

    def loss(self, images: Rows) -> Tensor:
        """Return the loss of one batch, a scalar."""
        model, batches = self.model, self.batches
        rows, owners = batches.captions(images)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.set_grad_enabled(self.step_number >= self.warm_steps):
                tokens = model.image_tower.late(batches.maps(images))
                words = [batches.words(part) for part in rows.chunk(_TEXT_CHUNKS)]
                states = [(model.text_tower(ids, mask), mask.bool()) for ids, mask in words]
            image_embeddings = model.embed_image_tokens(tokens)
            text_embeddings = torch.cat([model.text_head(s, mask) for s, mask in states])
        logits = model.logit_scale * image_embeddings @ text_embeddings.t()
        loss = itc_loss(logits, *batches.targets(images, rows, owners))
        if self.knowledge is not None:
            seen = (tokens, image_embeddings)
            loss = loss + knowledge_loss(model, self.knowledge, torch.from_numpy(images), seen, batches.rng)
        return loss

    def step(self, images: Rows) -> float:
        """Learn from one batch; return its loss."""
        self.set_rates()
        loss = self.loss(images)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.requires_grad], self.config.clip)
        self.optimizer.step()
        self.average.update(self.model)
        self.step_number += 1
        return float(loss.detach())


def fit(
    model: DualEncoder,
    data: tuple[Dataset, Dataset],
    config: FitConfig,
    *,
    log: Log,
    knowledge: Knowledge | None = None,
) -> DualEncoder:
    """Return the averaged weights after training `model` in place.

    Args:
        data: the training and the validation set; the second only steers what `log` is told.
        log: receives one line an epoch.
        knowledge: what the image tower's classifier says of the training photos, to be kept.

    Raises:
        DatasetError: the training set is too small for a batch.
    """
    torch.manual_seed(config.seed)
    freeze(model, config)
    loop, start = _Loop(model, data[0], config, knowledge), time.monotonic()
    last = min(config.stop_after, config.epochs)
    for epoch in range(1, last + 1):
        model.train()
        losses = [loop.step(images) for images in loop.batches.epoch()]
        line = f"epoch {epoch} loss {np.mean(losses):.3f} scale {float(model.logit_scale.detach()):.1f}"
        if epoch % config.validate_every == 0 or epoch == last:
            line += f" | {validate(loop.average.model, data[1])}"
        log(f"{line} ({time.monotonic() - start:.0f} s)")
    return loop.average.model
