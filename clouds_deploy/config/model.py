"""The recipe's sections on the segmenter: backbone, decoders, classifier."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from clouds_deploy.config.section import Fraction, Positive, Section


class AdapterConfig(Section):
    """A few parameters that tune a frozen backbone (see `models.clouds.adapters`).

    Attributes:
        kind: `none`; `lora` or `soma`, low-rank updates that are folded into the weights before export; or
            `rein`, learned tokens that refine every block's features and stay in the graph.
        rank: Rank of the updates, or of Rein's tokens.
        alpha: `lora` only: the update is scaled by alpha / rank.
        targets: `lora` and `soma`: a regular expression searched in the names of linear layers and
            convolutions; null means every linear layer and 1x1 convolution.
        tokens: `rein` only: learned tokens per block, at least 2.
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
    """The foundation model under the head (docs/explanation/method.md 2.1).

    Attributes:
        name: `efficientnet_lite0`, `open_clip/<model>` such as `open_clip/convnext_large_d_320`,
            `timm/<model>`, `segformer/mit_b0` to `mit_b5`, `dinov2/s|b|l|g` or `dinov3/s|b|l|...`.
        weights: What to load: `default` (the package or hub weights the backbone is known by), an open_clip
            tag, a file, or `random`; random weights are announced wherever they end up.
        trainable: False keeps it frozen and in evaluation mode, as the method does.
        options: Extra constructor arguments of the library's model: open_clip's configuration overrides,
            timm's keyword arguments, SegformerConfig's (small test models use it).
        adapter: See `AdapterConfig`; only for a frozen backbone.
    """

    name: str = "efficientnet_lite0"
    weights: str = "default"
    trainable: bool = False
    options: dict[str, Any] = Field(default_factory=dict)
    adapter: AdapterConfig = AdapterConfig()


class PixelDecoderConfig(Section):
    """The multi-scale deformable attention pixel decoder (docs/explanation/method.md 2.2)."""

    layers: Positive = 6
    heads: Positive = 8
    points: Positive = 4
    feedforward: Positive = 1024


class MaskDecoderConfig(Section):
    """The masked-attention transformer decoder (docs/explanation/method.md 2.3)."""

    queries: Positive = 100
    layers: Positive = 9
    heads: Positive = 8
    feedforward: Positive = 2048


class TextConfig(Section):
    """The text head and its vocabulary (docs/explanation/method.md 2.3 b, 2.4 and 2.5).

    Attributes:
        clip: The CLIP whose text tower embeds the class names, `open_clip/<model>`; null means the
            backbone's own.
        weights: Of that CLIP, when it is not the backbone's own; as `BackboneConfig.weights`.
        options: As `BackboneConfig.options`, for the same case.
        ensemble: Whether inference also asks CLIP itself what is under each mask, and mixes both answers;
            only with a CLIP ConvNeXt or ResNet as backbone. Off in the released configurations.
        alpha: CLIP's share for classes seen in training.
        beta: CLIP's share for classes not seen in training.
        only_valid: Whether masks without a positive pixel keep the head's answer alone (the released
            ResNet configurations).
    """

    clip: str | None = None
    weights: str = "default"
    options: dict[str, Any] = Field(default_factory=dict)
    ensemble: bool = False
    alpha: Fraction = 0.4
    beta: Fraction = 0.8
    only_valid: bool = False


class ModelConfig(Section):
    """The whole segmenter; the defaults are the published model.

    Attributes:
        backbone: See `BackboneConfig`.
        width: Channels of both decoders; a multiple of both numbers of heads and of 32.
        pixel_decoder: See `PixelDecoderConfig`.
        mask_decoder: See `MaskDecoderConfig`.
        head: How queries become classes; `linear` is the released CLOUDS, `text` compares with class names.
        text: See `TextConfig`; read with `head: text` only.
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
