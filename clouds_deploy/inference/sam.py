"""Promptable segmentation of images of any size: SAM's pre- and post-processing around two graphs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from clouds_deploy.backends.session import Session
from clouds_deploy.bundles.tensors import Array
from clouds_deploy.errors import CloudsError

if TYPE_CHECKING:
    from clouds_deploy.models.sam.build import SamModel

Picture = npt.NDArray[np.uint8]
LARGEST_CHUNK = 2**26
"""Pixels of masks that are resized at once; 256 MiB as float32."""


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
    """Say how many images of a side are encoded at once: as many as have the pixels of one of 1024 x 1024."""
    return max(1, 2**20 // side**2)


def fitted_size(height: int, width: int, side: int) -> tuple[int, int]:
    """Say to what size SAM resizes an image: its long side to `side`, the other in proportion.

    Source: `ResizeLongestSide.get_preprocess_shape` of `segment_anything`.
    """
    scale = side / max(height, width)
    return int(height * scale + 0.5), int(width * scale + 0.5)


def fill_square(square: Picture, image: Picture) -> tuple[int, int]:
    """Put an image into the upper left corner of the square that SAM's encoder sees.

    Args:
        square: (S, S, 3) uint8, written to.
        image: (H, W, 3) uint8 RGB.

    Returns:
        The rows and the columns that it fills.
    """
    rows, columns = fitted_size(image.shape[0], image.shape[1], len(square))
    square[:rows, :columns] = _resize(image, rows, columns)
    return rows, columns


class Sam:
    """A promptable segmenter on two sessions, whatever runs them.

    Gives what `segment_anything.SamPredictor` gives with `multimask_output=True`, for many images and many
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
        """Encode images, of any sizes.

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
        """Propose three masks for every prompt.

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
        """Part prompts by what is decoded together: those with a box from those without, maybe by image."""
        kinds = boxed.astype(np.int64)
        keys = kinds * (int(index.max(initial=0)) + 1) + index if self.by_image else kinds
        return [np.flatnonzero(keys == key) for key in np.unique(keys)]

    def masks(self, low_res: Array, size: tuple[int, int]) -> Array:
        """Bring low-resolution logits of one image to its own size, and cut them at zero.

        Args:
            low_res: (P, L, L) float32 logits.
            size: Height and width of the original image.

        Returns:
            (P, H, W) bool.

        Raises:
            CloudsError: They are no such logits.
        """
        import torch
        import torch.nn.functional as F

        if low_res.ndim != 3 or low_res.shape[1:] != (self._low, self._low):
            raise CloudsError(
                f"masks of shape {list(low_res.shape)} are no low-resolution masks of `{self.name}`",
                f"give (P, {self._low}, {self._low}), one proposal of each prompt",
            )
        rows, columns = fitted_size(*size, self.size)
        masks = np.empty((len(low_res), *size), np.bool_)
        times = self.size // self._low  # SAM's masks divide its square
        down, across = (min(self._low, -(-n // times) + 1) for n in (rows, columns))
        low_res = low_res[:, :down, :across]  # what lies beyond the image is not seen
        step = max(1, LARGEST_CHUNK // max(self.size * self.size, size[0] * size[1]))
        for start in range(0, len(low_res), step):
            part = torch.from_numpy(np.array(low_res[start : start + step], np.float32))[:, None]
            square = F.interpolate(part, (down * times, across * times), mode="bilinear", align_corners=False)
            full = square[..., :rows, :columns]
            if (rows, columns) != tuple(size):  # at its very size the second resizing changes nothing
                full = F.interpolate(full, tuple(size), mode="bilinear", align_corners=False)
            masks[start : start + step] = (full[:, 0] > 0).numpy()
        return masks

    def describe(self) -> dict[str, Any]:
        """Say what it is, for manifests."""
        own = {"sam": self.name, "image_size": self.size}
        return {**own, "backend": self.encoder.backend, "device": self.encoder.device, **self.facts}

    def close(self) -> None:
        """Let go of both graphs."""
        self.encoder.close()
        self.decoder.close()

    def _scales(self, sizes: Sequence[tuple[int, int]]) -> npt.NDArray[np.float64]:
        """Give the factor of x and of y from each image to the square, (B, 2)."""
        scales = np.empty((len(sizes), 2), np.float64)
        for i, (height, width) in enumerate(sizes):
            rows, columns = fitted_size(height, width, self.size)
            scales[i] = columns / width, rows / height
        return scales


def torch_sam(model: SamModel, device: str | None = None) -> Sam:
    """Run a SAM in PyTorch.

    Args:
        model: The model; it is moved to the device.
        device: Where to compute; None is the CPU.

    Raises:
        CloudsError: There is no such device.
    """
    from clouds_deploy.backends.options import Options
    from clouds_deploy.backends.torch_session import TorchSession
    from clouds_deploy.bundles.bundle import DECODER, ENCODER
    from clouds_deploy.bundles.sam_specs import sam_specs
    from clouds_deploy.models.sam.decoder import SamDecoder
    from clouds_deploy.models.sam.encoder import SamEncoder

    options = Options(device or "cpu")
    specs = sam_specs(model.sam)
    encoder = TorchSession(SamEncoder(model.sam), specs[ENCODER], options)
    decoder = TorchSession(SamDecoder(model.sam), specs[DECODER], options)
    facts = {"weights": model.source, "sha256": model.sha256}
    on_cpu = options.device == "cpu"
    return Sam(encoder, decoder, model.name, facts=facts, prompt_batch=8 if on_cpu else 64, by_image=on_cpu)


def _check_image(image: Picture, side: int) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise CloudsError(
            f"an image of shape {list(image.shape)} and type {image.dtype} is no RGB image",
            "give (height, width, 3) uint8",
        )
    if 0 in fitted_size(image.shape[0], image.shape[1], side):
        raise CloudsError(
            f"an image of {image.shape[0]} x {image.shape[1]} is too thin to be resized to a side of {side}",
            "cut it into parts",
        )


def _resize(image: Picture, rows: int, columns: int) -> Picture:
    """Resize as torchvision resizes pictures: bilinearly, antialiased, by Pillow."""
    if (rows, columns) == image.shape[:2]:
        return image
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(picture.resize((columns, rows), Image.Resampling.BILINEAR))


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
