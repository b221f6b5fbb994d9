"""SAM's losses: focal and dice on the best of its masks, and the error of its own rating of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

GAMMA, ALPHA = 2.0, 0.25


def focal_dice(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Compare masks, (..., N) logits, with (..., N) targets of 0..1: focal and dice loss, (...) both."""
    probability = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    missed = (probability - target).abs()
    focal = ((ALPHA * target + (1 - ALPHA) * (1 - target)) * missed**GAMMA * entropy).mean(-1)
    both = (probability * target).sum(-1)
    return focal, 1 - (2 * both + 1) / (probability.sum(-1) + target.sum(-1) + 1)


def mask_losses(
    logits: Tensor, truth: Tensor, ratings: Tensor, focal_weight: float, ambiguous: bool = True
) -> Tensor:
    """Compare the proposed masks with the truth (SAM, appendix A, "Losses").

    The single mask (the first) always counts. Of the three for ambiguous prompts the one with the lowest loss
    does and, which SAM has not, half and half the one rated best, for that is the one that people get; where
    nothing is ambiguous, all three do alike.

    Args:
        logits: (P, 4, L, L) mask logits of any precision, the single mask first.
        truth: (P, L, L) float, 0..1: the share of each low resolution pixel that the mask covers.
        ratings: (P, 4) predicted IoU.
        focal_weight: Of the focal loss beside dice.
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
