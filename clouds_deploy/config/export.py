"""The recipe's section on the export: size, tolerances, and what each lower precision keeps."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from clouds_deploy.config.section import Fraction, Positive, Section


class LimitsConfig(Section):
    """How far a graph of a lower precision may be from float32 PyTorch.

    Attributes:
        flops: Share of the floating-point operations that must be in the precision; INT8 counts those of the
            nodes it names.
        label_agreement: Share of pixels whose label must be equal.
        max_score_error: Largest difference of any class score, as a share of the largest score. It is wide,
            for a mask may turn at its threshold; the next one is not.
        relative_error: Largest relative L2 norm of all scores' differences.
        cosine: Least cosine of all scores.
        miou_drop: Points of mIoU that may be lost on `export --data`.
        batch_agreement: Share of pixels whose label must not depend on the batch's size or order: kernels for
            another size may round differently.
    """

    flops: Fraction = 0.9
    label_agreement: Fraction = 0.995
    max_score_error: Annotated[float, Field(gt=0)] = 0.2
    relative_error: Annotated[float, Field(gt=0)] = 0.02
    cosine: Fraction = 0.999
    miou_drop: Annotated[float, Field(ge=0)] = 0.1
    batch_agreement: Fraction = 0.9999


class HalfConfig(LimitsConfig):
    """What `export --fp16` or `--bf16` keeps in float32, and what its graph has to reach.

    Attributes:
        islands: Regexes, searched in `<module>/<node> <operation>`, of nodes that stay in float32.
    """

    islands: tuple[str, ...] = (
        r"(Layer|Instance)Normalization$",
        r"Softmax$",
        r"^segmenter/",
        r"pixel_decoder\.layers\.\d+\.attention/\S+ (Div|Add|Sub|Mul|Clip|Floor|Cast|Range)$",
    )


class Bf16Config(HalfConfig):
    """The same for `--bf16`: three bits fewer than FP16 are eight times coarser."""

    label_agreement: Fraction = 0.98
    relative_error: Annotated[float, Field(gt=0)] = 0.1
    cosine: Fraction = 0.99
    miou_drop: Annotated[float, Field(ge=0)] = 0.5


class Int8Config(LimitsConfig):
    """What `export --int8` quantises, and what its graph has to reach.

    Attributes:
        nodes: A regex, searched in `<module>/<node> <operation>`, of the convolutions and products whose
            weights and inputs become INT8; depthwise convolutions never do.
        images: Images of the folder that ranges are taken from, evenly spaced ones; null means all.
    """

    label_agreement: Fraction = 0.97
    max_score_error: Annotated[float, Field(gt=0)] = 0.6
    relative_error: Annotated[float, Field(gt=0)] = 0.15
    cosine: Fraction = 0.99
    miou_drop: Annotated[float, Field(ge=0)] = 1.0
    batch_agreement: Fraction = 0.999
    nodes: str = r"^segmenter\.backbone\b"
    images: Positive | None = 64


class ExportConfig(Section):
    """The size and the tolerances of the exported graph.

    Attributes:
        height: Image height of the graph in pixels, a multiple of 32.
        width: Image width of the graph in pixels, a multiple of 32.
        label_agreement: Share of pixels whose label must equal PyTorch's, FP32 engines.
        max_score_error: Largest difference of any class score from PyTorch's, FP32 engines, as a share of
            the largest score.
        miou_drop: Points of mIoU that may be lost on `export --data`, FP32 engines.
        fp16: What `--fp16` changes.
        bf16: What `--bf16` changes.
        int8: What `--int8` changes.
    """

    height: Positive = 512
    width: Positive = 1024
    label_agreement: Fraction = 0.9999
    max_score_error: Annotated[float, Field(gt=0)] = 1e-3
    miou_drop: Annotated[float, Field(ge=0)] = 0.1
    fp16: HalfConfig = HalfConfig()
    bf16: Bf16Config = Bf16Config()
    int8: Int8Config = Int8Config()

    @model_validator(mode="after")
    def _divisible(self) -> ExportConfig:
        if self.height % 32 or self.width % 32:
            raise ValueError(f"export size {self.height}x{self.width} is not a multiple of 32 on both sides")
        return self
