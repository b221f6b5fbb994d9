from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from clouds_deploy.models.sam.decoder import SamDecoder
from tests.models.sam_cases import NAMES, SIZES, small_sam


def embeddings(sam: Any, images: int) -> Tensor:
    side = sam.prompt_encoder.image_embedding_size
    return torch.randn(
        images, sam.prompt_encoder.embed_dim, *side, generator=torch.Generator().manual_seed(5)
    )


def official(sam: Any, features: Tensor, multimask: bool = True, **prompts: Any) -> tuple[Tensor, Tensor]:
    """Run the official prompt encoder and mask decoder on the prompts of one image."""
    given: dict[str, Any] = {"points": None, "boxes": None, "masks": None, **prompts}
    sparse, dense = sam.prompt_encoder(**given)
    masks, scores = sam.mask_decoder(
        image_embeddings=features,
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=multimask,
    )
    return masks, scores


def prompts(name: str, count: int, points: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return (
        torch.rand(count, points, 2, generator=generator) * SIZES[name],
        torch.randint(0, 2, (count, points), generator=generator),
    )


def pad(points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Add the padding point that the official prompt encoder adds itself."""
    return torch.nn.functional.pad(points, (0, 0, 0, 1)), torch.nn.functional.pad(labels, (0, 1), value=-1)


@pytest.mark.parametrize("name", NAMES)
def test_points_boxes_and_both(name: str) -> None:
    sam = small_sam(name)
    decoder = SamDecoder(sam)
    features = embeddings(sam, 1)
    index = torch.zeros(4, dtype=torch.int64)
    points, labels = prompts(name, 4, 3)
    boxes = torch.tensor([[8.0, 9.5, 60.0, 71.0], [0, 0, 30, 20], [40, 2, 100, 90], [3, 3, 4, 4]])
    corners, corner_labels = boxes.view(4, 2, 2), torch.tensor([2, 3]).expand(4, -1)
    cases = {
        "points": (pad(points, labels), {"points": (points, labels)}),
        "boxes": ((corners, corner_labels), {"boxes": boxes}),
        "both": (
            (torch.cat((points, corners), 1), torch.cat((labels, corner_labels), 1)),
            {"points": (points, labels), "boxes": boxes},
        ),
    }
    with torch.inference_mode():
        for what, (ours, theirs) in cases.items():
            masks, scores = decoder(features, index, *ours)
            wanted_masks, wanted_scores = official(sam, features, **theirs)
            torch.testing.assert_close(masks, wanted_masks, rtol=0, atol=1e-4, msg=what)
            torch.testing.assert_close(scores, wanted_scores, rtol=0, atol=1e-5, msg=what)


def test_a_mask_as_prompt() -> None:
    sam = small_sam("vit_b")
    features = embeddings(sam, 2)
    points, labels = prompts("vit_b", 2, 2)
    earlier = torch.randn(2, 1, *sam.prompt_encoder.mask_input_size)
    index = torch.tensor([1, 0])
    with torch.inference_mode():
        masks, scores = SamDecoder(sam)(features, index, *pad(points, labels), earlier)
        for i, image in enumerate(index):
            part = slice(i, i + 1)
            wanted = official(
                sam, features[image : image + 1], points=(points[part], labels[part]), masks=earlier[part]
            )
            torch.testing.assert_close(masks[part], wanted[0], rtol=0, atol=1e-4)
            torch.testing.assert_close(scores[part], wanted[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_prompts_of_several_images_do_not_mix(name: str) -> None:
    sam = small_sam(name)
    decoder = SamDecoder(sam)
    features = embeddings(sam, 3)
    index = torch.tensor([2, 0, 0, 1, 2])
    points, labels = pad(*prompts(name, 5, 2))
    with torch.inference_mode():
        masks, scores = decoder(features, index, points, labels)
        for i, image in enumerate(index):
            part = slice(i, i + 1)
            alone = decoder(features[image : image + 1], torch.tensor([0]), points[part], labels[part])
            torch.testing.assert_close(masks[part], alone[0], rtol=0, atol=1e-5)
            torch.testing.assert_close(scores[part], alone[1], rtol=0, atol=1e-5)


def test_labels_may_be_numbers_of_any_kind() -> None:
    sam = small_sam("vit_b")
    points, labels = pad(*prompts("vit_b", 2, 2))
    features, index = embeddings(sam, 1), torch.zeros(2, dtype=torch.int64)
    with torch.inference_mode():
        kinds = [
            SamDecoder(sam)(features, index, points, labels.to(kind))[0]
            for kind in (torch.int64, torch.float32)
        ]
    assert torch.equal(*kinds)


def test_where_padding_lies_does_not_matter() -> None:
    sam = small_sam("vit_b")
    points, labels = pad(*prompts("vit_b", 1, 1))
    moved = points.clone()
    moved[:, -1] = 77.0
    features, index = embeddings(sam, 1), torch.zeros(1, dtype=torch.int64)
    with torch.inference_mode():
        decoder = SamDecoder(sam)
        assert torch.equal(
            decoder(features, index, points, labels)[0], decoder(features, index, moved, labels)[0]
        )
