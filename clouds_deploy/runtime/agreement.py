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
