"""Deployed form of SAM's prompt encoder and mask decoder: prompts of several images in one batch."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clouds_deploy.models.sam.layer_norm import channels_first_norm, channels_last_norm
from clouds_deploy.models.sam.names import BACKGROUND, PROPOSALS
from clouds_deploy.models.sam.two_way import TwoWay


class Angles(nn.Module):
    """Angles whose sines and cosines encode the positions of points.

    A module of its own, so that its operations have a name in exported graphs and stay in float32: half
    precision has too few digits for the pixels of a large square, bfloat16 only every other one above 256.

    Args:
        side: Of the square, in pixels.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, points: Tensor, frequencies: Tensor) -> Tensor:
        """Angles (P, N, C/2) in radians of points (P, N, 2), x and y in pixels, for frequencies (2, C/2)."""
        return 2 * math.pi * ((2 * ((points + 0.5) / self.side) - 1) @ frequencies)


class SamDecoder(nn.Module):
    """Prompt encoder and mask decoder of a SAM with the inputs and outputs of the decoder graph.

    Whatever does not depend on the prompt, the image's part of the first layer, is computed once per image
    and gathered. Of the four masks and scores only the three proposals are computed.

    Source: SAM (Kirillov et al., 2023), section 3 and appendix A "Prompt encoder" and "Lightweight mask
    decoder"; `SamPredictor.predict_torch(multimask_output=True)` of `segment_anything`.

    Args:
        sam: A `segment_anything.modeling.Sam`; its weights are shared, not copied.
    """

    def __init__(self, sam: Any) -> None:
        super().__init__()
        self.prompts = sam.prompt_encoder
        self.decoder = sam.mask_decoder
        self.transformer = TwoWay(sam.mask_decoder.transformer)
        self.angles = Angles(int(sam.prompt_encoder.input_image_size[0]))
        with torch.no_grad():
            places = sam.prompt_encoder.get_dense_pe().flatten(2).transpose(1, 2).clone()
        self.register_buffer("places", places, persistent=False)
        self.eval()

    def forward(
        self,
        image_embeddings: Tensor,
        image_index: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Proposes masks.

        Args:
            image_embeddings: (B, C, h, w) float32, the result of `SamEncoder`.
            image_index: (P,) int64, each prompt's image, 0..B-1.
            point_coords: (P, N, 2) float32, x and y in pixels of the S x S square.
            point_labels: (P, N) float32 or integer: 1 foreground, 0 background, 2 and 3 a box's corners,
                -1 padding. SAM needs one padding point in a prompt without a box.
            mask_input: (P, 1, 4h, 4w) float32 logits of an earlier mask; not in exported graphs.

        Returns:
            masks (P, 3, 4h, 4w) float32 logits, and iou_predictions (P, 3), each mask's predicted IoU.
        """
        height, width = image_embeddings.shape[-2:]
        if mask_input is None:
            dense = self.prompts.no_mask_embed.weight.reshape(1, -1, 1, 1)
        else:
            image_embeddings = image_embeddings.index_select(0, image_index)
            image_index = torch.arange(len(image_index), device=image_index.device)
            dense = self._embed_masks(mask_input)
        images = (image_embeddings + dense).flatten(2).transpose(1, 2).contiguous()
        sparse = self._embed_points(point_coords, point_labels)
        own = torch.cat((self.decoder.iou_token.weight, self.decoder.mask_tokens.weight))
        tokens = torch.cat((own.expand(sparse.shape[0], -1, -1), sparse), 1)
        tokens, pixels = self.transformer(
            images, cast(Tensor, self.places), image_index, tokens, 2 + PROPOSALS
        )
        masks = self._masks(tokens[:, 2:], pixels, height, width)
        scores = self.decoder.iou_prediction_head(tokens[:, 0])[:, 1:]
        return masks, scores

    def _embed_points(self, points: Tensor, labels: Tensor) -> Tensor:
        """Embeddings (P, N, C) of points by position and kind; padding has a kind only."""
        labels = labels.float()
        angles = self.angles(points, self.prompts.pe_layer.positional_encoding_gaussian_matrix)
        places = torch.cat((angles.sin(), angles.cos()), -1)
        kinds = torch.cat(
            (self.prompts.not_a_point_embed.weight, *(e.weight for e in self.prompts.point_embeddings))
        )
        kind = kinds.index_select(0, (labels.flatten() + 1).long()).reshape(places.shape)
        return torch.where((labels >= BACKGROUND)[..., None], places, 0.0) + kind

    def _embed_masks(self, masks: Tensor) -> Tensor:
        """Embeddings (P, C, h, w) of earlier masks (P, 1, 4h, 4w)."""
        first, first_norm, act, second, second_norm, _, last = self.prompts.mask_downscaling
        x = act(channels_first_norm(first_norm, first(masks)))
        out: Tensor = last(act(channels_first_norm(second_norm, second(x))))
        return out

    def _masks(self, tokens: Tensor, pixels: Tensor, height: int, width: int) -> Tensor:
        """Products of the proposals' tokens (P, 3, C) and the upscaled image, before upscaling (P, h*w, C).

        Both transposed convolutions have no overlap: each is a linear layer that makes four pixels of one.
        So the pixels are sorted only at the end, when three channels are left.
        """
        first, norm, act, second, last_act = self.decoder.output_upscaling
        fine = _quarters(first, pixels).unflatten(-1, (4, -1))
        fine = last_act(_quarters(second, act(channels_last_norm(norm, fine))))
        fine = fine.unflatten(-1, (4, -1)).flatten(1, 3)
        mixers = self.decoder.output_hypernetworks_mlps[1:]
        mix = torch.stack([mixer(tokens[:, i]) for i, mixer in enumerate(mixers)], 1)
        parts = (mix @ fine.transpose(1, 2)).reshape(-1, height, width, 2, 2, 2, 2)
        masks: Tensor = parts.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, PROPOSALS, 4 * height, 4 * width)
        return masks


def _quarters(layer: Any, x: Tensor) -> Tensor:
    """Transposed convolution of kernel and stride 2 on pixels, (..., C) to (..., 4 * C')."""
    weight = layer.weight.permute(2, 3, 1, 0).reshape(-1, layer.weight.shape[0])
    return F.linear(x, weight, layer.bias.repeat(4))
