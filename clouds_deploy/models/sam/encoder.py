"""Deployed form of SAM's image encoder: bytes in, embeddings out."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from clouds_deploy.models.sam.lite_encoder import LiteEncoder
from clouds_deploy.models.sam.tiny_vit import TinyViT
from clouds_deploy.models.sam.vit_encoder import AttentionForm, VitEncoder


class SamEncoder(nn.Module):
    """Image encoder of a SAM with the inputs and outputs of the encoder graph.

    Normalisation and SAM's padding are part of the graph, so that a caller only resizes the long side to S
    and fills the rest, right and bottom, with anything. The first operation is the cast to float because
    the TensorRT family accepts uint8 only next to a cast.

    Source: SAM (Kirillov et al., 2023), appendix A; `SamPredictor.set_image` of `segment_anything`.

    Args:
        sam: A `segment_anything.modeling.Sam`; its weights are shared, not copied.
        window_form: Of the attention in windows, see `AttentionForm`; only for the ViTs.
        global_form: Of the attention in whole images; only for the ViTs.
    """

    def __init__(
        self,
        sam: Any,
        *,
        window_form: AttentionForm = "bias",
        global_form: AttentionForm = "bias",
    ) -> None:
        super().__init__()
        encoder = sam.image_encoder
        self.side = int(encoder.img_size)
        self.encoder: nn.Module = (
            encoder
            if isinstance(encoder, (TinyViT, LiteEncoder))
            else VitEncoder(encoder, window_form=window_form, global_form=global_form)
        )
        for name in ("pixel_mean", "pixel_std"):
            self.register_buffer(name, getattr(sam, name).reshape(3), persistent=False)
        self.register_buffer("places", torch.arange(self.side, dtype=torch.int32), persistent=False)
        self.eval()

    def forward(self, image: Tensor, size: Tensor) -> Tensor:
        """Embeds images.

        Args:
            image: (B, S, S, 3) uint8 RGB.
            size: (B, 2) int32, the rows and the columns that hold the image; the rest is ignored as
                padding.

        Returns:
            (B, C, S/16, S/16) float32 (S/4 for `sam_tiny`).
        """
        places = cast(Tensor, self.places)
        pixels = (image.float() - cast(Tensor, self.pixel_mean)) / cast(Tensor, self.pixel_std)
        rows = places[None, :, None, None] < size[:, 0, None, None, None]
        columns = places[None, None, :, None] < size[:, 1, None, None, None]
        pixels = torch.where(rows & columns, pixels, 0.0)
        out: Tensor = self.encoder(pixels.permute(0, 3, 1, 2))
        return out
