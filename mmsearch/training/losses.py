"""The image-text contrastive loss (ITC) and the targets it is asked to meet."""

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
