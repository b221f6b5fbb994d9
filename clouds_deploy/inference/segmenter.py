"""Labels for images of any size, from a bundle or straight from a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from clouds_deploy.artifacts import MANIFEST, kind_of, sha256
from clouds_deploy.backends.backends import open_session
from clouds_deploy.backends.options import Precision
from clouds_deploy.bundles.bundle import KIND, open_bundle
from clouds_deploy.bundles.vocabulary import Vocabulary
from clouds_deploy.config.recipe import EvaluateConfig
from clouds_deploy.errors import CloudsError
from clouds_deploy.inference.letterbox import fit
from clouds_deploy.models.clouds.segmenter import Segmenter

if TYPE_CHECKING:
    from torch import Tensor

Picture = npt.NDArray[np.uint8]


class Predictor(Protocol):
    """Whatever labels images."""

    def predict(self, image: Picture) -> Picture:
        """Label one image.

        Args:
            image: (H, W, 3) uint8 RGB of any size.

        Returns:
            (H, W) uint8 train ids.
        """
        ...

    def predict_with_trust(self, image: Picture) -> tuple[Picture, Picture]:
        """Label one image, and say how sure the labels are.

        Args:
            image: (H, W, 3) uint8 RGB of any size.

        Returns:
            (H, W) uint8 train ids, and (H, W) uint8 of 255 times the best class's share of all scores.

        Raises:
            CloudsError: The model gives no scores.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Say what it is, for manifests: kind, path, sha256 of its manifest, backend, weights."""
        ...


class BundleSegmenter:
    """A bundle on one runtime, as a `Predictor`; images are letterboxed to the graph's size.

    Args:
        bundle: The bundle's directory.
        backend: The runtime.
        device: See `backends.backends.Options`.
        threads: See `backends.backends.Options`.
        precision: See `backends.backends.Options`.
        vocabulary: Other classes than the bundle's own, text head only; labels count them from 0.

    Raises:
        CloudsError: See `open_session`.
    """

    def __init__(
        self,
        bundle: Path,
        backend: str = "onnxruntime",
        *,
        device: str = "cpu",
        threads: int | None = None,
        precision: Precision = "f32",
        vocabulary: Vocabulary | None = None,
    ) -> None:
        self.bundle = open_bundle(bundle, KIND)
        self.session = open_session(
            self.bundle, backend, device=device, threads=threads, precision=precision, batch=1,
            vocabulary=vocabulary,
        )  # fmt: skip

    def predict(self, image: Picture) -> Picture:
        """Label one image; see `Predictor.predict`."""
        bundle = self.bundle
        fitted, box = fit(image, bundle.height, bundle.width, bundle.mean_color)
        outputs = self.session.run({bundle.inputs[0].name: fitted[None]})
        return box.restore(outputs[bundle.outputs[0].name][0])

    def predict_with_trust(self, image: Picture) -> tuple[Picture, Picture]:
        """See `Predictor.predict_with_trust`; the scores are those of the graph, at a quarter of its size."""
        from PIL import Image

        bundle = self.bundle
        if len(bundle.outputs) < 2:
            raise CloudsError(f"{bundle.path} gives labels only", "export it with --scores, or give the run")
        fitted, box = fit(image, bundle.height, bundle.width, bundle.mean_color)
        outputs = self.session.run({bundle.inputs[0].name: fitted[None]})
        scores = outputs[bundle.outputs[1].name][0].astype(np.float32)
        share = scores.max(0) / np.maximum(scores.sum(0), 1e-6)
        trust = Image.fromarray(np.rint(255 * share).astype(np.uint8))
        full = trust.resize((bundle.width, bundle.height), Image.Resampling.BILINEAR)
        return box.restore(outputs[bundle.outputs[0].name][0]), box.restore(np.array(full))

    def describe(self) -> dict[str, Any]:
        """See `Predictor.describe`."""
        return {
            "kind": KIND,
            "path": str(self.bundle.path),
            "sha256": sha256(self.bundle.path / MANIFEST),
            "backend": self.session.backend,
            "device": self.session.device,
            "size": [self.bundle.height, self.bundle.width],
            "backbone_weights": self.bundle.weights,
        }


class RunSegmenter:
    """A training run in PyTorch, as a `Predictor`; images are resized as its recipe evaluates them.

    Args:
        run: A finished run.
        device: Where to compute.

    Raises:
        CloudsError: It is no finished run.
    """

    def __init__(self, run: Path, *, device: str = "cpu") -> None:
        from clouds_deploy.models.clouds.store import load_run

        self.path, self.device = run, device
        self.recipe, segmenter = load_run(run)
        self.segmenter = segmenter.to(device).eval()

    def scores(self, image: Picture) -> Tensor:
        """Score one image.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            (19, H, W) float32, computed at the recipe's size and resized bilinearly to the image's.
        """
        import torch
        from PIL import Image

        height, width = image.shape[:2]
        short = self.recipe.evaluate.short_side
        scale = 1.0 if short is None else short / min(height, width)
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        if size != (height, width):
            picture = Image.fromarray(np.ascontiguousarray(image))
            image = np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR))
        with torch.inference_mode():
            pixels = torch.from_numpy(np.array(image)).to(self.device).permute(2, 0, 1)[None]
            scores = self.segmenter.scores(pixels, "exact")
            if size != (height, width):
                scores = F.interpolate(scores, size=(height, width), mode="bilinear", align_corners=False)
        return scores[0]

    def predict(self, image: Picture) -> Picture:
        """Label one image; see `Predictor.predict`."""
        return self.predict_with_trust(image)[0]

    def predict_with_trust(self, image: Picture) -> tuple[Picture, Picture]:
        """See `Predictor.predict_with_trust`."""
        from clouds_deploy.models.clouds.segmenter import label_and_trust

        labels, trust = label_and_trust(self.scores(image)[None])
        return labels[0].cpu().numpy(), (255 * trust[0]).round().to("cpu").numpy().astype(np.uint8)

    def describe(self) -> dict[str, Any]:
        """See `Predictor.describe`."""
        return {
            "kind": "run",
            "path": str(self.path),
            "sha256": sha256(self.path / MANIFEST),
            "backend": "torch",
            "device": self.device,
            "size": self.recipe.evaluate.short_side,
            "backbone_weights": self.segmenter.backbone.weights,
        }


def open_predictor(path: Path, *, backend: str = "onnxruntime", device: str = "cpu") -> Predictor:
    """Open a run or a bundle, whichever the directory is.

    Args:
        path: A finished run, or a bundle.
        backend: Bundles only: the runtime.
        device: Where to compute.

    Raises:
        CloudsError: It is neither.
    """
    kind = kind_of(path)
    if kind == KIND:
        return BundleSegmenter(path, backend, device=device)
    if kind == "run" or (path.is_dir() and kind is None):
        return RunSegmenter(path, device=device)
    what = f"is a {kind}" if kind else "does not exist"
    raise CloudsError(f"{path} {what}; it has to be a run or a bundle", "give what train or export made")


Images = npt.NDArray[np.uint8]


Predict = Callable[[Images], Tensor | npt.NDArray[Any]]
"""(B, H, W, 3) uint8 RGB to class scores (B, 19, h, w) float, or to labels (B, h, w) uint8."""


def resize_short_side(image: npt.NDArray[np.uint8], short_side: int | None) -> npt.NDArray[np.uint8]:
    """Resize an image, keeping its aspect, as the authors' test mapper does (bilinear, antialiased).

    Args:
        image: (H, W, 3) uint8.
        short_side: Pixels of the shorter side; null leaves the image as it is.

    Returns:
        (h, w, 3) uint8.
    """
    height, width = image.shape[:2]
    if short_side is None or min(height, width) == short_side:
        return image
    scale = short_side / min(height, width)
    size = (int(width * scale + 0.5), int(height * scale + 0.5))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


def torch_predictor(segmenter: Segmenter, config: EvaluateConfig, device: torch.device) -> Predict:
    """Make a predictor of a model; it is moved to the device and put in evaluation mode.

    Args:
        segmenter: The model.
        config: Its `short_side` is the size the model sees images at.
        device: Where to run.

    Returns:
        A predictor whose scores have the size the model saw.
    """
    segmenter.to(device).eval()

    @torch.inference_mode()
    def predict(images: Images) -> Tensor:
        seen = np.stack([resize_short_side(image, config.short_side) for image in images])
        batch = torch.from_numpy(seen).to(device).permute(0, 3, 1, 2)
        return segmenter.scores(batch)

    return predict
