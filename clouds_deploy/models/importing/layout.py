"""Complete list of the tensors of a checkpoint, and the report on one that differs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from clouds_deploy.errors import CloudsError
from clouds_deploy.labels import CITYSCAPES, SHIPPED, LabelSet, shipped_set
from clouds_deploy.models.importing.detect import Head
from clouds_deploy.models.importing.names import CLIP, EMPTY_WEIGHT, PREDICTOR, VOID, official_parts
from clouds_deploy.models.weights import Faults, Shape, Shapes, compare


@dataclass(frozen=True)
class Layout:
    """Required tensors of a checkpoint, by official names.

    Attributes:
        shapes: Shape of every tensor; None admits any.
        parts: Those that the segmenter uses, with our names (see `official_parts`); the others are stored
            separately.
        optional: Those that may be missing.
    """

    shapes: Mapping[str, Shape | None]
    parts: Mapping[str, tuple[str, ...]]
    optional: frozenset[str] = frozenset()

    @property
    def aside(self) -> tuple[str, ...]:
        """Names that the segmenter does not use: text tower, CLIP's projection, weights of the loss."""
        return tuple(name for name in self.shapes if name not in self.parts)

    def faults(self, found: Shapes) -> Faults:
        """Differences between a checkpoint's names and shapes and this layout."""
        return compare(found, self.shapes, self.optional)


def official_layout(ours: Shapes, clip: Shapes | None, head: Head) -> Layout:
    """Layout of a model's checkpoint.

    Args:
        ours: Shapes of `Segmenter.state_dict()`, with either head.
        clip: Shapes of the whole CLIP's `state_dict()`; None if the checkpoint's backbone is not a CLIP
            (Mask2Former), and only the head is expected.
        head: Kind of the head.

    Returns:
        The layout of CLOUDS (linear head), FC-CLIP (text head) or Mask2Former (no CLIP). Any number of
        classes is admitted with the text head, whose classes are not part of the weights.
    """
    parts = official_parts(name for name in ours if clip is not None or not name.startswith("backbone."))
    shapes: dict[str, Shape | None] = {}
    for theirs, names in parts.items():
        first = ours[names[0]]
        shapes[theirs] = (len(names) * first[0], *first[1:]) if len(names) > 1 else first
    shapes[EMPTY_WEIGHT] = shapes.get(f"{PREDICTOR}class_embed.bias") if head == "linear" else None
    if clip is None:
        return Layout(shapes, parts, frozenset({EMPTY_WEIGHT}))
    shapes.setdefault(VOID, (1, clip["text_projection"][1]))
    for name, shape in clip.items():
        shapes.setdefault(CLIP + name, shape)
    return Layout(shapes, parts)


def require(found: Shapes, layout: Layout, where: str, label_set: LabelSet = CITYSCAPES) -> None:
    """Raises an error for a checkpoint that differs from a layout.

    Args:
        found: The checkpoint's names and shapes.
        layout: The layout.
        where: What to call the checkpoint.
        label_set: The classes of the layout.

    Raises:
        CloudsError: Its message names every missing, unexpected and misshapen tensor.
    """
    faults = layout.faults(found)
    if not faults:
        return
    hint = "nothing was written; get the file again, or give the --recipe whose `model` section it belongs to"
    classes = found.get(f"{PREDICTOR}class_embed.weight")
    expected = layout.shapes.get(f"{PREDICTOR}class_embed.weight")
    if classes and expected and classes[1:] == expected[1:] and classes[0] != expected[0]:
        count = classes[0] - 1
        fitting = [name for name in SHIPPED if shipped_set(name).count == count]
        hint = (
            f"it was trained on {count} classes, and a linear head knows no others; label set "
            f"`{label_set.name}` has {label_set.count}: name its own, --classes "
            + (" or ".join(fitting) if fitting else "FILE (docs/guides/own-classes.md)")
        )
    raise CloudsError(f"{where} does not hold this model:\n{faults}", hint)
