"""Classification of queries: by a linear layer, or by similarity to class names.

Both heads have the same signature, so the mask decoder can use either.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LinearClassifier(nn.Linear):
    """The released CLOUDS: one linear layer to the classes and void (docs/explanation/method.md 2.3)."""

    def forward(  # type: ignore[override]
        self, decoded: Tensor, masks: Tensor, mask_features: Tensor, vocabulary: Tensor | None
    ) -> Tensor:
        """Classifies queries.

        Args:
            decoded: (B, Q, width) normalised query features.
            masks: Not used.
            mask_features: Not used.
            vocabulary: Not used.

        Returns:
            (B, Q, classes + 1) logits, void last.
        """
        return super().forward(decoded)


class TextClassifier(nn.Module):
    """FC-CLIP's in-vocabulary head: features under the mask, compared with embedded class names.

    The vocabulary is an argument of the call, so that an exported graph can change it
    (docs/explanation/method.md 2.3 b; Yu et al. 2023). Only void is learned.

    Args:
        width: Channels of queries and mask features.
        dimension: Channels of the text embeddings.
    """

    def __init__(self, width: int, dimension: int) -> None:
        super().__init__()
        self.pool = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))
        self.embed = nn.Sequential(
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, dimension),
        )
        self.scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.void = nn.Parameter(torch.randn(1, dimension))

    def forward(
        self, decoded: Tensor, masks: Tensor, mask_features: Tensor, vocabulary: Tensor | None
    ) -> Tensor:
        """Classifies queries.

        Args:
            decoded: (B, Q, width) normalised query features.
            masks: (B, Q, H/4, W/4) mask logits; pixels with a positive one are pooled, without gradient.
            mask_features: (B, width, H/4, W/4).
            vocabulary: (C, S, dimension) unit vectors: S synonyms for each of C classes.

        Returns:
            (B, Q, C + 1) logits, void last.
        """
        if vocabulary is None:
            raise ValueError("the text head needs a vocabulary")
        pooled = self.pool(pool_masks(mask_features, masks.detach()))
        embedded = F.normalize(self.embed(pooled + decoded), dim=-1)
        return vocabulary_logits(embedded, vocabulary, self.scale, self.void)


def pool_masks(features: Tensor, masks: Tensor) -> Tensor:
    """Averages features over each mask.

    Args:
        features: (B, C, h, w).
        masks: (B, Q, h, w) logits; positive is inside.

    Returns:
        (B, Q, C); zero for an empty mask.
    """
    inside = (masks > 0).to(features.dtype).flatten(2)
    # the published 1e-8 in the denominator does the same, but exporters treat it as an added zero
    share = inside / inside.sum(dim=2, keepdim=True).clamp(min=1)
    return torch.bmm(share, features.flatten(2).transpose(1, 2))


def vocabulary_logits(embedded: Tensor, vocabulary: Tensor, scale: Tensor, void: Tensor) -> Tensor:
    """Logits of unit vectors for a vocabulary and void.

    Args:
        embedded: (B, Q, D) unit vectors.
        vocabulary: (C, S, D) unit vectors.
        scale: Logarithm of the temperature's inverse; its exponential is capped at 100.
        void: (1, D), of any length.

    Returns:
        (B, Q, C + 1): each class by its best synonym, void last.
    """
    temperature = scale.exp().clamp(max=100.0)
    classes = class_logits(embedded, vocabulary, temperature)
    nothing = torch.matmul(embedded, F.normalize(void, dim=-1).transpose(0, 1)) * temperature
    return torch.cat((classes, nothing), dim=-1)


def class_logits(embedded: Tensor, vocabulary: Tensor, temperature: Tensor) -> Tensor:
    """Logits (B, Q, C) by the best synonym of each class; arguments as `vocabulary_logits`."""
    synonyms = vocabulary.shape[1]
    likeness = torch.matmul(embedded, vocabulary.flatten(0, 1).transpose(0, 1)) * temperature
    return torch.amax(likeness.unflatten(-1, (-1, synonyms)), dim=-1)
