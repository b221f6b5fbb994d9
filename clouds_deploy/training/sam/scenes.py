"""Synthetic images with many masks, made on demand: streets, and random textured shapes.

Every sample is a function of (recipe, seed, index). The streets are of the recipe's domains, never of
`photo`: the target of the ablation stays unseen by every model.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage
from torch import Tensor
from torch.utils.data import Dataset

from clouds_deploy import seeds
from clouds_deploy.config.sam import SamDataConfig
from clouds_deploy.data.transforms import jitter_colors
from clouds_deploy.labels import IGNORE
from clouds_deploy.streets import render
from clouds_deploy.training.sam.dense import dense_targets

Pixels = npt.NDArray[np.uint8]
Regions = npt.NDArray[np.int32]
_T = TypeVar("_T", bound=np.generic)

_SEED = 977
"""Added to the run's seed: no recipe evaluates on these street scenes."""


class SamScenes(Dataset[dict[str, Tensor]]):
    """Images with masks to prompt for.

    Args:
        config: The kinds of scenes.
        size: Width of an image in pixels, twice its height.
        frame: Side in pixels of the model's square input at inference, in which the images lie.
        seed: The run's seed.
    """

    def __init__(self, config: SamDataConfig, size: int, frame: int, seed: int) -> None:
        self.config, self.size, self.frame, self.seed = config, size, frame, seed
        self._drawn: tuple[int, tuple[Pixels, Pixels, list[Regions]]] | None = None

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """One sample.

        Returns:
            image (3, S/2, S) uint8 RGB; offset (2,) float32, x and y in pixels of the image in the model's
            square; masks (M, S/2, S) bool, each with at least one pixel; classes (S/8, S/4) uint8 and extents
            (4, S/8, S/4) float32, see `dense_targets`; regions (S/2, S) int32, 0 where there is none.
        """
        draw = seeds.generator(self.seed, seeds.SAM_SAMPLE, index)
        while True:
            if draw.random() < self.config.shapes:
                image, layers = _shapes(self.size, self.size // 2, draw)
                place = tuple(draw.uniform(0, 1, 2))
                labels = np.full(image.shape[:2], IGNORE, np.uint8)
            else:
                image, labels, layers, place = self._street(draw, index)
            if draw.random() < 0.5:
                place = 1 - place[0], place[1]
                image, labels, layers = image[:, ::-1], labels[:, ::-1], [layer[:, ::-1] for layer in layers]
            masks = pick_masks(layers, self.config.masks, self.config.smallest, self.config.instances, draw)
            if masks is not None:
                break
        classes, extents = dense_targets(labels, layers[0])
        room = np.array([self.frame - self.size, self.frame - self.size // 2])
        return {
            "image": torch.from_numpy(_weather(image, draw)).permute(2, 0, 1),
            "offset": torch.from_numpy((np.array(place) * room).astype(np.float32)),
            "masks": torch.from_numpy(masks),
            "classes": torch.from_numpy(classes.copy()),
            "extents": torch.from_numpy(extents),
            "regions": torch.from_numpy(layers[0].astype(np.int32)),
        }

    def _street(
        self, draw: np.random.Generator, index: int
    ) -> tuple[Pixels, Pixels, list[Regions], tuple[float, float]]:
        config = self.config
        rows = config.height
        whole_image, whole_labels, whole_layers = self._drawing(index // config.views)
        out = (self.size, self.size // 2)
        if draw.random() < config.whole:
            box, place = (0, 0, 2 * rows, rows), (0.0, 0.0)
        else:
            high = int(draw.integers(rows // 2, rows + 1))
            place = tuple(draw.uniform(0, 1, 2))
            left, top = int(place[0] * 2 * (rows - high)), int(place[1] * (rows - high))
            box = (left, top, left + 2 * high, top + high)
        image = np.array(Image.fromarray(whole_image).resize(out, Image.Resampling.BILINEAR, box=box))
        layers = [_cut(layer, box, out) for layer in whole_layers]
        return image, _cut(whole_labels, box, out), layers, place

    def _drawing(self, number: int) -> tuple[Pixels, Pixels, list[Regions]]:
        """Street of a number; the last one is kept, because neighbouring samples share it."""
        if self._drawn is None or self._drawn[0] != number:
            domains, rows = self.config.domains, self.config.height
            which = seeds.generator(self.seed, seeds.SCENE_DOMAIN, number).integers(len(domains))
            scene = render(domains[int(which)], _SEED + self.seed, number, rows, 2 * rows)
            regions = street_regions(scene.labels, scene.instances)
            self._drawn = number, (scene.image, scene.labels, regions)
        return self._drawn[1]


def street_regions(labels: Pixels, instances: Regions) -> list[Regions]:
    """Things and stuff of a scene as maps of numbers.

    Args:
        labels: (H, W) uint8 train ids.
        instances: (H, W) int32, 0 where there is no instance.

    Returns:
        Two (H, W) int32 maps, 0 where there is nothing: instances with the connected parts of everything
        else, and the connected parts of every class, in which neighbours of a class are one.
    """
    parts = _components(labels.astype(np.int32) + 1)
    single = np.where(instances > 0, instances + int(parts.max()), parts)
    return [single, parts]


def _components(labels: Regions) -> Regions:
    """Numbers the 4-connected parts of equal value, from 1; 0 stays 0."""
    out = np.zeros(labels.shape, np.int32)
    count = 0
    for value, box in enumerate(ndimage.find_objects(labels), 1):
        if box is not None:
            numbered, found = ndimage.label(labels[box] == value)
            np.copyto(out[box], numbered + count, where=numbered > 0)
            count += found
    return out


def _cut(layer: npt.NDArray[_T], box: tuple[int, int, int, int], out: tuple[int, int]) -> npt.NDArray[_T]:
    left, top, right, bottom = box
    rows = top + ((np.arange(out[1]) + 0.5) * (bottom - top) / out[1]).astype(np.intp)
    columns = left + ((np.arange(out[0]) + 0.5) * (right - left) / out[0]).astype(np.intp)
    return layer[rows][:, columns]


def pick_masks(
    layers: list[Regions], count: int, smallest: float, instances: float, draw: np.random.Generator
) -> npt.NDArray[np.bool_] | None:
    """Random masks of a scene, small ones as often as large ones.

    Args:
        layers: Maps of numbers, see `street_regions`: numbers of the first above those of the last are
            instances.
        count: Number of masks; some come twice if there are fewer.
        smallest: Smallest mask, as a share of the image.
        instances: Share of the masks that are instances, if there are both kinds.
        draw: Source of random numbers.

    Returns:
        (count, H, W) bool; None where no region is large enough.
    """
    candidates, parts = [], int(layers[-1].max())
    for layer, numbers in enumerate(layers):
        found, areas = np.unique(numbers, return_counts=True)
        keep = (found > 0) & (areas >= smallest * numbers.size) & (areas <= 0.9 * numbers.size)
        weight = 1.0 if layer == 0 else 0.4  # what two layers share should not count twice
        candidates += [(layer, number, weight) for number in found[keep]]
    if not candidates:
        return None
    chances = np.array([weight for _, _, weight in candidates])
    single = np.array([layer == 0 and number > parts for layer, number, _ in candidates])
    if single.any() and not single.all():
        for kind, share in ((single, instances), (~single, 1 - instances)):
            chances[kind] *= max(share, 1e-6) / chances[kind].sum()
    chances /= chances.sum()
    few = len(candidates) < count
    chosen = draw.choice(len(candidates), count, replace=few, p=chances)
    return np.stack([layers[candidates[i][0]] == candidates[i][1] for i in chosen])


def _shapes(width: int, height: int, draw: np.random.Generator) -> tuple[Pixels, list[Regions]]:
    """Overlapping polygons and ellipses with random textures, and the map of their numbers."""
    picture = Image.fromarray(_texture(width, height, draw))
    numbers = Image.new("I", (width, height), 0)
    for number in range(1, int(draw.integers(6, 18))):
        cover = Image.new("L", (width, height), 0)
        pen = ImageDraw.Draw(cover)
        x, y = draw.uniform(0, (width, height))
        radius = width * float(draw.uniform(0.03, 0.3) ** 1.2)
        if draw.random() < 0.4:
            wide, high = radius * draw.uniform(0.3, 1.0, 2)
            pen.ellipse((x - wide, y - high, x + wide, y + high), fill=255)
        else:
            corners = int(draw.integers(3, 9))
            angles = np.sort(draw.uniform(0, 2 * np.pi, corners))
            reach = radius * draw.uniform(0.4, 1.0, corners)
            pen.polygon(
                list(zip(x + reach * np.cos(angles), y + reach * np.sin(angles), strict=True)), fill=255
            )
        box = cover.getbbox()
        if box is not None:
            surface = _texture(box[2] - box[0], box[3] - box[1], draw)
            picture.paste(Image.fromarray(surface), box, cover.crop(box))
            numbers.paste(number, mask=cover)
    return np.array(picture), [np.asarray(numbers, np.int32)]


def _texture(width: int, height: int, draw: np.random.Generator) -> Pixels:
    """A (H, W, 3) surface: two colours mixed by blobs, stripes, a gradient or nothing."""
    first, second = draw.uniform(0, 255, (2, 3)).astype(np.float32)
    kind = int(draw.integers(4))
    if kind == 0:
        mix = np.zeros((height, width), np.float32)
    elif kind == 1:
        cells = int(draw.integers(3, 40))
        grid = Image.fromarray((draw.random((cells, cells)) * 255).astype(np.uint8))
        smooth = grid.resize((width, height), Image.Resampling.BICUBIC)
        mix = np.asarray(smooth, np.float32) / np.float32(255)
    else:
        angle = draw.uniform(0, np.pi)
        rows, columns = (np.arange(n, dtype=np.float32) for n in (height, width))
        way = rows[:, None] * np.float32(np.sin(angle)) + columns * np.float32(np.cos(angle))
        speed = np.float32(draw.uniform(0.1, 1.2))
        mix = 0.5 + 0.5 * np.sin(way * speed) if kind == 2 else way / (1.5 * max(width, height))
    mix = mix * np.float32(draw.uniform(0.1, 0.8))
    surface: Pixels = np.clip(first + (second - first) * mix[:, :, None], 0, 255).astype(np.uint8)
    return surface


def _weather(image: Pixels, draw: np.random.Generator) -> Pixels:
    """Changes the appearance of an image strongly: colours, blur, noise, contrast, grey."""
    picture = jitter_colors(torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1), draw)
    out: Any = picture.permute(1, 2, 0).numpy()
    if draw.random() < 0.15:
        out = np.repeat(out.mean(2, keepdims=True), 3, 2)
    out = out.astype(np.uint8)
    if draw.random() < 0.3:
        radius = float(draw.uniform(0.3, 1.2))
        out = np.asarray(Image.fromarray(out).filter(ImageFilter.GaussianBlur(radius)))
    if draw.random() < 0.3:
        curve = 255.0 * (np.arange(256) / 255.0) ** float(draw.uniform(0.6, 1.7))
        out = curve.astype(np.float32)[out]
    if draw.random() < 0.3:
        out = out * draw.uniform(0.75, 1.25, 3).astype(np.float32)
    if draw.random() < 0.5:
        out = out + np.float32(draw.uniform(2.0, 16.0)) * draw.standard_normal(out.shape, np.float32)
    noisy: Pixels = np.clip(out, 0, 255).astype(np.uint8)
    return noisy
