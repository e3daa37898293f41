"""One batch through the towers, and what each objective makes of it: ITC, ITM, MLM, MIM.

The towers run once; the objectives share their states. Captions are read in a few groups of like length, so that one
long caption does not pad all the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor

from mmsearch.training.batches import Batches, Rows
from mmsearch.training.dual_encoder import DualEncoder
from mmsearch.training.losses import hard_negatives, itc_loss, itm_loss, max_hinge_loss, sigmoid_loss
from mmsearch.training.masked_modelling import MaskedModelling, mask_places, mask_words, mim_loss, mlm_loss
from mmsearch.training.two_towers import TwoTowers

Contrast: TypeAlias = Literal["infonce", "hinge", "sigmoid"]
CONTRASTS: tuple[Contrast, ...] = get_args(Contrast)

# Runs one side of a model on a batch: its function, then the tensors whose rows are the batch's.
Run: TypeAlias = Callable[..., tuple[Tensor, Tensor]]

_TEXT_GROUPS = 4


@dataclass(frozen=True)
class Objectives:
    """Weights of the losses; 0 leaves one out. `contrast` is what ITC is: InfoNCE, max-hinge or pairwise sigmoid."""

    itc: float = 1.0
    itm: float = 0.5
    align: float = 0.5  # the contrastive loss of the matching head's alignments; only beside itm
    mlm: float = 0.0
    mim: float = 0.0
    contrast: Contrast = "infonce"
    word_mask_rate: float = 0.15
    place_mask_rate: float = 0.5

    def __post_init__(self) -> None:
        if self.contrast not in CONTRASTS:
            raise ValueError(f"contrast is {self.contrast!r}, expected one of {', '.join(CONTRASTS)}")

    @property
    def masked(self) -> bool:
        """Whether a masked objective is among them."""
        return self.mlm > 0 or self.mim > 0


@dataclass(frozen=True)
class Group:
    """Captions `first` to `first + len(ids)` of a batch: ids and mask as read, and the tower's states (b, L, C)."""

    first: int
    ids: Tensor
    mask: Tensor
    states: Tensor


@dataclass(frozen=True)
class Seen:
    """A batch as the towers see it: I photos, T captions.

    `tower_map` (I, N, C) is the image tower's; `images` (I, D) and `captions` (T, D) are embeddings; `matches` (I, T)
    is true where a caption belongs to a photo; `own` (T,) is the row of each caption's photo in the batch.
    """

    tower_map: Tensor
    groups: tuple[Group, ...]
    images: Tensor
    captions: Tensor
    matches: Tensor
    own: Tensor

    def by_group(self, captions: Tensor) -> Iterator[tuple[Tensor, Group, Tensor]]:
        """Yield, group by group, where in `captions` (P,) its captions stand, the group, and their rows in it."""
        for group in self.groups:
            inside = captions - group.first
            where = torch.nonzero((inside >= 0) & (inside < len(group.ids))).squeeze(1)
            if len(where):
                yield where, group, inside[where]


def at_once(side: Callable[..., tuple[Tensor, Tensor]], *inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Run `side` on the whole batch."""
    return side(*inputs)


def see(
    model: TwoTowers, batches: Batches, images: Rows, *, towers_learn: bool, run: Run = at_once
) -> tuple[Seen, Tensor]:
    """Return the batch of the photo rows `images` as the towers see it, and the data set rows of its captions."""
    rows, owners = batches.captions(images)
    device = model.log_scale.device
    views, words = batches.maps(images), [batches.words(part) for part in rows.chunk(_TEXT_GROUPS)]
    groups, embedded, first = [], [], 0
    for ids, mask in ((ids.to(device), mask.to(device)) for ids, mask in words):
        embedding, states = run(partial(model.read, learn=towers_learn), ids, mask)
        groups.append(Group(first, ids, mask.bool(), states))
        embedded.append(embedding)
        first += len(ids)
    photos, tower_map = run(partial(model.look, learn=towers_learn), views.to(device))
    picked = torch.from_numpy(images)
    places = torch.empty(int(picked.max()) + 1, dtype=torch.int64)
    places[picked] = torch.arange(len(picked))
    matches = batches.matches(images, rows, owners).to(device)
    return Seen(tower_map, tuple(groups), photos, torch.cat(embedded), matches, places[owners]), rows


def contrast_loss(model: TwoTowers, seen: Seen, *, targets: tuple[Tensor, Tensor], kind: Contrast) -> Tensor:
    """Return the contrastive loss named `kind`, a scalar. `targets` (I, T), (T, I) are for InfoNCE alone."""
    with torch.autocast(seen.images.device.type, enabled=False):  # bfloat16 would move logits by a quarter
        similarities = seen.images.float() @ seen.captions.float().t()
    if kind == "hinge":
        return max_hinge_loss(similarities, seen.matches)
    if kind == "sigmoid":
        return sigmoid_loss(model.logit_scale * similarities + model.logit_bias, seen.matches)
    return itc_loss(model.logit_scale * similarities, *(each.to(similarities.device) for each in targets))


def one_caption_each(own: Tensor, rng: np.random.Generator) -> Tensor:
    """Return for each photo of a batch the place of one of its captions, drawn at random; `own` (T,) as in `Seen`."""
    order = rng.permutation(len(own))
    _, first = np.unique(own.numpy()[order], return_index=True)
    return torch.from_numpy(order[first])


def alignment_loss(model: TwoTowers, seen: Seen, *, tokens: Tensor, targets: tuple[Tensor, Tensor]) -> Tensor:
    """Return the contrastive loss of the matching head's alignments over all pairs, a scalar; arguments as for ITC."""
    if model.matcher is None:
        raise ValueError("the model has no matching head: give DualConfig a fusion")
    parts = [model.matcher.alignments(tokens, *model.matcher.cut(group.states, group.mask)) for group in seen.groups]
    scale = model.matcher.log_scale.exp().clamp(max=model.config.largest_scale)
    return itc_loss(scale * torch.cat(parts, dim=1), *(each.to(tokens.device) for each in targets))


def matching_loss(
    model: TwoTowers, seen: Seen, *, tokens: Tensor, picked: Tensor, generator: torch.Generator
) -> Tensor:
    """Return the ITM loss over three pairs a photo, a scalar: its caption, a wrong photo for it, a wrong caption.

    Wrong ones are drawn from the similarities that ITC learns (hard negatives). `tokens` (I, N, C) are the photos'
    projected tokens, `picked` (I,) the caption of each. The head reads what it reads in a search: the first tokens.
    """
    if model.matcher is None:
        raise ValueError("the model has no matching head: give DualConfig a fusion")
    device = tokens.device
    with torch.no_grad():
        logits = model.logit_scale * seen.images @ seen.captions.t()
        photo_of, photo_possible = hard_negatives(logits.t()[picked], seen.matches.t()[picked], generator)
        caption_of, caption_possible = hard_negatives(logits, seen.matches, generator)
    every = torch.arange(len(tokens), device=device)
    photos = torch.cat([every, photo_of, every])
    captions = torch.cat([picked.to(device), picked.to(device), caption_of])
    belong = torch.cat([torch.ones(len(every)), torch.zeros(2 * len(every))]).to(device)
    usable = torch.cat([torch.ones_like(photo_possible), photo_possible, caption_possible])
    photos, captions, belong = photos[usable], captions[usable], belong[usable]
    found, wanted = [], []
    for where, group, inside in seen.by_group(captions):
        states, mask = model.matcher.cut(group.states[inside], group.mask[inside])
        found.append(model.matcher(tokens[photos[where]], states, mask))
        wanted.append(belong[where])
    return itm_loss(torch.cat(found), torch.cat(wanted))


def masked_losses(
    model: TwoTowers,
    heads: MaskedModelling,
    *,
    seen: Seen,
    chosen: tuple[Tensor, Tensor, torch.Generator],
    ask: Objectives,
) -> Tensor:
    """Return the weighted MLM and MIM losses of one caption a photo, a scalar.

    `chosen` holds the photos' projected tokens (I, N, C), the place of each one's caption (I,), and the generator.
    """
    tokens, picked, generator = chosen
    if model.matcher is None:
        raise ValueError("the model has no matching head: give DualConfig a fusion")
    if not isinstance(model, DualEncoder):
        raise ValueError("words can be masked for mini's kind of text tower alone")
    table = model.text_tower.word_embeddings.weight
    total, share = torch.zeros((), device=tokens.device), 1.0 / len(picked)
    for where, group, inside in seen.by_group(picked.to(tokens.device)):
        ids, mask, part = group.ids[inside], group.mask[inside], tokens[where]
        if ask.mlm > 0:
            masked = mask_words(ids, model.matcher.readable(mask), ask.word_mask_rate, len(table), generator)
            if masked.asked.any():  # word drop may have left no ordinary word, and the mean of nothing is no number
                states, asked = model.matcher.cut(model.text_tower(masked.ids, mask.long()), masked.asked)
                fused = model.matcher.fuse(part, model.matcher.read_words(states))
                guesses = heads.words(fused[asked], table)
                total = total + ask.mlm * share * len(where) * mlm_loss(guesses, ids[masked.asked])
        if ask.mim > 0:
            hidden = mask_places(part, ask.place_mask_rate, generator)
            predicted = heads.tokens(model.matcher, part, hidden, *model.matcher.cut(group.states[inside], mask))
            total = total + ask.mim * share * len(where) * mim_loss(predicted, part, hidden)
    return total
