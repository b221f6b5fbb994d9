"""Optimisation profiles: the smallest, most likely and largest shape of every input of an engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clouds_deploy.bundles.bundle import KIND, Bundle
from clouds_deploy.bundles.tensors import GraphSpec, TensorSpec
from clouds_deploy.config.export import (
    EngineConfig,
    Range,
    SamEngineConfig,
    SamExportConfig,
    SegmenterEngineConfig,
)
from clouds_deploy.errors import CloudsError
from clouds_deploy.models.clouds.names import SHARE, VOCABULARY
from clouds_deploy.models.sam.names import EMBEDDINGS, IMAGE, SIZE

Shapes = Mapping[str, Sequence[Sequence[int]]]
"""By the input's name its three shapes."""


def engine_config(bundle: Bundle) -> SegmenterEngineConfig | SamEngineConfig:
    """How a bundle's export recipe has its engines built."""
    if bundle.kind == KIND:
        return bundle.recipe.export.engine
    return SamExportConfig.model_validate(bundle.facts["limits"]).engine


def graph_shapes(
    graphs: Mapping[str, GraphSpec],
    engine: EngineConfig,
    batch: Range,
    vocabulary: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, Shapes]:
    """Profiles of all graphs of a bundle.

    Args:
        graphs: Inputs and outputs of each graph.
        engine: Numbers of prompts and points of a SAM; of classes and synonyms of a text-headed segmenter.
        batch: Smallest, most likely and largest number of images.
        vocabulary: Shapes of a text-headed segmenter's inputs beside the image.

    Raises:
        CloudsError: The range of classes or synonyms leaves the bundle's own vocabulary out.
    """
    free: dict[str, Sequence[Range]] = dict.fromkeys((IMAGE, SIZE, EMBEDDINGS), (batch,))
    if isinstance(engine, SamEngineConfig):
        rest: Sequence[Range] = (engine.prompts, engine.points)
    else:
        rest = ()
        if vocabulary:
            free |= _vocabulary(engine, vocabulary)
    return {
        name: {one.name: _profile(one, free.get(one.name, rest)) for one in spec.inputs}
        for name, spec in graphs.items()
    }


def _vocabulary(engine: EngineConfig, shapes: Mapping[str, Sequence[int]]) -> dict[str, Sequence[Range]]:
    """Ranges of the free axes of a vocabulary's inputs: the recipe's, or its own numbers only."""
    own = {"classes": shapes[VOCABULARY][0], "synonyms": shapes[VOCABULARY][1]}
    ranges = {}
    for name, count in own.items():
        least, likeliest, most = getattr(engine, name, None) or (count, count, count)
        if not least <= count <= most:
            raise CloudsError(
                f"engine.{name} {least},{likeliest},{most} leaves out the bundle's own {count}",
                f"widen engine.{name} in the export recipe",
            )
        ranges[name] = (least, likeliest, most)
    return {VOCABULARY: (ranges["classes"], ranges["synonyms"]), SHARE: (ranges["classes"],)}


def _profile(spec: TensorSpec, free: Sequence[Range]) -> list[list[int]]:
    """An input's smallest, most likely and largest shape, from those of its free axes in their order."""
    shapes = []
    for which in range(3):
        sizes = iter(free)
        shapes.append([next(sizes)[which] if d is None else d for d in spec.shape])
    return shapes
