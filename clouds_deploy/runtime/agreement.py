"""How far two runtimes say the same: one definition for the gates of an export and for the bench."""

from __future__ import annotations

import numpy as np

from clouds_deploy.runtime.session import Array, Session


def label_agreement(labels: Array, reference: Array) -> float:
    """Give the share of pixels, 0..1, whose label is the reference's.

    Args:
        labels: Integer array.
        reference: Another of the same shape; a different shape agrees nowhere.
    """
    return float((labels == reference).mean()) if labels.shape == reference.shape else 0.0


def run_batched(session: Session, images: Array, batch: int) -> dict[str, Array]:
    """Run images in batches and put the rows together again.

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


def mask_overlaps(found: Array, expected: Array, scores: Array) -> tuple[Array, Array]:
    """Give each prompt's IoU of the mask that the reference rates best, and which of them are sizable.

    Args:
        found: (P, 3, L, L) logits.
        expected: (P, 3, L, L) logits.
        scores: (P, 3) guessed IoUs of `expected`.

    Returns:
        (P,) float in 0..1, two empty masks being equal, and (P,) bool.
    """
    best = np.arange(len(scores)), scores.argmax(1)
    one, other = found[best] > 0, expected[best] > 0
    union, both = (one | other).sum((1, 2)), (one & other).sum((1, 2))
    covered = other.mean((1, 2))
    return np.where(union > 0, both / np.maximum(union, 1), 1.0), (covered > 0.01) & (covered < 0.99)
