"""How good a segmenter is: the same count for a model in PyTorch, a bundle and an engine."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from clouds_deploy.backends.torch_session import upscaled_labels
from clouds_deploy.console import Advance
from clouds_deploy.errors import CloudsError
from clouds_deploy.evaluation.metrics import ConfusionMatrix
from clouds_deploy.labels import CITYSCAPES, NAMES, SYNTHIA_13, SYNTHIA_16, LabelSet

if TYPE_CHECKING:
    from clouds_deploy.data.sources import Source

Images = npt.NDArray[np.uint8]
Predict = Callable[[Images], Any]
"""(B, H, W, 3) uint8 RGB to class scores (B, C, h, w), a float tensor or `Scores`, or to labels (B, h, w)
uint8."""
Metric = Literal["native", "official"]

_SUBSETS = {
    "miou_16": [NAMES.index(name) for name in SYNTHIA_16],
    "miou_13": [NAMES.index(name) for name in SYNTHIA_13],
}
BLOCK = 32
"""Images after which a new batch begins: parts of a source are evaluated in the batches of the whole."""
_BATCH = 8
_BATCH_PIXELS = _BATCH * 512 * 512


@dataclass(frozen=True)
class Evaluation:
    """The outcome of an evaluation.

    Attributes:
        matrix: All counted pixels.
        images: How many images.
        metric: At which size prediction and truth were compared.
        classes: The label set that they were compared in.
    """

    matrix: ConfusionMatrix
    images: int
    metric: Metric
    classes: LabelSet = CITYSCAPES

    def to_dict(self) -> dict[str, Any]:
        """What `evaluation.json` holds, in percent; a class without ground truth is null.

        `miou` is over all classes; with `cityscapes19` there are `miou_16` and `miou_13` too, over those of
        them that SYNTHIA is compared on, with any other label set its name, `label_set`.
        """
        names, ious, present = self.classes.names, self.matrix.iou(), self.matrix.present()
        return {
            "miou": _percent(self.matrix.miou()),
            **{key: _percent(self.matrix.miou(chosen)) for key, chosen in self.subsets().items()},
            **({} if self.classes == CITYSCAPES else {"label_set": self.classes.name}),
            "per_class": {
                name: 100 * float(ious[index]) if present[index] else None for index, name in enumerate(names)
            },
            "pixel_accuracy": _percent(self.matrix.pixel_accuracy()),
            "images": self.images,
            "metric": self.metric,
            "best_constant_class_miou": _percent(self.matrix.best_constant_miou()),
        }

    def subsets(self) -> dict[str, list[int]]:
        """Groups of classes that papers give an own mean for, by its key; Cityscapes' 19 have some."""
        return _SUBSETS if self.classes == CITYSCAPES else {}


def summarize(domains: dict[str, Evaluation]) -> dict[str, Any]:
    """Averages evaluations on several datasets, as papers on domain generalization do.

    Args:
        domains: Name -> its evaluation; at least one.

    Returns:
        `miou`, and with `cityscapes19` `miou_16` and `miou_13`: the plain average of the domains', each
        domain counting once however many images it has, null if it is null for one of them; `images` of all;
        `metric`; and `domains`, name -> `Evaluation.to_dict()`.
    """
    results = {name: evaluation.to_dict() for name, evaluation in domains.items()}
    first = next(iter(domains.values()))
    averages = {key: _average([r[key] for r in results.values()]) for key in ("miou", *first.subsets())}
    return {
        **averages,
        **({} if first.classes == CITYSCAPES else {"label_set": first.classes.name}),
        "images": sum(evaluation.images for evaluation in domains.values()),
        "metric": first.metric,
        "domains": results,
    }


def _average(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _percent(value: float) -> float | None:
    return None if math.isnan(value) else 100 * value


def evaluate(
    predict: Predict,
    source: Source,
    metric: Metric = "native",
    progress: Advance | None = None,
    classes: LabelSet = CITYSCAPES,
    table: Images | None = None,
) -> Evaluation:
    """Compares predictions with labels (docs/explanation/method.md 5).

    Args:
        predict: The segmenter; see `Predict`. Neighbours of one size arrive as a batch.
        source: Labelled images.
        metric: `native` brings the prediction to the label's size (scores bilinearly before the argmax,
            bare labels by nearest neighbour); `official` brings the label to the prediction's size.
        progress: Told the number of images done.
        classes: The label set of predictions and labels.
        table: (256,) uint8, what predicted train ids become before they are compared; `classes.count` is
            right nowhere. None leaves them.

    Returns:
        The counts and what follows from them.

    Raises:
        CloudsError: The source is empty, or an image has no labels.
    """
    if len(source) == 0:
        raise CloudsError("there are no images to evaluate on", "check the data's root and split")
    matrix = ConfusionMatrix(classes.count + (table is not None))
    done = 0
    for images, targets in _batches(source):
        outcome = predict(images)
        del images  # large ones need the room
        for number, target in enumerate(targets):
            guess, truth = _compared(outcome[number], target, metric)
            matrix.update(guess if table is None else table[guess], truth)
        done += len(targets)
        if progress is not None:
            progress(done)
    return Evaluation(matrix, done, metric, classes)


def _batches(source: Source) -> Iterator[tuple[Images, list[npt.NDArray[np.uint8]]]]:
    """Batches of neighbours of one size: 8 small images or fewer large ones, none across the end of a
    block.
    """
    images: list[npt.NDArray[np.uint8]] = []
    targets: list[npt.NDArray[np.uint8]] = []
    for index in range(len(source)):
        image, labels = source.load(index)
        if labels is None:
            raise CloudsError(f"{source.name(index)} has no labels", "evaluate on a split that has them")
        room = min(_BATCH, max(1, _BATCH_PIXELS // (image.shape[0] * image.shape[1])))
        if images and (index % BLOCK == 0 or images[0].shape != image.shape):
            yield _stacked(images), targets
            targets = []
        images.append(image)
        targets.append(labels)
        del image
        if len(images) >= room:
            yield _stacked(images), targets
            targets = []
    if images:
        yield _stacked(images), targets


def _stacked(images: list[Images]) -> Images:
    """Images as one array, without a copy of a single one; the list is emptied, so that it keeps none."""
    batch = images[0][None] if len(images) == 1 else np.stack(images)
    images.clear()
    return batch


def _compared(
    outcome: Any, target: npt.NDArray[np.uint8], metric: Metric
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """One prediction, scores (19, h, w) or labels (h, w), and its target at the same size."""
    size = (int(outcome.shape[-2]), int(outcome.shape[-1]))
    if metric == "official":
        if size != target.shape:
            target = np.asarray(Image.fromarray(target).resize(size[::-1], Image.Resampling.NEAREST))
    elif size != target.shape and outcome.ndim == 2:
        outcome = outcome[np.ix_(*(_nearest(*sides) for sides in zip(size, target.shape, strict=True)))]
    if outcome.ndim == 3 and not isinstance(outcome, np.ndarray):
        return upscaled_labels(outcome, (target.shape[0], target.shape[1])), target
    labels = outcome.argmax(0) if outcome.ndim == 3 else outcome
    return np.asarray(labels if isinstance(labels, np.ndarray) else labels.cpu(), np.uint8), target


def _nearest(count: int, wanted: int) -> npt.NDArray[np.intp]:
    """The nearest of `count` pixels for each of `wanted`, rounded as PyTorch's `nearest-exact` does."""
    scale = float(np.float32(count) / np.float32(wanted))
    places = np.maximum(scale * (np.arange(wanted) + 0.5) - 0.5, 0).astype(np.float32)
    chosen: npt.NDArray[np.intp] = np.minimum((places + np.float32(0.5)).astype(np.intp), count - 1)
    return chosen
