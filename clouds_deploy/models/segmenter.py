"""The CLOUDS segmenter: frozen backbone, pixel decoder, mask decoder, and class scores per pixel."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clouds_deploy.config import ModelConfig
from clouds_deploy.labels import NUM_CLASSES
from clouds_deploy.models.backbones import Backbone, build_backbone
from clouds_deploy.models.deformable_attention import DeformableAttention, Form
from clouds_deploy.models.mask_decoder import MaskDecoder, Prediction
from clouds_deploy.models.pixel_decoder import PixelDecoder

Inference = Literal["exact", "fast"]
STRIDE = 32


class Segmenter(nn.Module):
    """Mask classification on a foundation model (clouds_method section 2).

    Args:
        config: The model section of a recipe.
        backbone: The backbone that section names, already loaded.
    """

    def __init__(self, config: ModelConfig, backbone: Backbone) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.pixel_decoder = PixelDecoder(backbone.channels, config.width, config.pixel_decoder)
        self.mask_decoder = MaskDecoder(config.width, NUM_CLASSES, config.mask_decoder)

    def forward(self, image: Tensor, *, every_layer: bool = True) -> tuple[Prediction, ...]:
        """Predict segments.

        Args:
            image: (B, 3, H, W) RGB float, 0..255; any H and W (padded to multiples of 32 inside).
            every_layer: As in `MaskDecoder.forward`.

        Returns:
            Predictions at a quarter of the padded size.
        """
        normal = self.backbone.normalize(image)
        height, width = image.shape[-2:]
        pad = (-height % STRIDE, -width % STRIDE)
        if any(pad):
            normal = F.pad(normal, (0, pad[1], 0, pad[0]))
        return self.head(*self.backbone(normal), every_layer=every_layer)

    def head(
        self, res2: Tensor, res3: Tensor, res4: Tensor, res5: Tensor, *, every_layer: bool = False
    ) -> tuple[Prediction, ...]:
        """Run both decoders on feature maps, as `Backbone.forward` gives them."""
        mask_features, maps = self.pixel_decoder((res2, res3, res4, res5))
        return self.mask_decoder(mask_features, maps, every_layer=every_layer)  # type: ignore[no-any-return]

    def scores(self, image: Tensor, inference: Inference = "exact") -> Tensor:
        """Score every class at every pixel (clouds_method section 5).

        score[c] = sum over queries of softmax(class)[c] * sigmoid(mask).

        Args:
            image: (B, 3, H, W) RGB, 0..255.
            inference: `exact` resizes the Q masks before the sum, as the authors do; `fast` sums at a
                quarter of the size and resizes the 19 sums.

        Returns:
            (B, 19, H, W) float, not negative; argmax over axis 1 is the label map.
        """
        prediction = self(image.float(), every_layer=False)[-1]
        height, width = image.shape[-2:]
        padded = (height + -height % STRIDE, width + -width % STRIDE)
        return class_scores(prediction, padded, inference)[:, :, :height, :width]

    def set_form(self, form: Form) -> Segmenter:
        """Choose the form of deformable attention; all forms give the same numbers."""
        for module in self.modules():
            if isinstance(module, DeformableAttention):
                module.form = form
        return self

    def trainable_parameters(self) -> int:
        """Count the parameters that training moves."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)


def class_scores(prediction: Prediction, size: tuple[int, int], inference: Inference = "exact") -> Tensor:
    """Turn segments into class scores per pixel; see `Segmenter.scores`.

    Args:
        prediction: The last layer's prediction.
        size: (H, W) of the padded image, four times the mask size.
        inference: `exact` or `fast`.

    Returns:
        (B, 19, H, W) float32.
    """
    classes = prediction.class_logits.float().softmax(-1)[..., :-1].transpose(1, 2)
    masks = prediction.mask_logits.float()
    if inference == "exact":
        masks = F.interpolate(masks, size=size, mode="bilinear", align_corners=False)
        return torch.bmm(classes, masks.sigmoid().flatten(2)).view(masks.shape[0], -1, *size)
    sums = torch.bmm(classes, masks.sigmoid().flatten(2)).view(masks.shape[0], -1, *masks.shape[2:])
    return F.interpolate(sums, size=size, mode="bilinear", align_corners=False)


def build_segmenter(config: ModelConfig) -> Segmenter:
    """Build the model a recipe describes; the decoders start random, the backbone with its weights.

    Raises:
        CloudsError: See `build_backbone`.
    """
    return Segmenter(config, build_backbone(config.backbone))
