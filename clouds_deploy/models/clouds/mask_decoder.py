"""The mask decoder: queries that each find one segment, attending only inside their previous mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clouds_deploy.config.model import MaskDecoderConfig
from clouds_deploy.models.clouds.classifiers import LinearClassifier
from clouds_deploy.models.clouds.positions import sine_positions

LEVELS = 3


@dataclass(frozen=True)
class Prediction:
    """Prediction of all queries after one layer.

    Attributes:
        class_logits: (B, Q, classes + 1); the last column is void.
        mask_logits: (B, Q, H/4, W/4); positive inside the segment.
    """

    class_logits: Tensor
    mask_logits: Tensor


class Attention(nn.Module):
    """Multi-head attention with a boolean mask, in operations that export well."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialises as Mask2Former does: Xavier over the stacked projections, zero biases."""
        width = self.query.in_features
        stacked = torch.empty(3 * width, width)
        nn.init.xavier_uniform_(stacked)
        with torch.no_grad():
            for layer, part in zip((self.query, self.key, self.value), stacked.chunk(3), strict=True):
                layer.weight.copy_(part)
                nn.init.zeros_(layer.bias)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Attention of queries to keys.

        Args:
            query: (B, Q, width).
            key: (B, N, width).
            value: (B, N, width).
            allowed: (B, Q, N) bool, True where a query may attend; None means everywhere.

        Returns:
            (B, Q, width).
        """
        mixed = F.scaled_dot_product_attention(
            self._split(self.query(query)),
            self._split(self.key(key)),
            self._split(self.value(value)),
            attn_mask=None if allowed is None else allowed.unsqueeze(1),
        )
        return self.output(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention, feed-forward: each with residual and post-norm."""

    def __init__(self, width: int, config: MaskDecoderConfig) -> None:
        super().__init__()
        self.cross_attention = Attention(width, config.heads)
        self.cross_norm = nn.LayerNorm(width)
        self.self_attention = Attention(width, config.heads)
        self.self_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, config.feedforward)
        self.contract = nn.Linear(config.feedforward, width)
        self.feedforward_norm = nn.LayerNorm(width)
        for layer in (self.expand, self.contract):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, x: Tensor, embedding: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
        """Updates the queries.

        Args:
            x: (B, Q, width) query features.
            embedding: (Q, width) query positions.
            key: (B, N, width) memory with positions.
            value: (B, N, width) memory.
            allowed: (B, Q, N) bool.

        Returns:
            (B, Q, width).
        """
        x = self.cross_norm(x + self.cross_attention(x + embedding, key, value, allowed))
        q = x + embedding
        x = self.self_norm(x + self.self_attention(q, q, x))
        return self.feedforward_norm(x + self.contract(F.relu(self.expand(x))))  # type: ignore[no-any-return]


class MaskDecoder(nn.Module):
    """Masked-attention transformer decoder (docs/explanation/method.md 2.3; Mask2Former, Cheng et al. 2022).

    Two exact rewrites make it cheaper. Bilinear resizing is linear, so the attention mask of a level
    comes from the mask features resized once to that level, not from each layer's full mask maps. And at
    inference only the last layer's full-size masks are computed.

    Args:
        width: Channels of queries, memory and mask features.
        classes: Number of classes without void.
        config: See `MaskDecoderConfig`.
        classifier: Of the queries; None means a linear layer.
    """

    def __init__(
        self, width: int, classes: int, config: MaskDecoderConfig, classifier: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.width = width
        self.query_features = nn.Parameter(torch.randn(config.queries, width))
        self.query_embedding = nn.Parameter(torch.randn(config.queries, width))
        self.level_embedding = nn.Parameter(torch.randn(LEVELS, width))
        self.layers = nn.ModuleList(DecoderLayer(width, config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.classify = classifier or LinearClassifier(width, classes + 1)
        self.mask_embedding = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
        )

    def forward(
        self,
        mask_features: Tensor,
        maps: Sequence[Tensor],
        *,
        every_layer: bool,
        vocabulary: Tensor | None = None,
    ) -> tuple[Prediction, ...]:
        """Predicts the segments.

        Args:
            mask_features: (B, width, H/4, W/4).
            maps: (B, width, h, w) at strides 32, 16, 8.
            every_layer: Whether to return the predictions before the first and after every layer (deep
                supervision), or only the last one.
            vocabulary: (C, S, D) class embeddings, for the text head.

        Returns:
            Predictions in the order of the layers.
        """
        keys, values, small = self._memory(mask_features, maps)
        x = self.query_features.unsqueeze(0).expand(mask_features.shape[0], -1, -1)
        predictions = []
        for index, layer in enumerate(self.layers):
            decoded = self.norm(x)
            embedded = self.mask_embedding(decoded)
            if every_layer:
                predictions.append(self._predict(decoded, embedded, mask_features, vocabulary))
            level = index % LEVELS
            allowed = self.allowed(embedded.detach(), small[level])
            x = layer(x, self.query_embedding, keys[level], values[level], allowed)
        decoded = self.norm(x)
        embedded = self.mask_embedding(decoded)
        predictions.append(self._predict(decoded, embedded, mask_features, vocabulary))
        return tuple(predictions)

    def _memory(
        self, mask_features: Tensor, maps: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """For each level keys and values (B, N, width), and resized mask features (B, width, N)."""
        keys, values, small = [], [], []
        for level, feature_map in enumerate(maps):
            height, width = int(feature_map.shape[2]), int(feature_map.shape[3])
            value = feature_map.flatten(2).transpose(1, 2) + self.level_embedding[level]
            values.append(value)
            keys.append(value + sine_positions(height, width, self.width, value.device))
            resized = F.interpolate(
                mask_features.detach(), size=(height, width), mode="bilinear", align_corners=False
            )
            small.append(resized.flatten(2))
        return keys, values, small

    @staticmethod
    def allowed(embedded: Tensor, features: Tensor) -> Tensor:
        """Pixels that each query may attend to: those of its mask, or all if its mask is empty.

        Args:
            embedded: (B, Q, width) mask embeddings.
            features: (B, width, N) mask features at the level's size.

        Returns:
            (B, Q, N) bool. sigmoid(logit) >= 0.5 is logit >= 0; an empty mask is replaced by
            arithmetic, not by indexing, so that shapes never depend on data, and is recognised by its largest
            logit, so that the exported graph reduces floats, not integers.
        """
        logits = torch.bmm(embedded, features)
        return ~(logits < 0) | (logits.amax(dim=2, keepdim=True) < 0)

    def _predict(
        self, decoded: Tensor, embedded: Tensor, mask_features: Tensor, vocabulary: Tensor | None
    ) -> Prediction:
        batch, _, height, width = mask_features.shape
        masks = torch.bmm(embedded, mask_features.flatten(2)).view(batch, -1, height, width)
        return Prediction(self.classify(decoded, masks, mask_features, vocabulary), masks)
