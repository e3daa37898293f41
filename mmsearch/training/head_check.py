"""How well a matching head tells right pairs from wrong ones on held-out photos.

Where both towers are locked, recall says nothing of what is learned: it is the same after every epoch. This does.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mmsearch.training.batches import Dataset, Rows, as_input
from mmsearch.training.fitting import autocast
from mmsearch.training.losses import itm_loss
from mmsearch.training.two_towers import TwoTowers

MOST_PHOTOS = 500  # evenly spread; the word states of one caption each are in memory at once
_BATCH = 64


@torch.no_grad()
def held_out_loss(model: TwoTowers, data: Dataset) -> float:
    """Return the mean ITM loss of `model`, which is put into evaluation mode, over three pairs a photo of `data`.

    They are the photo with its first caption, and each of these with the wrong partner that is nearest by cosine: the
    same pairs as long as embeddings stay the same, so that the losses of two heads can be compared.

    Raises:
        ValueError: the model has no matching head.
    """
    matcher = model.eval().matcher
    if matcher is None:
        raise ValueError("the model has no matching head: give its config a fusion")
    count = min(MOST_PHOTOS, len(data.captions.paths))
    rows = np.linspace(0, len(data.captions.paths) - 1, count).astype(np.int64)
    photos, tokens = _photos(model, data, rows=rows)
    captions, *words = _captions(model, data, rows=rows)
    states, mask = matcher.cut(*words)
    cosines = (photos @ captions.t()).fill_diagonal_(-torch.inf)
    every = torch.arange(count, device=photos.device)
    shown = torch.cat([every, cosines.argmax(0), every])
    read = torch.cat([every, every, cosines.argmax(1)])
    logits = []
    for one, other in zip(torch.split(shown, _BATCH), torch.split(read, _BATCH), strict=True):
        with autocast(model):
            logits.append(matcher(tokens[one], states[other], mask[other]))
    found = torch.cat(logits)
    return float(itm_loss(found, torch.arange(len(found), device=found.device) < count))


def _photos(model: TwoTowers, data: Dataset, *, rows: Rows) -> tuple[Tensor, Tensor]:
    """Return embeddings (N, dim), and the tokens (N, T, C) that the matching head reads, of the photos in `rows`."""
    embeddings, tokens = [], []
    for start in range(0, len(rows), _BATCH):
        seen = as_input(data.views[0][rows[start : start + _BATCH]]).to(model.log_scale.device)
        with autocast(model):
            embedding, states = model.look(seen, learn=False)
            tokens.append(model.match_tokens(states))
        embeddings.append(embedding.float())
    return torch.cat(embeddings), torch.cat(tokens)


def _captions(model: TwoTowers, data: Dataset, *, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    """Return embeddings (N, dim), states (N, L, S) and mask (N, L) of the first caption of each photo in `rows`."""
    owned, device = data.captions.captions_of(), model.log_scale.device
    ids, mask = (each.to(device) for each in data.pieces.batch(torch.tensor([owned[row][0] for row in rows])))
    embeddings, states = [], []
    for some, holds in zip(torch.split(ids, _BATCH), torch.split(mask, _BATCH), strict=True):
        with autocast(model):
            embedding, found = model.read(some, holds, learn=False)
        embeddings.append(embedding.float())
        states.append(found)
    return torch.cat(embeddings), torch.cat(states), mask.bool()
