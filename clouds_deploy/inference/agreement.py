"""Agreement of two backends: one definition for the gates of an export, the self-test and the bench."""

from __future__ import annotations

import numpy as np

from clouds_deploy.backends.session import Session
from clouds_deploy.bundles.tensors import Array


def label_agreement(labels: Array, reference: Array) -> float:
    """Share of pixels, 0..1, whose label is the reference's.

    Args:
        labels: Integer array.
        reference: Another of the same shape; a different shape agrees nowhere.
    """
    return float((labels == reference).mean()) if labels.shape == reference.shape else 0.0


def run_batched(session: Session, images: Array, batch: int) -> dict[str, Array]:
    """Runs images in batches and concatenates the rows of every output.

    Args:
        session: A graph whose one input takes images.
        images: (N, H, W, 3) uint8.
        batch: Rows per call; the last call may have fewer.

    Returns:
        Every output by name, N rows.
    """
    name = session.inputs[0].name
    parts = [session.run({name: images[at : at + batch]}) for at in range(0, len(images), batch)]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def mask_overlaps(found: Array, expected: Array, scores: Array) -> tuple[float, Array, Array]:
    """IoU of the masks that the reference rates best: of all their pixels together, and of each mask.

    Args:
        found: (P, 3, L, L) logits.
        expected: (P, 3, L, L) logits.
        scores: (P, 3) guessed IoUs of `expected`.

    Returns:
        The IoU over the pixels of all masks, to which a mask counts what it covers; each mask's, (P,), empty
        masks being equal; both in 0..1. And which masks cover 1 % to 99 %, (P,) bool: where fewer pixels lie
        beyond zero, a logit of almost zero can change a mask's IoU by tenths.
    """
    best = np.arange(len(scores)), scores.argmax(1)
    one, other = found[best] > 0, expected[best] > 0
    union, both = (one | other).sum((1, 2)), (one & other).sum((1, 2))
    covered = other.mean((1, 2))
    overall = float(both.sum() / union.sum()) if union.any() else 1.0
    each = np.where(union > 0, both / np.maximum(union, 1), 1.0)
    return overall, each, (covered > 0.01) & (covered < 0.99)
