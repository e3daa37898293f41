"""The losses over pairs of photos and captions: contrastive (ITC), matching (ITM), and two alternatives to ITC.

Each is a pure function of tensors. The masked losses (MLM, MIM) stand beside their heads in `masked_modelling`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def positives(image_ids: Tensor, caption_image_ids: Tensor, image_text_ids: Tensor, text_ids: Tensor) -> Tensor:
    """Return the bool matrix (I, T) of matching pairs: caption t is image i's, or reads as one of i's captions does.

    Args:
        image_ids: int64 (I,), the images of the batch.
        caption_image_ids: int64 (T,), the image each caption was written for.
        image_text_ids: int64 (I, C), the texts of all captions of each image, as integers equal for equal texts.
        text_ids: int64 (T,), the same for the captions of the batch.
    """
    same_image = image_ids[:, None] == caption_image_ids[None, :]
    same_text = (image_text_ids[:, :, None] == text_ids[None, None, :]).any(1)
    return same_image | same_text


def spread(matches: Tensor) -> Tensor:
    """Return targets (I, T): each row of the bool matrix `matches` shares 1 evenly among its positives.

    ALBEF's y / sum(y), Li et al. 2021, arXiv 2107.07651, fine-tuning code. A row without a positive stays zero and adds
    nothing to the loss.
    """
    targets = matches.float()
    return targets / targets.sum(1, keepdim=True).clamp(min=1.0)


def softened(targets: Tensor, teacher_logits: Tensor, share: float) -> Tensor:
    """Return (1 - share) x `targets` + share x softmax over each row of `teacher_logits`; rows still sum to 1."""
    return (1.0 - share) * targets + share * torch.softmax(teacher_logits, dim=1)


def itc_loss(logits: Tensor, image_targets: Tensor, caption_targets: Tensor) -> Tensor:
    """Return the symmetric cross-entropy of `logits` (I, T) against row targets, a scalar.

    L = 1/2 mean_i H(image_targets_i, softmax_t logits_it) + 1/2 mean_t H(caption_targets_t, softmax_i logits_it);
    InfoNCE (van den Oord et al. 2018, arXiv 1807.03748) both ways, as in CLIP (Radford et al. 2021, arXiv 2103.00020,
    Fig. 3).

    Args:
        logits: float (I, T), similarity x logit_scale.
        image_targets: float (I, T), rows sum to 1.
        caption_targets: float (T, I), rows sum to 1.
    """
    from_images = -(image_targets * functional.log_softmax(logits, dim=1)).sum(1).mean()
    from_captions = -(caption_targets * functional.log_softmax(logits.t(), dim=1)).sum(1).mean()
    return 0.5 * (from_images + from_captions)


def itm_loss(logits: Tensor, matches: Tensor) -> Tensor:
    """Return the binary cross-entropy of match `logits` (P,) against `matches` (P,), true where a pair belongs.

    ALBEF's ITM (Li et al. 2021, arXiv 2107.07651, Eq. 4) with one logit in the place of two.
    """
    return functional.binary_cross_entropy_with_logits(logits.float(), matches.float())


def hard_negatives(logits: Tensor, matches: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return for each row of `logits` (Q, G) one column that is no match, the likelier the larger its logit.

    Drawn from softmax(logits) + 1e-4 with the true `matches` (Q, G) set to zero, not the diagonal alone: another
    caption of the same photo is no negative. The floor keeps a row that knows its match too well drawable.

    Returns:
        int64 (Q,) columns, and bool (Q,), false where every column is a match and the column means nothing.
    """
    weights = (torch.softmax(logits.float(), dim=1) + 1e-4).masked_fill(matches, 0.0)
    possible = ~matches.all(1)
    weights = torch.where(possible[:, None], weights, torch.ones_like(weights))
    return torch.multinomial(weights.cpu(), 1, generator=generator).squeeze(1).to(logits.device), possible


def max_hinge_loss(similarities: Tensor, matches: Tensor, margin: float = 0.2) -> Tensor:
    """Return the hinge of each match against its hardest negatives, both ways, averaged over the matches, a scalar.

    [m - s(i, c) + max_c' s(i, c')]+ + [m - s(i, c) + max_i' s(i', c)]+, VSE++ (Faghri et al. 2017, arXiv 1707.05612,
    Eq. 6), with `similarities` (I, T) cosines and every other true match left out of the maxima.
    """
    negatives = similarities.masked_fill(matches, -2.0)
    of_images, of_captions = negatives.max(1).values[:, None], negatives.max(0).values[None, :]
    hinges = (margin - similarities + of_images).clamp(min=0) + (margin - similarities + of_captions).clamp(min=0)
    return hinges[matches].mean()


def sigmoid_loss(logits: Tensor, matches: Tensor) -> Tensor:
    """Return the pairwise logistic loss of `logits` (I, T), scale x cosine + bias, a scalar.

    -1/I sum_it log sigmoid(z_it logits_it), z = 1 for a match and -1 else: SigLIP (Zhai et al. 2023, arXiv 2303.15343,
    section 3.2), where scale starts at 10 and bias at -10.
    """
    signs = matches.float() * 2 - 1
    return -functional.logsigmoid(signs * logits.float()).sum() / len(logits)
