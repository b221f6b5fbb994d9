"""The recipe's sections on the segmenter: backbone, decoders, classification head."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from clouds_deploy.config.library_options import check_options
from clouds_deploy.config.section import Fraction, Positive, Section


class AdapterConfig(Section):
    """A few trained parameters that adapt a frozen backbone (see `models.clouds.adapters`).

    Attributes:
        kind: `none`; `lora` or `soma`, low-rank updates that are folded into the weights before export; or
            `rein`, learned tokens that refine every block's features and stay in the graph.
        rank: Rank of the updates, or of Rein's tokens.
        alpha: Scale of a LoRA update, which is multiplied by alpha / rank.
        targets: Regular expression, searched in the names of linear layers and convolutions, of those that
            `lora` and `soma` adapt; null means every linear layer and 1x1 convolution.
        tokens: Learned tokens in each block with `rein`, at least 2.
    """

    kind: Literal["none", "lora", "soma", "rein"] = "none"
    rank: Positive = 16
    alpha: Annotated[float, Field(gt=0)] = 16.0
    targets: str | None = None
    tokens: Annotated[int, Field(ge=2)] = 100

    @model_validator(mode="after")
    def _compiles(self) -> AdapterConfig:
        try:
            re.compile(self.targets or "")
        except re.error as error:
            raise ValueError(f"targets `{self.targets}` is no regular expression: {error}") from error
        return self


class BackboneConfig(Section):
    """The foundation model whose features the decoders use (docs/explanation/method.md 2.1).

    Attributes:
        name: `efficientnet_lite0`, `open_clip/<model>` such as `open_clip/convnext_large_d_320`,
            `timm/<model>`, `segformer/mit_b0` to `mit_b5`, `dinov2/s|b|l|g` or `dinov3/s|b|l|...`.
        weights: Weights to load: `default` (those of the package or hub that the backbone is known by), a tag
            of open_clip, a file, or `random`. Random weights are named in every manifest and report.
        trainable: Whether the backbone is trained too; false keeps it frozen and in evaluation mode, as the
            method does.
        options: Further constructor arguments of the library's model, of those that `config.library_options`
            lists: of open_clip's configuration, timm's keyword arguments or SegformerConfig's.
        adapter: Trained parameters in a frozen backbone.
    """

    name: str = "efficientnet_lite0"
    weights: str = "default"
    trainable: bool = False
    options: dict[str, Any] = Field(default_factory=dict)
    adapter: AdapterConfig = AdapterConfig()

    @field_validator("options")
    @classmethod
    def _listed(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        check_options(info.data.get("name"), options)
        return options


class PixelDecoderConfig(Section):
    """The pixel decoder: multi-scale deformable attention (docs/explanation/method.md 2.2).

    Attributes:
        layers: Number of transformer layers.
        heads: Attention heads in each layer.
        points: Sampling points of each head on each feature level.
        feedforward: Hidden channels of each layer's feed-forward network.
    """

    layers: Positive = 6
    heads: Positive = 8
    points: Positive = 4
    feedforward: Positive = 1024


class MaskDecoderConfig(Section):
    """The transformer decoder with masked attention (docs/explanation/method.md 2.3).

    Attributes:
        queries: Number of masks that it predicts.
        layers: Number of transformer layers.
        heads: Attention heads in each layer.
        feedforward: Hidden channels of each layer's feed-forward network.
    """

    queries: Positive = 100
    layers: Positive = 9
    heads: Positive = 8
    feedforward: Positive = 2048


class TextConfig(Section):
    """The text head and its vocabulary (docs/explanation/method.md 2.3 b, 2.4 and 2.5).

    Attributes:
        clip: CLIP model whose text tower embeds the class names, `open_clip/<model>`; null means the
            backbone's own.
        weights: Weights of that CLIP model, with the values of `model.backbone.weights`; not for the
            backbone's own.
        options: Further constructor arguments of that CLIP model, as in `model.backbone.options`.
        ensemble: Whether inference also classifies each mask with CLIP's image features and mixes both
            answers; only with a CLIP ConvNeXt or ResNet as backbone. Off in the released configurations.
        alpha: Share of CLIP's answer for classes seen in training.
        beta: Share of CLIP's answer for classes not seen in training.
        only_valid: Whether masks without a positive pixel keep the head's answer alone, as in the released
            ResNet configurations.
    """

    clip: str | None = None
    weights: str = "default"
    options: dict[str, Any] = Field(default_factory=dict)
    ensemble: bool = False
    alpha: Fraction = 0.4
    beta: Fraction = 0.8
    only_valid: bool = False

    @field_validator("options")
    @classmethod
    def _listed(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        check_options(info.data.get("clip"), options)
        return options


class ModelConfig(Section):
    """The segmentation model; the defaults are the published model.

    Attributes:
        backbone: Foundation model.
        width: Channels of both decoders; a multiple of both numbers of heads and of 32.
        pixel_decoder: Decoder of features.
        mask_decoder: Decoder of masks and classes.
        head: How masks are classified: `linear` as in the released CLOUDS, `text` by comparison with
            embedded class names.
        text: Vocabulary of `head: text`.
    """

    backbone: BackboneConfig = BackboneConfig()
    width: Positive = 256
    pixel_decoder: PixelDecoderConfig = PixelDecoderConfig()
    mask_decoder: MaskDecoderConfig = MaskDecoderConfig()
    head: Literal["linear", "text"] = "linear"
    text: TextConfig = TextConfig()

    @model_validator(mode="after")
    def _divisible(self) -> ModelConfig:
        for what, divisor in (
            ("32 (group normalisation)", 32),
            ("pixel_decoder.heads", self.pixel_decoder.heads),
            ("mask_decoder.heads", self.mask_decoder.heads),
        ):
            if self.width % divisor:
                raise ValueError(f"width {self.width} is not a multiple of {what}")
        return self
