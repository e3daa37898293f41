"""Keeps what the image tower knows from ImageNet within reach of words, beyond the few objects the captions name.

Two small terms over a random sample of the 1000 class names, with the classifier that came with the tower as teacher:
the image embedding must rank class names as the classifier ranks classes (distillation, Hinton et al. 2015, arXiv
1503.02531), and a photo whose spatial tokens are pushed along a class's classifier row must match that class's name.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mmsearch.errors import ModelError
from mmsearch.training.dual_encoder import DualEncoder
from mmsearch.training.losses import hard_negatives, itc_loss, itm_loss, spread
from mmsearch.training.starting_weights import packaged_file
from mmsearch.training.word_pieces import WordPieces

NAMES_PACKAGE = "open_clip_torch"  # read as text, never imported
PROMPTS = ("{}", "a photo of a {}")
CLASSES = 1000


@dataclass(frozen=True)
class KnowledgeConfig:
    """How strongly, and over how many class names a step."""

    share: float = 0.1  # weight of each of the two terms beside the ITC loss
    sampled: int = 96  # half of them classes that the classifier sees in the batch, half any
    push: float = 8.0  # what the pushed tokens add to the classifier's logit, about a confident photo's


@dataclass(frozen=True)
class Knowledge:
    """The classifier's view: its logits float32 (N, 1000) of the training photos, its unit rows and norms, the prompts.

    `prompts` holds `PROMPTS[0]` for all classes, then `PROMPTS[1]` for all classes.
    """

    logits: Tensor
    rows: Tensor
    norms: Tensor
    prompts: WordPieces
    config: KnowledgeConfig


def imagenet_class_names() -> list[str]:
    """Return the 1000 ImageNet class names in index order, out of the source of the installed `open_clip_torch`.

    Raises:
        MissingExtra: the package is not installed.
        ModelError: it does not hold 1000 names where expected.
    """
    source = packaged_file(NAMES_PACKAGE, "zero_shot_metadata.py").read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "IMAGENET_CLASSNAMES":
            names = [str(name) for name in ast.literal_eval(node.value)]
            if len(names) == CLASSES:
                return names
    raise ModelError(f"{NAMES_PACKAGE} holds no list of {CLASSES} names IMAGENET_CLASSNAMES; install version 3.3.0")


def centred_rows(classifier: Tensor) -> tuple[Tensor, Tensor]:
    """Return unit rows (1000, 1280) of `classifier` without their common mean, and their norms (1000,)."""
    centred = classifier - classifier.mean(0)
    norms = centred.norm(dim=1)
    return centred / norms[:, None], norms


def sample_classes(knowledge: Knowledge, images: Tensor, rng: np.random.Generator) -> Tensor:
    """Return distinct class indices: drawn from the classifier's posterior of some `images`, and uniformly."""
    half = knowledge.config.sampled // 2
    seen = torch.softmax(knowledge.logits[images[:half]], dim=1).cumsum(1)
    drawn = (seen < torch.from_numpy(rng.random((len(seen), 1), dtype=np.float32))).sum(1).clamp(max=CLASSES - 1)
    distinct: Tensor = torch.unique(torch.cat([drawn, torch.from_numpy(rng.integers(0, CLASSES, half))]))
    return distinct


def same_names(knowledge: Knowledge, classes: Tensor) -> Tensor:
    """Return the bool (K, K) of which `classes` (K,) have one name: ImageNet has two of sunglasses, two of missiles."""
    names = knowledge.prompts.ids[classes]
    same: Tensor = (names[:, None] == names[None, :]).all(-1)
    return same


def pushed_tokens(tokens: Tensor, knowledge: Knowledge, classes: Tensor, rng: np.random.Generator) -> Tensor:
    """Return (K, N, 1280) of `tokens` (B, N, 1280), half of the positions pushed along the rows of `classes` (K,)."""
    base = tokens[torch.arange(len(classes)) % len(tokens)].detach().float()
    where = torch.from_numpy(rng.random((len(base), base.shape[1], 1)) < 0.5).to(base.device)
    length = 2 * knowledge.config.push / knowledge.norms[classes]
    step = (knowledge.rows[classes] * length[:, None]).to(base.device)
    pushed: Tensor = (base + where * step[:, None, :]).clamp(0.0, 6.0)
    return pushed


def knowledge_loss(
    model: DualEncoder,
    knowledge: Knowledge,
    images: Tensor,
    states: tuple[Tensor, Tensor],
    drawing: tuple[np.random.Generator, torch.Generator],
) -> Tensor:
    """Return the weighted sum of the terms, a scalar; with a matching head, it too has to tell the names apart.

    Args:
        images: int64 (B,), rows of `knowledge.logits`.
        states: the image tower's map (B, N, 1280) and embeddings (B, D) of the same images.
        drawing: where random numbers come from, for classes and for negatives.
    """
    tower_map, embeddings = states
    rng, generator = drawing
    device = embeddings.device
    classes = sample_classes(knowledge, images, rng)
    prompts = classes + CLASSES * torch.from_numpy(rng.integers(0, len(PROMPTS), len(classes)))
    ids, mask = (each.to(device) for each in knowledge.prompts.batch(prompts))
    words = model.text_tower(ids, mask)
    names = model.text_head(words, mask.bool())
    pushed_map = pushed_tokens(tower_map, knowledge, classes, rng)
    pushed = model.embed_image_tokens(pushed_map)
    scale = model.logit_scale.detach()
    posterior = torch.softmax(knowledge.logits[images][:, classes], dim=1).to(device)
    distilled = -(posterior * functional.log_softmax(scale * embeddings @ names.t(), dim=1)).sum(1).mean()
    matches = same_names(knowledge, classes).to(device)
    own = spread(matches)
    logits = scale * pushed @ names.t()
    total = distilled + itc_loss(logits, own, own)
    if model.matcher is not None and model.projector is not None:
        tokens = model.projector(pushed_map)
        every = torch.arange(len(tokens), device=device)
        wrong, _ = hard_negatives(logits.detach(), matches, generator)
        found = model.matcher(
            tokens.repeat(2, 1, 1), words[torch.cat([every, wrong])], mask.bool()[torch.cat([every, wrong])]
        )
        aligned = model.matcher.log_scale.detach().exp() * model.matcher.alignments(tokens, words, mask.bool())
        total = total + itc_loss(aligned, own, own)
        total = total + itm_loss(found, torch.cat([torch.ones(len(every)), torch.zeros(len(every))]).to(device))
    return knowledge.config.share * total
