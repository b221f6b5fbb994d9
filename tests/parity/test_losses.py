"""Our matcher and losses against transformers' Mask2Former, on the same predictions, targets and points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from clouds_deploy.config.recipe import LossConfig
from clouds_deploy.models.clouds.mask_decoder import Prediction
from clouds_deploy.models.libraries import library
from clouds_deploy.training.segmenter.criterion import Losses, criterion
from clouds_deploy.training.segmenter.matcher import match

CLASSES = 19
CONFIG = LossConfig(points=112)


@pytest.fixture(scope="module")
def mask2former() -> Any:
    return library("transformers.models.mask2former.modeling_mask2former")


class FixedDraw:
    """The same numbers for ours and theirs, whatever order each asks in."""

    def __init__(self, layers: int, images: int, pairs: int) -> None:
        generator = torch.Generator().manual_seed(layers * 100 + images * 10 + pairs)
        candidates = int(CONFIG.points * CONFIG.oversample)
        anywhere = CONFIG.points - int(CONFIG.points * CONFIG.uncertain)
        self.layers = layers
        self.tables = {
            "matching": torch.rand(layers, images, CONFIG.points, 2, generator=generator),
            "candidates": torch.rand(layers * pairs, candidates, 2, generator=generator),
            "anywhere": torch.rand(layers * pairs, anywhere, 2, generator=generator),
        }

    def __call__(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        assert self.tables[purpose].shape == shape
        return self.tables[purpose]

    def theirs(self, loss: bool) -> Callable[..., Tensor]:
        """Answer torch.rand as transformers calls it: the last layer first, then the earlier ones."""
        order = [self.layers - 1, *range(self.layers - 1)]
        queue: list[Tensor] = []
        pairs = len(self.tables["candidates"]) // self.layers
        for layer in order:
            queue.extend(point[None] for point in self.tables["matching"][layer])
            if loss:
                rows = slice(layer * pairs, (layer + 1) * pairs)
                queue.extend((self.tables["candidates"][rows], self.tables["anywhere"][rows]))

        def rand(*shape: int, **_: Any) -> Tensor:
            answer = queue.pop(0)
            assert answer.shape == shape
            return answer

        return rand


def label_maps(images: int, height: int, width: int, most: int, generator: torch.Generator) -> Tensor:
    """Blocks of a few classes each, a different number per image, with ignored corners."""
    maps = []
    for number in range(images):
        count = 1 + (number * 3) % most
        classes = torch.randperm(CLASSES, generator=generator)[:count]
        small = classes[torch.randint(0, count, (4, 8), generator=generator)].to(torch.uint8)
        small[0, 0] = 255
        maps.append(small.repeat_interleave(height // 4, 0).repeat_interleave(width // 8, 1))
    return torch.stack(maps)


def case(seed: int, *, layers: int, images: int, queries: int, most: int) -> tuple[list[Prediction], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = label_maps(images, 64, 128, most, generator)
    predictions = [
        Prediction(
            (3 * torch.randn(images, queries, CLASSES + 1, generator=generator)).requires_grad_(),
            (4 * torch.randn(images, queries, 16, 32, generator=generator)).requires_grad_(),
        )
        for _ in range(layers)
    ]
    return predictions, labels


def their_targets(labels: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    classes = [torch.tensor([int(c) for c in m.unique() if c != 255]) for m in labels]
    masks = [(m[None] == c[:, None, None]).float() for m, c in zip(labels, classes, strict=True)]
    return masks, classes


def their_losses(module: Any, predictions: list[Prediction], labels: Tensor, draw: FixedDraw) -> Any:
    config = module.Mask2FormerConfig(
        num_labels=CLASSES, train_num_points=CONFIG.points, no_object_weight=CONFIG.void_weight
    )
    masks, classes = their_targets(labels)
    early = [
        {"masks_queries_logits": p.mask_logits, "class_queries_logits": p.class_logits}
        for p in predictions[:-1]
    ]
    last = predictions[-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.torch, "rand", draw.theirs(loss=True))
        return module.Mask2FormerLoss(config, {})(last.mask_logits, last.class_logits, masks, classes, early)


CASES = [
    {"layers": 1, "images": 2, "queries": 12, "most": 6},
    {"layers": 3, "images": 4, "queries": 20, "most": 10},
    {"layers": 4, "images": 3, "queries": 40, "most": 19},
    {"layers": 2, "images": 3, "queries": 5, "most": 12},  # more segments than queries
]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("shape", CASES, ids=str)
def test_every_loss_part_and_gradient_equals_transformers(
    mask2former: Any, shape: dict[str, int], seed: int
) -> None:
    predictions, labels = case(seed, **shape)
    pairs = sum(min(len(c), shape["queries"]) for c in their_targets(labels)[1])
    draw = FixedDraw(shape["layers"], shape["images"], pairs)
    ours: Losses = criterion(predictions, labels, CONFIG, draw)
    leaves = [t for p in predictions for t in (p.class_logits, p.mask_logits)]
    our_gradients = torch.autograd.grad(ours.parts(CONFIG).sum(), leaves)

    theirs = their_losses(mask2former, predictions, labels, draw)
    suffixes = [*(f"_{n}" for n in range(shape["layers"] - 1)), ""]
    for name, part in (
        ("loss_cross_entropy", ours.class_loss),
        ("loss_mask", ours.mask_loss),
        ("loss_dice", ours.dice_loss),
    ):
        wanted = torch.stack([theirs[name + suffix] for suffix in suffixes])
        torch.testing.assert_close(part, wanted, rtol=1e-5, atol=0, msg=lambda m, n=name: f"{n}: {m}")
    total = sum(
        weight * theirs[name + suffix]
        for suffix in suffixes
        for name, weight in (("loss_cross_entropy", 2.0), ("loss_mask", 5.0), ("loss_dice", 5.0))
    )
    for mine, other in zip(our_gradients, torch.autograd.grad(total, leaves), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("shape", CASES, ids=str)
def test_matching_is_identical_to_transformers(mask2former: Any, shape: dict[str, int]) -> None:
    for seed in range(5):
        predictions, labels = case(100 + seed, **shape)
        masks, classes = their_targets(labels)
        draw = FixedDraw(shape["layers"], shape["images"], 1)
        ours = match(predictions, labels, draw.tables["matching"], CONFIG)
        matcher = mask2former.Mask2FormerHungarianMatcher(2.0, 5.0, 5.0, CONFIG.points)
        wanted = []
        for prediction, points in zip(predictions, draw.tables["matching"], strict=True):
            queue = [point[None] for point in points]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(mask2former.torch, "rand", lambda *_, queue=queue, **__: queue.pop(0))
                pairs = matcher(prediction.mask_logits, prediction.class_logits, masks, classes)
            wanted += [
                (image, int(q), int(classes[image][c]))
                for image, (rows, columns) in enumerate(pairs)
                for q, c in zip(rows, columns, strict=True)
            ]
        got = list(zip(ours.image.tolist(), ours.query.tolist(), ours.label.tolist(), strict=True))
        assert got == wanted
        assert ours.segments == sum(len(c) for c in classes)
