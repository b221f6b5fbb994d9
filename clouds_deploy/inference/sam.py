"""Promptable segmentation of images of any size: SAM's pre- and post-processing around two graphs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clouds_deploy.artifacts import MANIFEST, sha256
from clouds_deploy.backends import torch_session
from clouds_deploy.backends.backends import chosen, open_session
from clouds_deploy.backends.device import announce
from clouds_deploy.backends.options import Options
from clouds_deploy.backends.session import Session
from clouds_deploy.backends.tensorrt.machine import ENGINES
from clouds_deploy.bundles.bundle import DECODER, ENCODER, SAM_KIND, Bundle, open_bundle
from clouds_deploy.bundles.packed import unpacked
from clouds_deploy.bundles.tensors import Array
from clouds_deploy.data.images import fit_size, resize
from clouds_deploy.errors import CloudsError
from clouds_deploy.inference.masks import full_masks

Picture = npt.NDArray[np.uint8]


class UnfitImageError(CloudsError):
    """An image that SAM cannot take: the fault of the image, not of the machine."""


@dataclass(frozen=True)
class Embedded:
    """Images that a SAM has seen, ready to be prompted.

    Attributes:
        features: (B, C, h, w) float32 image embeddings.
        sizes: Height and width of every image as it was given.
    """

    features: Array
    sizes: tuple[tuple[int, int], ...]


def images_at_once(side: int) -> int:
    """Number of images of a side that are encoded at once: those with the pixels of one of 1024 x 1024."""
    return max(1, 2**20 // side**2)


def fill_square(square: Picture, image: Picture) -> tuple[int, int]:
    """Copies an image into the upper left corner of the square that SAM's encoder sees.

    Args:
        square: (S, S, 3) uint8, written to.
        image: (H, W, 3) uint8 RGB.

    Returns:
        The rows and the columns that it fills.
    """
    rows, columns = fit_size(*image.shape[:2], long=len(square))
    square[:rows, :columns] = resize(image, (rows, columns))
    return rows, columns


class Sam:
    """A promptable segmenter on two sessions, on any backend.

    Returns what `segment_anything.SamPredictor` gives with `multimask_output=True`, for many images and many
    prompts at once.

    Source: SAM (Kirillov et al., 2023), section 3 and appendix A.

    Args:
        encoder: `image`, `size` -> `image_embeddings`; see `models.sam.encoder.SamEncoder`.
        decoder: `image_embeddings`, `image_index`, `point_coords`, `point_labels` -> `masks`,
            `iou_predictions`; see `models.sam.decoder.SamDecoder`.
        name: The model's name.
        facts: What else manifests should say of it: its weights and their sha256.
        image_batch: Images encoded at once; None stands for `images_at_once`; the attention of those takes
            about a gigabyte in PyTorch.
        prompt_batch: Prompts decoded at once.
        by_image: Whether only prompts of one image are decoded at once: PyTorch then shares the image's side.

    Attributes:
        size: Side of the square that the encoder sees.
        name: The model's name.
    """

    def __init__(
        self,
        encoder: Session,
        decoder: Session,
        name: str,
        *,
        facts: dict[str, Any] | None = None,
        image_batch: int | None = None,
        prompt_batch: int = 16,
        by_image: bool = False,
    ) -> None:
        self.encoder, self.decoder, self.name = encoder, decoder, name
        self.facts = facts or {}
        self.size = int(encoder.inputs[0].shape[1] or 0)
        self.image_batch = image_batch or images_at_once(self.size)
        self.prompt_batch, self.by_image = prompt_batch, by_image
        self._embedding = tuple(int(d or 0) for d in encoder.outputs[0].shape[1:])
        self._low = 4 * self._embedding[1]

    def embed(self, images: Sequence[Picture]) -> Embedded:
        """Encodes images of any sizes.

        Args:
            images: Each (H, W, 3) uint8 RGB.

        Raises:
            CloudsError: One is no such image.
        """
        for image in images:
            _check_image(image, self.size)
        sizes = tuple((image.shape[0], image.shape[1]) for image in images)
        features = np.empty((len(images), *self._embedding), np.float32)
        for start in range(0, len(images), self.image_batch):
            part = images[start : start + self.image_batch]
            squares = np.zeros((len(part), self.size, self.size, 3), np.uint8)
            filled = np.empty((len(part), 2), np.int32)
            for i, image in enumerate(part):
                filled[i] = fill_square(squares[i], image)
            outputs = self.encoder.run({"image": squares, "size": filled})
            features[start : start + len(part)] = outputs["image_embeddings"]
        return Embedded(features, sizes)

    def prompt(
        self, embedded: Embedded, image_index: Array, points: Array, labels: Array
    ) -> tuple[Array, Array]:
        """Proposes three masks for every prompt.

        Args:
            embedded: What `embed` gave.
            image_index: (P,) integers, each prompt's image.
            points: (P, N, 2) x and y in pixels of the original image, from the upper left corner.
            labels: (P, N): 1 foreground, 0 background, 2 and 3 the upper left and the lower right corner of a
                box, -1 nothing (the point is left out).

        Returns:
            Low-resolution logits (P, 3, L, L) float32 and the IoU guessed for each (P, 3) float32.

        Raises:
            CloudsError: Shapes, labels or indices do not fit.
        """
        index, points, labels = _check_prompts(embedded, image_index, points, labels)
        points = points * self._scales(embedded.sizes)[index][:, None, :]
        masks = np.empty((len(index), 3, self._low, self._low), np.float32)
        scores = np.empty((len(index), 3), np.float32)
        boxed = np.any(labels >= 2, axis=1)
        for group in self._groups(boxed, index):
            for start in range(0, len(group), self.prompt_batch):
                chosen = group[start : start + self.prompt_batch]
                part_points, part_labels = points[chosen], labels[chosen]
                if not boxed[chosen[0]]:  # as SAM was trained: a point that is none stands in for the box
                    part_points = np.pad(part_points, ((0, 0), (0, 1), (0, 0)))
                    part_labels = np.pad(part_labels, ((0, 0), (0, 1)), constant_values=-1)
                used, where = np.unique(index[chosen], return_inverse=True)
                outputs = self.decoder.run(
                    {
                        "image_embeddings": np.ascontiguousarray(embedded.features[used]),
                        "image_index": where.reshape(-1).astype(np.int64),
                        "point_coords": part_points.astype(np.float32),
                        "point_labels": part_labels.astype(np.float32),
                    }
                )
                masks[chosen] = outputs["masks"]
                scores[chosen] = outputs["iou_predictions"]
        return masks, scores

    def _groups(self, boxed: Array, index: Array) -> list[Array]:
        """Groups prompts that are decoded together: those with a box apart from others, maybe by image."""
        kinds = boxed.astype(np.int64)
        keys = kinds * (int(index.max(initial=0)) + 1) + index if self.by_image else kinds
        return [np.flatnonzero(keys == key) for key in np.unique(keys)]

    def masks(self, low_res: Array, size: tuple[int, int]) -> Array:
        """Masks of one image at its own size: low-resolution logits resized, where they are above zero.

        Args:
            low_res: (P, L, L) float32 logits.
            size: Height and width of the original image.

        Returns:
            (P, H, W) bool.

        Raises:
            CloudsError: They are no such logits.
        """
        if low_res.ndim != 3 or low_res.shape[1:] != (self._low, self._low):
            raise CloudsError(
                f"masks of shape {list(low_res.shape)} are no low-resolution masks of `{self.name}`",
                f"give (P, {self._low}, {self._low}), one proposal of each prompt",
            )
        fitted = fit_size(*size, long=self.size)
        times = self.size // self._low  # SAM's masks divide its square
        down, across = (min(self._low, -(-n // times) + 1) for n in fitted)
        seen = np.ascontiguousarray(low_res[:, :down, :across], np.float32)  # the rest lies beyond the image
        return full_masks(seen, (down * times, across * times), fitted, size)

    def describe(self) -> dict[str, Any]:
        """Facts for manifests."""
        own = {"sam": self.name, "image_size": self.size}
        return {**own, "backend": self.encoder.backend, "device": self.encoder.device, **self.facts}

    def close(self) -> None:
        """Releases both graphs."""
        self.encoder.close()
        self.decoder.close()

    def _scales(self, sizes: Sequence[tuple[int, int]]) -> npt.NDArray[np.float64]:
        """The factors of x and of y from each image to the square, (B, 2)."""
        scales = np.empty((len(sizes), 2), np.float64)
        for i, (height, width) in enumerate(sizes):
            rows, columns = fit_size(height, width, long=self.size)
            scales[i] = columns / width, rows / height
        return scales


def torch_sam(model: Any, device: str = "cpu") -> Sam:
    """A SAM in PyTorch.

    Args:
        model: A `models.sam.build.SamModel`; it is moved to the device.
        device: See `backends.device.resolve_device`.

    Raises:
        CloudsError: There is no such device.
    """
    encoder, decoder = torch_session.sam_sessions(model, Options(device))
    return _in_torch(encoder, decoder, model.name, {"weights": model.source, "sha256": model.sha256})


def _in_torch(encoder: Session, decoder: Session, name: str, facts: dict[str, Any]) -> Sam:
    on_cpu = encoder.device == "cpu"
    return Sam(encoder, decoder, name, facts=facts, prompt_batch=8 if on_cpu else 64, by_image=on_cpu)


def open_sam(
    sam: str | Path | Bundle,
    *,
    weights: str | Path | None = None,
    backend: str | None = None,
    device: str = "auto",
    precision: str = "fp32",
    threads: int | None = None,
    seed: int | None = 0,
) -> Sam:
    """Opens a SAM: a bundle on a backend, or a model by its name in PyTorch. Says where it computes.

    Args:
        sam: A bundle, its directory or its `.clouds` file; or a name, see `models.sam.build.load_sam`.
        weights: Names only: a weight file, or `random`; None for those of the package.
        backend: Of a bundle, a name in `backends.SAM_BACKENDS`; None is `onnxruntime`.
        device: See `backends.device.resolve_device`.
        precision: See `backends.options.Options`.
        threads: See `backends.options.Options`.
        seed: Of random weights; None draws them from PyTorch's own random state.

    Raises:
        CloudsError: The bundle does not hold; the backend is unknown, not installed, or refuses a graph;
            weights were given for a bundle, or a backend for a name; see also `load_sam`.
    """
    named, computing = chosen(backend or "onnxruntime", precision)
    if not isinstance(sam, Bundle):
        path = unpacked(Path(sam))
        if not path.is_dir():
            if backend not in (None, "torch") or computing != "fp32":
                raise CloudsError(
                    f"`{sam}` is no bundle, and only a bundle runs on other backends than PyTorch",
                    f"make one: clouds-deploy export sam:{sam} --out bundles/{sam}",
                )
            found = _in_torch(*torch_session.named_sam(str(sam), weights, seed, Options(device, threads)))
            announce(found.encoder.device, "torch")
            return found
        if weights is not None:
            raise CloudsError(f"{sam} is a bundle, it has its weights", "leave --weights out")
        sam = open_bundle(path, SAM_KIND)
    alone = 1 if named not in ENGINES and images_at_once(sam.height) == 1 else None
    encoder, decoder = (
        open_session(sam, named, part, device=device, threads=threads, precision=computing, batch=batch)
        for part, batch in ((ENCODER, alone), (DECODER, None))
    )
    announce(encoder.device, named, computing)
    facts = {
        "bundle": str(sam.path),
        "bundle_sha256": sha256(sam.path / MANIFEST),
        "weights": sam.weights,
        "precision": "bf16" if computing == "bf16" else sam.precision,
    }
    return Sam(encoder, decoder, sam.name, facts=facts)


def _check_image(image: Picture, side: int) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise UnfitImageError(
            f"an image of shape {list(image.shape)} and type {image.dtype} is no RGB image",
            "give (height, width, 3) uint8",
        )
    if int(min(image.shape[:2]) * (side / max(image.shape[:2])) + 0.5) == 0:
        raise UnfitImageError(
            f"an image of {image.shape[0]} x {image.shape[1]} is too thin to be resized to a side of {side}",
            "cut it into parts",
        )


def _check_prompts(
    embedded: Embedded, image_index: Array, points: Array, labels: Array
) -> tuple[Array, Array, Array]:
    index, points, labels = np.asarray(image_index), np.asarray(points, np.float64), np.asarray(labels)
    count = points.shape[1] if points.ndim == 3 else 0
    if (
        index.ndim != 1
        or points.shape != (len(index), count, 2)
        or labels.shape != (len(index), count)
        or count == 0
    ):
        raise CloudsError(
            f"prompts of shapes {list(index.shape)}, {list(points.shape)}, {list(labels.shape)} do not fit",
            "give image_index (P,), points (P, N, 2) and labels (P, N) with N of at least 1",
        )
    images = len(embedded.sizes)
    if len(index) and not (index.dtype.kind in "iu" and index.min() >= 0 and index.max() < images):
        raise CloudsError(f"image_index names images that are not among the {images}", "count from 0")
    if not np.isin(labels, (-1, 0, 1, 2, 3)).all():
        raise CloudsError(
            "a point's label is none that SAM knows",
            "1 foreground, 0 background, 2 and 3 a box's corners, -1 for no point",
        )
    if not np.isfinite(points).all():
        raise CloudsError("a point is not a finite number", "give x and y in pixels")
    return index, points, labels
