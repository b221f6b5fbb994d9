"""SAM's losses: focal and dice of its best mask, and the error of the predicted IoU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

GAMMA, ALPHA = 2.0, 0.25


def focal_dice(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Focal and dice loss, (...) both, of masks, (..., N) logits, and their targets, (..., N) in 0..1."""
    probability = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    missed = (probability - target).abs()
    focal = ((ALPHA * target + (1 - ALPHA) * (1 - target)) * missed**GAMMA * entropy).mean(-1)
    both = (probability * target).sum(-1)
    return focal, 1 - (2 * both + 1) / (probability.sum(-1) + target.sum(-1) + 1)


def mask_losses(
    logits: Tensor, truth: Tensor, ratings: Tensor, focal_weight: float, ambiguous: bool = True
) -> Tensor:
    """Losses of predicted masks (SAM, appendix A, "Losses").

    The single mask (the first) always counts. Of the three masks for ambiguous prompts, the one with the
    lowest loss and the best rated one count half each; SAM trains the former alone, but users get the latter.
    For an unambiguous prompt all three count alike.

    Args:
        logits: (P, 4, L, L) mask logits of any precision, the single mask first.
        truth: (P, L, L) float, 0..1: share of each low-resolution pixel that the mask covers.
        ratings: (P, 4) predicted IoU.
        focal_weight: Weight of the focal loss; dice has weight 1.
        ambiguous: Whether the prompts may mean several things, as one point does.

    Returns:
        (3,) means over prompts: focal (weighted), dice, squared error of the predicted IoU.
    """
    logits = logits.float()
    target = truth[:, None].expand_as(logits)
    focal, dice = focal_dice(logits.flatten(2), target.flatten(2))
    with torch.no_grad():
        found, real = logits > 0, target > 0.5
        iou = (found & real).sum((2, 3)) / (found | real).sum((2, 3)).clamp(min=1)
        if ambiguous:
            best = 1 + (focal_weight * focal + dice)[:, 1:].argmin(1, keepdim=True)
            rated = 1 + ratings[:, 1:].argmax(1, keepdim=True)
            counted = torch.cat((best, rated), 1)
        else:
            counted = torch.arange(1, 4, device=logits.device).expand(len(logits), -1)

    def chosen(loss: Tensor) -> Tensor:
        return loss.gather(1, counted).mean() + loss[:, 0].mean()

    return torch.stack(
        (focal_weight * chosen(focal), chosen(dice), 4 * F.mse_loss(ratings.float(), iou.float()))
    )
