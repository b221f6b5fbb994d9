"""Results of `segment_anything`'s own modules for the graphs' inputs: the reference, also of benchmarks."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from clouds_deploy.models.sam.names import FIRST_CORNER, PROPOSALS

Array = npt.NDArray[Any]


def official_embeddings(sam: Any, image: Array, size: Array) -> Array:
    """Embeddings of images, computed as by `SamPredictor.set_torch_image`.

    Args:
        sam: A `segment_anything.modeling.Sam`.
        image: (B, S, S, 3) uint8 RGB.
        size: (B, 2), the rows and the columns that hold the image.

    Returns:
        (B, C, h, w) float32.
    """
    with torch.inference_mode():
        pictures = (torch.from_numpy(row[:h, :w].copy()) for row, (h, w) in zip(image, size, strict=True))
        pixels = torch.cat([sam.preprocess(p.permute(2, 0, 1)[None].to(sam.device)) for p in pictures])
        found: Array = sam.image_encoder(pixels).cpu().numpy()
    return found


def official_masks(
    sam: Any, embeddings: Array, index: Array, points: Array, labels: Array
) -> tuple[Array, Array]:
    """Masks as from `SamPredictor.predict_torch(multimask_output=True)`, all prompts of an image at once.

    Args:
        sam: A `segment_anything.modeling.Sam`.
        embeddings: (B, C, h, w) float32.
        index: (P,), the image of each prompt.
        points: (P, N, 2) in pixels of the square; with a box its corners are the last two.
        labels: (P, N); those of a prompt without a box end in -1, which the official prompt encoder adds.

    Returns:
        Low-resolution logits (P, 3, 4h, 4w) and predicted IoUs (P, 3), float32.
    """
    sides = (4 * side for side in sam.prompt_encoder.image_embedding_size)
    masks = np.empty((len(index), PROPOSALS, *sides), np.float32)
    scores = np.empty((len(index), PROPOSALS), np.float32)
    boxed = labels[:, -1] >= FIRST_CORNER
    with torch.inference_mode():
        places = sam.prompt_encoder.get_dense_pe()
        for image, box in sorted({(int(i), bool(b)) for i, b in zip(index, boxed, strict=True)}):
            rows = np.flatnonzero((index == image) & (boxed == box))
            where, kind = (
                torch.from_numpy(np.ascontiguousarray(a[rows])).to(sam.device) for a in (points, labels)
            )
            keep = where.shape[1] - (2 if box else 1)
            sparse, dense = sam.prompt_encoder(
                points=(where[:, :keep], kind[:, :keep]),
                boxes=where[:, keep:].reshape(-1, 4) if box else None,
                masks=None,
            )
            low, guessed = sam.mask_decoder(
                image_embeddings=torch.from_numpy(embeddings[image : image + 1]).to(sam.device),
                image_pe=places,
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=True,
            )
            masks[rows], scores[rows] = low.cpu().numpy(), guessed.cpu().numpy()
    return masks, scores
