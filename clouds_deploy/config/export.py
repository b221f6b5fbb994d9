"""The options of `export`, and its recipes, with defaults from `export/recipes`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

import yaml
from pydantic import Field, ValidationError, model_validator

from clouds_deploy.config.section import Fraction, Positive, Section, merged
from clouds_deploy.errors import CloudsError, nearest

Range = tuple[Positive, Positive, Positive]
"""Smallest, most likely and largest size of a free axis."""


def export_recipe_folder() -> Path:
    """Folder of the shipped export recipes: in the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    packaged = package / "_export_recipes"
    return packaged if packaged.is_dir() else package.parent / "export" / "recipes"


@cache
def _shipped(name: str) -> dict[str, Any]:
    path = export_recipe_folder() / f"{name}.yaml"
    try:
        tree: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise CloudsError(
            f"the shipped export recipe {path} cannot be read: {error}", "install the package again"
        ) from error
    return tree


class LimitsConfig(Section):
    """How far a graph's results may be from PyTorch's.

    Attributes:
        label_agreement: Least share of pixels with the same label.
        max_score_error: Largest difference of a class score, as a share of the largest score.
        relative_error: Largest relative L2 norm of all scores' differences.
        cosine: Least cosine of all scores.
        miou_drop: Most points of mIoU that may be lost on `export --data`.
        batch_agreement: Least share of pixels whose label does not depend on the batch's size or order;
            kernels for another size may round differently.
    """

    label_agreement: Fraction
    max_score_error: Annotated[float, Field(gt=0)]
    relative_error: Annotated[float, Field(gt=0)]
    cosine: Fraction
    miou_drop: Annotated[float, Field(ge=0)]
    batch_agreement: Fraction


class LoweredConfig(LimitsConfig):
    """The limits of a graph in a lower precision than float32.

    Attributes:
        flops: Least share of the floating-point operations that are done in the precision; for INT8 of those
            in the nodes that it names.
    """

    flops: Fraction


class HalfConfig(LoweredConfig):
    """Float32 islands and limits of `export --fp16` and `--bf16`.

    Attributes:
        islands: Regexes, searched in `<module>/<node> <operation>`, of the nodes that stay in float32.
    """

    islands: tuple[str, ...]


class Int8Config(LoweredConfig):
    """Quantised nodes and limits of `export --int8`.

    Attributes:
        nodes: A regex, searched in `<module>/<node> <operation>`, of the convolutions and matrix products
            whose weights and inputs become INT8; depthwise convolutions never do.
        images: Images of the calibration folder that the ranges are taken from, evenly spaced; null means
            all.
    """

    nodes: str
    images: Positive | None


class EngineKnobs(Section):
    """How TensorRT's builder works; `export --engine-option NAME=VALUE` overrides one.

    Attributes:
        workspace_mib: Most memory that the engine may use beside its weights and tensors, in MiB; null sets
            no limit.
        optimization_level: 0 (quick build) to 5 (tries the most kernels); null is TensorRT's default, 3.
        max_aux_streams: Most CUDA streams beside the caller's; null leaves it to TensorRT.
        version_compatible: Whether later versions of TensorRT may load the engine. It holds code for the
            host, which is loaded with it.
        hardware_compatible: Whether other GPUs from Ampere on may load it; not on Jetson.
        weight_streaming: Whether weights may stay in the host's memory and be streamed.
        tf32: Whether float32 products may be rounded to TF32: faster, with 10 bits of mantissa.
    """

    workspace_mib: Positive | None = None
    optimization_level: Annotated[int, Field(ge=0, le=5)] | None = None
    max_aux_streams: Annotated[int, Field(ge=0)] | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    weight_streaming: bool = False
    tf32: bool = False


class EngineConfig(EngineKnobs):
    """Optimisation profile of a built engine, and how it is built.

    Attributes:
        batch: Smallest, most likely and largest number of images.
        sms: Compute capabilities to build a TensorRT-RTX engine for where no GPU is at hand and `--sm` says
            nothing.
    """

    batch: Range
    sms: tuple[str, ...]

    def knobs(self, overrides: Mapping[str, str] | None = None) -> EngineKnobs:
        """How the builder works, with `--engine-option`'s values over the recipe's.

        Raises:
            CloudsError: There is no such option, or it has no such value.
        """
        own = {name: getattr(self, name) for name in EngineKnobs.model_fields}
        given = {}
        for name, word in (overrides or {}).items():
            if name not in EngineKnobs.model_fields:
                raise CloudsError(
                    f"there is no engine option `{name}`", nearest(name, EngineKnobs.model_fields)
                )
            given[name] = None if word == "null" else word
        try:
            return EngineKnobs.model_validate({**own, **given}, strict=False)
        except ValidationError as error:
            fault = error.errors()[0]
            name = str(fault["loc"][0])
            raise CloudsError(
                f"--engine-option {name}={given.get(name)}: {fault['msg']}", f"see {name} in export/recipes"
            ) from error


class SegmenterEngineConfig(EngineConfig):
    """How a segmenter's engine is built.

    Attributes:
        classes: Smallest, most likely and largest number of classes of a text-headed segmenter's engine; null
            takes those of its own vocabulary only, so that another one of as many fits.
        synonyms: The same of the names for a class.
    """

    classes: Range | None = None
    synonyms: Range | None = None


class ExportConfig(LimitsConfig):
    """Export recipe of a segmenter: size, limits of the float32 graph, and one section for each precision.

    A key that is left out has the value of the shipped recipe `export/recipes/segmenter.yaml`.

    Attributes:
        height: Image height of the graph in pixels, a multiple of 32.
        width: Image width of the graph in pixels, a multiple of 32.
        engine: Optimisation profile of built engines, and how they are built.
        fp16: Float32 islands and limits of `--fp16`.
        bf16: Float32 islands and limits of `--bf16`.
        int8: Quantised nodes and limits of `--int8`.
    """

    example: ClassVar[str] = "export/segmenter"
    height: Positive
    width: Positive
    engine: SegmenterEngineConfig
    fp16: HalfConfig
    bf16: HalfConfig
    int8: Int8Config

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, given: Any) -> Any:
        return merged(_shipped("segmenter"), given) if isinstance(given, dict) else given

    @model_validator(mode="after")
    def _divisible(self) -> ExportConfig:
        if self.height % 32 or self.width % 32:
            raise ValueError(f"export size {self.height}x{self.width} is not a multiple of 32 on both sides")
        return self

    def limits(self, precision: str) -> LimitsConfig:
        """The limits of the graph in a precision."""
        section: LimitsConfig = self if precision == "fp32" else getattr(self, precision)
        return section

    def flops(self, precision: str) -> float:
        """Least share of the operations of a lower precision's graph that are done in it."""
        return float(getattr(self, precision).flops)

    def to_yaml(self) -> str:
        """The recipe with every key, as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class SamLimits(Section):
    """How far a deployed SAM may be from `segment_anything` in PyTorch.

    Attributes:
        error: Largest difference of embeddings, mask logits and predicted IoUs, as a share of the largest
            one.
        relative_error: Largest relative L2 norm of the differences.
        mask_iou: Least IoU, over the pixels of all, of the masks, cut at zero, that the reference rates best.
        worst_mask_iou: Least IoU of any of them that covers 1 % to 99 % of the image.
        flops: Least share of the floating-point operations that are done in the precision.
    """

    error: Annotated[float, Field(gt=0)]
    relative_error: Annotated[float, Field(gt=0)]
    mask_iou: Fraction
    worst_mask_iou: Fraction
    flops: Fraction


class SamEngineConfig(EngineConfig):
    """Optimisation profiles of a SAM's two engines.

    Attributes:
        prompts: Smallest, most likely and largest number of prompts of the decoder.
        points: Smallest, most likely and largest number of points in a prompt.
    """

    prompts: Range
    points: Range


class SamExportConfig(Section):
    """Export recipe of a SAM: float32 islands, limits of each precision, engine profiles.

    A key that is left out has the value of the shipped recipe `export/recipes/sam.yaml`.

    Attributes:
        engine: Optimisation profiles of built engines.
        islands: Regexes, searched in `<module>/<node> <operation>`, of the nodes that stay in float32 with
            `--fp16` and `--bf16`.
        fp32: Limits of the float32 graphs.
        fp16: Limits of the float16 graphs.
        bf16: Limits of the bfloat16 graphs.
    """

    example: ClassVar[str] = "export/sam"
    engine: SamEngineConfig
    islands: tuple[str, ...]
    fp32: SamLimits
    fp16: SamLimits
    bf16: SamLimits

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, given: Any) -> Any:
        return merged(_shipped("sam"), given) if isinstance(given, dict) else given

    def limits(self, precision: str) -> SamLimits:
        """The limits of the graphs in a precision."""
        section: SamLimits = getattr(self, precision)
        return section

    def flops(self, precision: str) -> float:
        """Least share of the operations of a lower precision's graphs that are done in it."""
        return self.limits(precision).flops

    def to_yaml(self) -> str:
        """The recipe with every key, as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class ExportOptions(Section):
    """Options of `export`.

    Attributes:
        engines: Backends that must pass the gates, and engines to build (`tensorrt`, `tensorrt-rtx`); where
            only engines are named, or `none`, ONNX Runtime proves the graph. None means both backends, and
            with `fp16` the engines that are installed and can be built here.
        height: Image height of the graph in pixels; None means the recipe's. Segmenters only.
        width: Image width of the graph in pixels; None means the recipe's. Segmenters only.
        scores: Whether the graph gives class scores too; the gates look at scores either way. Segmenters
            only.
        inference: `exact` (as in the paper) or `fast` (sums classes at a quarter of the size). Segmenters
            only.
        images: Images, or a folder of them, that the gates look at beside synthetic streets.
        fp16: Whether the bundle's graph is in float16; the float32 one passes its gates first.
        bf16: The same in bfloat16.
        int8: The same with the backbone's products in INT8. Segmenters only.
        calibrate: With `int8`: images, or a folder of them, that the ranges are taken from.
        data: Labelled images, as in `evaluate`: the mIoU that the graph loses there is a gate too. Segmenters
            only.
        layout: Their layout.
        sms: Compute capabilities to build a TensorRT-RTX engine for, such as `89`; none means the GPU here,
            or the recipe's.
        engine_options: Values of `EngineKnobs` by name, over the recipe's.
        batch: Smallest, most likely and largest batch of built engines; None means the recipe's.
        weights: A SAM's weight file; or `random`, for a dry run of a SAM or of a training recipe.
        device: Where PyTorch computes the expected results, and the backends that can run the graph.
        recipe: An export recipe: a YAML file, or a shipped one's name; its keys override those of the run.
    """

    segmenters_only: ClassVar[tuple[str, ...]] = (
        "height", "width", "scores", "inference", "int8", "calibrate", "data", "layout",
    )  # fmt: skip
    engines: tuple[str, ...] | None = None
    height: int | None = None
    width: int | None = None
    scores: bool = False
    inference: str = "exact"
    images: Path | tuple[Path, ...] | None = None
    fp16: bool = False
    bf16: bool = False
    int8: bool = False
    calibrate: Path | tuple[Path, ...] | None = None
    data: str | Path | None = None
    layout: str | None = None
    sms: tuple[str, ...] = ()
    engine_options: Mapping[str, str] = {}
    batch: Range | None = None
    weights: str | Path | None = None
    device: str = "cpu"
    recipe: str | Path | None = None

    @property
    def precision(self) -> str:
        """The precision that was asked for: `fp32`, `fp16`, `bf16` or `int8`.

        Raises:
            CloudsError: More than one was.
        """
        asked = [name for name in ("fp16", "bf16", "int8") if getattr(self, name)]
        if len(asked) > 1:
            raise CloudsError(
                f"a bundle has one precision, not {' and '.join(asked)}",
                "export once for each, to two places",
            )
        return asked[0] if asked else "fp32"
