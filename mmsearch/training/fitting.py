"""The training loop: a starting dual encoder and cached features in, the averaged weights out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mmsearch.training.batches import BatchConfig, Batches, Dataset, Rows, as_input
from mmsearch.training.cached_gradients import CachedGradients
from mmsearch.training.class_knowledge import Knowledge, knowledge_loss
from mmsearch.training.dual_encoder import DualEncoder
from mmsearch.training.features import Views
from mmsearch.training.masked_modelling import MaskedModelling
from mmsearch.training.objectives import (
    Objectives,
    Run,
    alignment_loss,
    at_once,
    contrast_loss,
    masked_losses,
    matching_loss,
    one_caption_each,
    see,
)
from mmsearch.training.two_towers import TwoTowers
from mmsearch.training.validation import Recalls, recalls
from mmsearch.training.weight_average import WeightAverage
from mmsearch.training.word_pieces import WordPieces

Log = Callable[[str], None]
Model = TypeVar("Model", bound=TwoTowers)


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
    micro_batch: int | None = None  # photos, and captions, that go through the towers at once; None for all
    objectives: Objectives = field(default_factory=Objectives)
    batches: BatchConfig = field(default_factory=BatchConfig)


def autocast(model: TwoTowers) -> torch.autocast:
    """Return the context in which `model` computes: bfloat16 where its device is quick at it, float32 elsewhere."""
    device = model.log_scale.device.type
    quick = (
        torch.cuda.is_bf16_supported(including_emulation=False)
        if device == "cuda"
        else torch.cpu._is_avx512_bf16_supported()
    )
    return torch.autocast(device, torch.bfloat16, enabled=quick)


@torch.no_grad()
def encode_captions(model: TwoTowers, pieces: WordPieces, batch: int = 250) -> npt.NDArray[np.float32]:
    """Return float32 embeddings (T, D) of all `pieces`, in their order."""
    order, device = torch.argsort(pieces.lengths), model.log_scale.device
    parts = []
    for start in range(0, len(order), batch):
        ids, mask = (each.to(device) for each in pieces.batch(order[start : start + batch]))
        with autocast(model):
            parts.append(model.embed_texts(ids, mask).cpu())
    embeddings: npt.NDArray[np.float32] = torch.cat(parts)[torch.argsort(order)].numpy()
    return embeddings


@torch.no_grad()
def encode_views(model: TwoTowers, views: Views, batch: int = 128) -> npt.NDArray[np.float32]:
    """Return float32 embeddings (N, D) of photos as they are cached."""
    parts = []
    for start in range(0, len(views), batch):
        seen = as_input(views[start : start + batch]).to(model.log_scale.device)
        with autocast(model):
            parts.append(model.look(seen, learn=False)[0].cpu())
    embeddings: npt.NDArray[np.float32] = torch.cat(parts).numpy()
    return embeddings


def validate(model: TwoTowers, data: Dataset) -> Recalls:
    """Return the recalls of `model` on the first view of `data`."""
    model.eval()
    return recalls(encode_views(model, data.views[0]), encode_captions(model, data.pieces), data.captions.image_of)


def freeze(model: TwoTowers, config: FitConfig) -> None:
    """Stop gradients where nothing is to be learned: in towers with a rate of 0, and what the model itself locks."""
    model.unlock(image=config.image_rate > 0, text=config.text_rate > 0)


def parameter_groups(model: TwoTowers, config: FitConfig) -> list[dict[str, Any]]:
    """Return optimizer groups of what `freeze` left learning: heads and towers at their own rates, biases undecayed."""
    rates = {"image": config.image_rate, "text": config.text_rate, None: config.head_rate}
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            side = model.side_of(name)
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rates[side], decay, side is not None), []).append(parameter)
    return [
        {"params": p, "lr": rate, "peak": rate, "weight_decay": d, "tower": tower}
        for (rate, d, tower), p in groups.items()
    ]


class Loop:
    """One training run: what a step needs, and how far it has come."""

    def __init__(self, model: TwoTowers, train: Dataset, config: FitConfig, knowledge: Knowledge | None) -> None:
        self.model, self.config, self.knowledge = model, config, knowledge
        self.rng = np.random.default_rng(config.seed)
        self.generator = torch.Generator().manual_seed(config.seed)  # on the CPU: it draws the same on every device
        self.batches = Batches(train, config.batches, self.rng)
        self.average = WeightAverage(model, config.average_decay)
        self.masked: MaskedModelling | None = None
        groups = parameter_groups(model, config)
        if config.objectives.masked:
            if model.config.fusion is None:
                raise ValueError("masked objectives need a model with a matching head: give DualConfig a fusion")
            self.masked = MaskedModelling(model.config.fusion).to(model.log_scale.device)
            groups += [{"params": list(self.masked.parameters()), "peak": config.head_rate, "tower": False}]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
        self.warm_steps = int(config.warm_epochs * self.batches.steps)
        self.step_number, self.last_step = 0, config.epochs * self.batches.steps
        self.epoch = 0  # the pass that is running or done, counted from 1
        self.todo: list[Rows] = []  # the photo rows of the steps that are left of it

    def set_rates(self) -> None:
        """Set every group's rate: a cosine over the run, with a linear rise of half a pass once the group learns."""
        cosine = 0.5 * (1 + math.cos(math.pi * self.step_number / self.last_step))
        for group in self.optimizer.param_groups:
            start = self.warm_steps if group["tower"] else 0
            rise = (self.step_number - start + 1) / max(1.0, self.batches.steps / 2)
            group["lr"] = group["peak"] * min(1.0, max(0.0, rise)) * cosine

    def losses(self, images: Rows, *, run: Run = at_once) -> dict[str, Tensor]:
        """Return the weighted losses of one batch, scalars by name; their sum is what is learned from."""
        model, batches, ask = self.model, self.batches, self.config.objectives
        losses: dict[str, Tensor] = {}
        with autocast(model):
            seen, rows = see(model, batches, images, towers_learn=self.step_number >= self.warm_steps, run=run)
            targets = batches.targets(images, rows, seen.matches.cpu())
            losses["itc"] = ask.itc * contrast_loss(model, seen, targets=targets, kind=ask.contrast)
            if ask.itm > 0 or ask.masked:
                tokens = model.match_tokens(seen.tower_map)
                picked = one_caption_each(seen.own, self.rng)
            if ask.itm > 0 and ask.align > 0:
                losses["align"] = ask.align * alignment_loss(model, seen, tokens=tokens, targets=targets)
            if ask.itm > 0:
                losses["itm"] = ask.itm * matching_loss(
                    model, seen, tokens=tokens, picked=picked, generator=self.generator
                )
            if self.masked is not None:
                chosen = tokens, picked, self.generator
                losses["masked"] = masked_losses(model, self.masked, seen=seen, chosen=chosen, ask=ask)
            if self.knowledge is not None and isinstance(model, DualEncoder):
                states, drawing = (seen.tower_map, seen.images), (self.rng, self.generator)
                losses["classes"] = knowledge_loss(model, self.knowledge, torch.from_numpy(images), states, drawing)
        return losses

    def step(self, images: Rows) -> dict[str, float]:
        """Learn from one batch; return its losses by name."""
        self.set_rates()
        parts: CachedGradients | None = None
        if self.config.micro_batch is not None:
            parts = CachedGradients(self.config.micro_batch, lambda: autocast(self.model))
        losses = self.losses(images, run=at_once if parts is None else parts.run)
        self.optimizer.zero_grad()
        torch.autograd.backward(torch.stack([loss.float() for loss in losses.values()]).sum())
        if parts is not None:
            parts.backward()
        learning = [p for group in self.optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(learning, self.config.clip)
        self.optimizer.step()
        self.average.update(self.model)
        self.step_number += 1
        return {name: float(loss.detach()) for name, loss in losses.items()}


class Watcher(Protocol):
    """Follows a run: shows it, saves it, or ends it by raising."""

    def begin(self, loop: Loop) -> None:
        """Before the first step; may put the state of an earlier run into `loop`."""

    def stepped(self, loop: Loop, losses: Mapping[str, float]) -> None:
        """After each step, with its weighted losses by name."""

    def passed(self, loop: Loop, losses: Mapping[str, float], recalls: Recalls | None) -> None:
        """After each pass: the mean losses of its steps that this process did, and recalls where they were measured."""


class Lines:
    """A watcher that writes one line a pass."""

    def __init__(self, log: Log) -> None:
        self.log, self.start = log, time.monotonic()

    def begin(self, loop: Loop) -> None:
        """Do nothing."""

    def stepped(self, loop: Loop, losses: Mapping[str, float]) -> None:
        """Do nothing."""

    def passed(self, loop: Loop, losses: Mapping[str, float], recalls: Recalls | None) -> None:
        """Write the line."""
        means = " ".join(f"{name} {value:.3f}" for name, value in losses.items())
        line = f"epoch {loop.epoch} {means} scale {float(loop.model.logit_scale.detach()):.1f}"
        measured = "" if recalls is None else f" | {recalls}"
        self.log(f"{line}{measured} ({time.monotonic() - self.start:.0f} s)")


def fit(
    model: Model,
    data: tuple[Dataset, Dataset],
    config: FitConfig,
    *,
    watcher: Watcher,
    knowledge: Knowledge | None = None,
) -> Model:
    """Return the averaged weights after training `model` in place.

    Args:
        data: the training and the validation set; the second only steers what `watcher` is told.
        watcher: is told of each step and pass; what it raises ends the run.
        knowledge: what the image tower's classifier says of the training photos, to be kept.

    Raises:
        DatasetError: the training set is too small for a batch.
    """
    torch.manual_seed(config.seed)
    freeze(model, config)
    loop = Loop(model, data[0], config, knowledge)
    watcher.begin(loop)
    last = min(config.stop_after, config.epochs)
    while loop.epoch < last or loop.todo:
        if not loop.todo:
            loop.epoch, loop.todo = loop.epoch + 1, loop.batches.epoch()
        losses = _pass(loop, watcher)
        measure = loop.epoch % config.validate_every == 0 or loop.epoch == last
        watcher.passed(loop, losses, validate(loop.average.model, data[1]) if measure else None)
    return cast(Model, loop.average.model)


def _pass(loop: Loop, watcher: Watcher) -> dict[str, float]:
    """Do the steps that are left of a pass; return their mean losses by name."""
    loop.model.train()
    sums: dict[str, float] = {}
    steps = len(loop.todo)
    while loop.todo:
        losses = loop.step(loop.todo.pop(0))
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + value / steps
        watcher.stepped(loop, losses)
    return sums
