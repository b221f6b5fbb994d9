"""Segmenters ready to label images of any size: one way to open a run or a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from clouds_deploy.artifacts import MANIFEST, kind_of, sha256
from clouds_deploy.backends.backends import chosen, open_session
from clouds_deploy.backends.device import announce
from clouds_deploy.backends.options import Options
from clouds_deploy.backends.torch_session import TorchRun
from clouds_deploy.bundles.bundle import KIND, Bundle, open_bundle
from clouds_deploy.bundles.packed import unpacked
from clouds_deploy.bundles.vocabulary import Vocabulary
from clouds_deploy.config.recipe import Recipe
from clouds_deploy.errors import CloudsError
from clouds_deploy.inference.letterbox import Letterbox, fit
from clouds_deploy.labels import CITYSCAPES, LabelSet

RUN = "run"
"""Kind of a finished run in its manifest."""
Picture = npt.NDArray[np.uint8]


class Segmenter(Protocol):
    """A segmenter that was opened.

    Attributes:
        kind: `bundle` or `run`.
        recipe: What it was trained with.
        label_set: The classes that its labels count.
        backend: What runs it.
        device: Where it computes.
    """

    kind: str
    recipe: Recipe
    label_set: LabelSet
    backend: str
    device: str

    def predict(self, image: Picture) -> Picture:
        """Labels one image.

        Args:
            image: (H, W, 3) uint8 RGB of any size.

        Returns:
            (H, W) uint8 train ids.
        """
        ...

    def predict_with_trust(self, image: Picture) -> tuple[Picture, Picture]:
        """Labels one image, with the confidence of every label.

        Args:
            image: (H, W, 3) uint8 RGB of any size.

        Returns:
            (H, W) uint8 train ids, and (H, W) uint8 of 255 times the best class's share of all scores.

        Raises:
            CloudsError: The model gives no scores.
        """
        ...

    def scores_at(self, image: Picture, size: tuple[int, int]) -> npt.NDArray[np.float32]:
        """Class scores of one image.

        Args:
            image: (H, W, 3) uint8 RGB of any size.
            size: Rows and columns of the result.

        Returns:
            (C, *size) float32, not negative, resized bilinearly.

        Raises:
            CloudsError: The model gives no scores.
        """
        ...

    def batch(self, images: Picture) -> Any:
        """What an evaluation compares with labels.

        Args:
            images: (B, H, W, 3) uint8 RGB.

        Returns:
            `models.clouds.scores.Scores` (B, C, h, w) at the size that the model sees; or (B, H, W) uint8
            labels of a model that gives only them.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Facts for manifests: kind, path, sha256 of its manifest, backend, device, weights.

        With another label set than `cityscapes19` this too, as `label_set`.
        """
        ...

    def close(self) -> None:
        """Releases the model; it labels nothing afterwards."""
        ...


class _BundleSegmenter:
    """A bundle on one backend; images are letterboxed to the graph's size."""

    kind = KIND

    def __init__(self, bundle: Bundle, backend: str, options: Options, vocabulary: Vocabulary | None) -> None:
        self.bundle, self.recipe = bundle, bundle.recipe
        self.label_set = bundle.label_set
        if vocabulary is not None:
            self.label_set = vocabulary.label_set()
        self.session = open_session(
            bundle,
            backend,
            device=options.device,
            threads=options.threads,
            precision=options.precision,
            batch=1,
            vocabulary=vocabulary,
        )
        self.backend, self.device = self.session.backend, self.session.device

    def _run(self, image: Picture) -> tuple[list[Any], Letterbox]:
        bundle = self.bundle
        fitted, box = fit(image, bundle.height, bundle.width, bundle.mean_color)
        outputs = self.session.run({bundle.inputs[0].name: fitted[None]})
        return [outputs[spec.name][0] for spec in bundle.outputs], box

    def predict(self, image: Picture) -> Picture:
        """See `Segmenter.predict`."""
        (labels, *_), box = self._run(image)
        return box.restore(labels)

    def predict_with_trust(self, image: Picture) -> tuple[Picture, Picture]:
        """See `Segmenter.predict_with_trust`; the graph's scores have a quarter of its size."""
        bundle = self.bundle
        self._require_scores()
        (labels, scores), box = self._run(image)
        scores = scores.astype(np.float32)
        share = scores.max(0) / np.maximum(scores.sum(0), 1e-6)
        trust = Image.fromarray(np.rint(255 * share).astype(np.uint8))
        full = trust.resize((bundle.width, bundle.height), Image.Resampling.BILINEAR)
        return box.restore(labels), box.restore(np.array(full))

    def _require_scores(self) -> None:
        if len(self.bundle.outputs) < 2:
            raise CloudsError(
                f"{self.bundle.path} gives labels only", "export it with --scores, or give the run"
            )

    def scores_at(self, image: Picture, size: tuple[int, int]) -> npt.NDArray[np.float32]:
        """See `Segmenter.scores_at`; the graph's scores have a quarter of its size."""
        self._require_scores()
        (_, scores), box = self._run(image)
        scale = scores.shape[1] / self.bundle.height
        inner = (0.0, 0.0, box.inner_width * scale, box.inner_height * scale)
        found = np.empty((len(scores), *size), np.float32)
        for number, plane in enumerate(np.asarray(scores, np.float32)):
            large = Image.fromarray(plane).resize(size[::-1], Image.Resampling.BILINEAR, box=inner)
            found[number] = np.asarray(large)
        return found

    def batch(self, images: Picture) -> Picture:
        """See `Segmenter.batch`."""
        return np.stack([self.predict(image) for image in images])

    def describe(self) -> dict[str, Any]:
        """See `Segmenter.describe`."""
        return {
            "kind": self.kind,
            "path": str(self.bundle.path),
            "sha256": sha256(self.bundle.path / MANIFEST),
            "backend": self.backend,
            "device": self.device,
            "precision": "bf16" if self.session.precision == "bf16" else self.bundle.precision,
            "size": [self.bundle.height, self.bundle.width],
            "backbone_weights": self.bundle.weights,
            **_told(self.label_set),
        }

    def close(self) -> None:
        """See `Segmenter.close`."""
        self.session.close()


class _RunSegmenter:
    """A finished run in PyTorch; images are resized as its recipe evaluates them."""

    kind = RUN

    def __init__(self, run: Path, options: Options, checkpoint: str | None) -> None:
        self.path, self.backend = run, "torch"
        self._run: TorchRun | None = TorchRun(run, options, checkpoint)
        self._sha256 = self._run.sha256
        self.recipe, self.device, self._weights = self._run.recipe, self._run.device, self._run.weights
        self.label_set = self.recipe.data.classes

    def _opened(self) -> TorchRun:
        if self._run is None:
            raise CloudsError("the model is closed", "open it again")
        return self._run

    def predict(self, image: Picture) -> Picture:
        """See `Segmenter.predict`."""
        return self._opened().labels(image)[0]

    def predict_with_trust(self, image: Picture) -> tuple[Picture, Picture]:
        """See `Segmenter.predict_with_trust`."""
        labels, trust = self._opened().labels(image, shares=True)
        assert trust is not None
        return labels, trust

    def scores_at(self, image: Picture, size: tuple[int, int]) -> npt.NDArray[np.float32]:
        """See `Segmenter.scores_at`."""
        return self._opened().scores_at(image, size)

    def batch(self, images: Picture) -> Any:
        """See `Segmenter.batch`."""
        return self._opened().scores(images)

    def describe(self) -> dict[str, Any]:
        """See `Segmenter.describe`."""
        return {
            "kind": self.kind,
            "path": str(self.path),
            "sha256": self._sha256,
            "backend": self.backend,
            "device": self.device,
            "precision": "fp32",
            "size": self.recipe.evaluate.short_side,
            "backbone_weights": self._weights,
            **_told(self.label_set),
        }

    def close(self) -> None:
        """See `Segmenter.close`."""
        self._run = None


def _told(label_set: LabelSet) -> dict[str, Any]:
    return {} if label_set == CITYSCAPES else {"label_set": label_set.to_value()}


def open_model(
    path: str | Path,
    *,
    backend: str | None = None,
    device: str = "auto",
    precision: str = "fp32",
    threads: int | None = None,
    vocabulary: Vocabulary | None = None,
    checkpoint: str | None = None,
) -> Segmenter:
    """Opens a finished run or a segmenter's bundle, and says where it computes.

    Args:
        path: A run's directory, a bundle's, or a `.clouds` file.
        backend: Of a bundle, a name in `backends.BACKENDS`; None is `onnxruntime`. A run is PyTorch's.
        device: See `backends.device.resolve_device`.
        precision: See `backends.options.Options`.
        threads: See `backends.options.Options`.
        vocabulary: Other classes than the bundle's own, text head only; labels count them from 0.
        checkpoint: Of a run, also an unfinished one: `best`, `last` or a number of steps; None is what it
            ended with.

    Raises:
        CloudsError: It is neither, or it does not hold; see also `open_session` and `TorchRun`.
    """
    path = unpacked(Path(path))
    kind = kind_of(path)
    named, computing = chosen(backend or "onnxruntime", precision)
    options = Options(device, threads, computing)
    model: Segmenter
    if kind == KIND:
        if checkpoint is not None:
            raise CloudsError(f"{path} is a bundle, which has no checkpoints", "leave --checkpoint out")
        model = _BundleSegmenter(open_bundle(path, KIND), named, options, vocabulary)
    elif kind == RUN or (path.is_dir() and kind is None):
        if backend not in (None, "torch"):
            hint = f"leave --backend out, or make a bundle: clouds-deploy export {path}"
            raise CloudsError(f"{path} is a run, which only PyTorch computes, not {named}", hint)
        if vocabulary is not None:
            raise CloudsError(f"{path} is a run, whose classes are its recipe's", "export it to a bundle")
        model = _RunSegmenter(path, options, checkpoint)
    else:
        what = f"is a {kind}" if kind else "does not exist"
        raise CloudsError(f"{path} {what}; it has to be a run or a bundle", "give what train or export made")
    announce(model.device, model.backend, computing)
    return model
