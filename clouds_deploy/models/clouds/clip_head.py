"""CLIP's own classification of masks, and its ensemble with the head (FC-CLIP).

See docs/explanation/method.md 2.5. The head learns the training's vocabulary; frozen CLIP also knows
names that the training lacks. Pooling CLIP's last feature map over a mask and applying CLIP's own projection
gives a second classification.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clouds_deploy.errors import CloudsError
from clouds_deploy.models.clouds.classifiers import class_logits, pool_masks


class ConvNextHead(nn.Module):
    """CLIP ConvNeXt's projection of a pooled feature to the joint space: norm, then a small MLP.

    Args:
        visual: open_clip's image tower; its parts are shared, not copied.
    """

    def __init__(self, visual: Any) -> None:
        super().__init__()
        self.norm = visual.trunk.head
        self.project = visual.head

    def forward(self, features: Tensor, masks: Tensor) -> Tensor:
        """Embeddings of the features under each mask.

        Args:
            features: (B, C, h, w), the last map.
            masks: (B, Q, h, w) logits.

        Returns:
            (B, Q, D), not normalised.
        """
        pooled = pool_masks(features, masks)
        batch, queries, channels = pooled.shape
        embedded = self.project(self.norm(pooled.reshape(batch * queries, channels, 1, 1)))
        return embedded.reshape(batch, queries, -1)  # type: ignore[no-any-return]


class ResNetHead(nn.Module):
    """CLIP ResNet's attention pool with the masks as attention masks: one pooling a mask.

    A mask without a positive pixel attends everywhere; the published code gets NaN.

    Args:
        visual: open_clip's image tower; its pool is shared, not copied.
    """

    def __init__(self, visual: Any) -> None:
        super().__init__()
        self.pool = visual.attnpool

    def forward(self, features: Tensor, masks: Tensor) -> Tensor:
        """Embeddings of the features under each mask; arguments and result as `ConvNextHead.forward`."""
        pool = self.pool
        channels, height, width = features.shape[1:]
        queries, heads = masks.shape[1], pool.num_heads
        side = round((pool.positional_embedding.shape[0] - 1) ** 0.5)
        grid = pool.positional_embedding[1:].transpose(0, 1).reshape(1, channels, side, side)
        grid = F.interpolate(grid, size=(height, width), mode="bilinear", align_corners=False)
        pixels = features.flatten(2).transpose(1, 2)
        keys = pixels + grid.flatten(2).transpose(1, 2)
        query = pixels.mean(dim=1, keepdim=True) + pool.positional_embedding[:1]

        def split(x: Tensor) -> Tensor:
            return x.view(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)

        inside = (masks > 0).flatten(2)
        allowed = inside | (inside.to(features.dtype).amax(dim=2, keepdim=True) < 0.5)
        mixed = F.scaled_dot_product_attention(
            split(pool.q_proj(query)).expand(-1, -1, queries, -1),
            split(pool.k_proj(keys)),
            split(pool.v_proj(keys)),
            attn_mask=allowed.unsqueeze(1),
        )
        return pool.c_proj(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class GeometricEnsemble(nn.Module):
    """Weighted geometric mean of the head's and CLIP's class probabilities.

    Args:
        clip: An open_clip model with a ConvNeXt or ResNet image tower.
        seen: (C,) bool, classes of the vocabulary that share a name with a class of the training.
        alpha: CLIP's share for those, 0..1.
        beta: CLIP's share for the others, 0..1.
        only_valid: Whether a mask without a positive pixel keeps the head's probabilities alone.

    Raises:
        CloudsError: The image tower is of another kind.
    """

    share: Tensor
    scale: Tensor

    def __init__(self, clip: Any, seen: Tensor, alpha: float, beta: float, *, only_valid: bool) -> None:
        super().__init__()
        if hasattr(clip.visual, "attnpool"):
            self.head: nn.Module = ResNetHead(clip.visual)
        elif hasattr(getattr(clip.visual, "trunk", None), "stages"):
            self.head = ConvNextHead(clip.visual)
        else:
            raise CloudsError(
                "the geometric ensemble needs a CLIP ConvNeXt or ResNet as backbone",
                "set model.text.ensemble=false, or another model.backbone.name",
            )
        self.only_valid = only_valid
        self.register_buffer("share", torch.where(seen, alpha, beta).float(), persistent=False)
        self.register_buffer("scale", clip.logit_scale.detach().clone().float())
        self.requires_grad_(False)

    def forward(
        self,
        logits: Tensor,
        masks: Tensor,
        features: Tensor,
        vocabulary: Tensor,
        share: Tensor | None = None,
    ) -> Tensor:
        """Combines both classifications.

        Args:
            logits: (B, Q, C + 1) of the head, void last.
            masks: (B, Q, H/4, W/4) mask logits.
            features: (B, channels, h, w), CLIP's last map (res5).
            vocabulary: (C, S, D) unit vectors.
            share: (C,) CLIP's share for each class, 0..1; None means the shares of the training's vocabulary.

        Returns:
            (B, Q, C + 1) logits whose softmax is the mixed distribution; void keeps the head's probability.
        """
        small = F.interpolate(masks, size=features.shape[-2:], mode="bilinear", align_corners=False)
        embedded = F.normalize(self.head(features, small), dim=-1)
        theirs = class_logits(embedded, vocabulary, self.scale.exp().clamp(max=100.0)).log_softmax(-1)
        ours = logits[..., :-1].log_softmax(-1)
        share = self.share if share is None else share
        if self.only_valid:
            share = share * (small.flatten(2).amax(dim=2, keepdim=True) > 0).to(share.dtype)
        mixed = (ours * (1 - share) + theirs * share).softmax(-1)
        void = logits.softmax(-1)[..., -1:]
        # FC-CLIP adds 1e-8 here, which ONNX optimisers round to 0 and drop: log(0) would remain
        return torch.cat((mixed * (1 - void), void), dim=-1).clamp(min=1e-8).log()
