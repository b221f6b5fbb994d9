from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clouds_deploy.data.images import fit_size
from clouds_deploy.errors import CloudsError
from clouds_deploy.inference.masks import full_masks
from clouds_deploy.inference.sam import Embedded, Sam, torch_sam
from tests.models.sam_cases import model, pictures


@pytest.fixture(scope="module")
def sam() -> Sam:
    return torch_sam(model("sam_tiny"))


@pytest.fixture(scope="module")
def embedded(sam: Sam) -> Embedded:
    return sam.embed(pictures((100, 60), (40, 90)))


def good() -> dict[str, Any]:
    return {
        "image_index": np.array([0, 1, 1]),
        "points": np.full((3, 2, 2), 9.0),
        "labels": np.array([[1, 0], [1, 1], [2, 3]]),
    }


def test_it_says_what_it_is(sam: Sam) -> None:
    assert (sam.name, sam.size) == ("sam_tiny", 256)
    facts = sam.describe()
    assert facts["weights"] == "random"
    assert facts["backend"] == "torch"


def test_batches_give_what_single_calls_give(sam: Sam, embedded: Embedded) -> None:
    """However the work is cut, it comes out the same."""
    images = pictures((100, 60), (40, 90))
    small = Sam(sam.encoder, sam.decoder, sam.name, image_batch=1, prompt_batch=1)
    np.testing.assert_allclose(small.embed(images).features, embedded.features, rtol=0, atol=1e-4)
    for one, many in zip(small.prompt(embedded, **good()), sam.prompt(embedded, **good()), strict=True):
        np.testing.assert_allclose(one, many, rtol=0, atol=1e-5)


def test_nothing_in_nothing_out(sam: Sam, embedded: Embedded) -> None:
    low, scores = sam.prompt(embedded, np.zeros(0, np.int64), np.zeros((0, 3, 2)), np.zeros((0, 3), np.int64))
    assert low.shape == (0, 3, 256, 256)
    assert scores.shape == (0, 3)
    assert sam.masks(low[:, 0], (100, 60)).shape == (0, 100, 60)
    assert sam.embed([]).features.shape[0] == 0


@pytest.mark.parametrize("size", [(256, 256), (100, 60), (128, 512), (720, 1283), (1052, 1914), (61, 97)])
def test_masks_are_pytorchs(size: tuple[int, int]) -> None:
    """`segment_anything` resizes logits to the square, cuts the image out, and resizes that."""
    random = np.random.default_rng(sum(size))
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    radius, noise = random.uniform(0.1, 1, (4, 1, 1)), random.normal(0, 0.3, (4, 64, 64))
    low = (9 * (radius - np.hypot(y, x)) + noise).astype(np.float32)
    fitted = fit_size(*size, long=256)
    square = F.interpolate(torch.from_numpy(low)[:, None], (256, 256), mode="bilinear")
    full = F.interpolate(square[..., : fitted[0], : fitted[1]], size, mode="bilinear")[:, 0] > 0
    found = full_masks(low, (256, 256), fitted, size)
    assert np.array_equal(found, full.numpy())
    assert 0 < found.mean() < 1


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((1, 5000, 3), np.uint8),
    ],
)
def test_bad_images(sam: Sam, image: Any) -> None:
    with pytest.raises(CloudsError):
        sam.embed([image])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_index", np.array([0, 1, 2])),
        ("image_index", np.array([0, 1, -1])),
        ("image_index", np.array([0.0, 1.0, 1.0])),
        ("image_index", np.array([0, 1])),
        ("points", np.zeros((3, 2))),
        ("points", np.zeros((3, 0, 2))),
        ("points", np.full((3, 2, 2), np.nan)),
        ("points", np.zeros((3, 2, 3))),
        ("labels", np.array([[1, 0], [1, 1], [4, 3]])),
        ("labels", np.ones((3, 3))),
    ],
)
def test_bad_prompts(sam: Sam, embedded: Embedded, name: str, value: np.ndarray) -> None:
    with pytest.raises(CloudsError):
        sam.prompt(embedded, **{**good(), name: value})


@pytest.mark.parametrize("shape", [(128, 128), (2, 3, 128, 128), (2, 64, 64)])
def test_bad_masks(sam: Sam, shape: tuple[int, ...]) -> None:
    with pytest.raises(CloudsError):
        sam.masks(np.zeros(shape, np.float32), (100, 60))


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(CloudsError, match="no device `tpu`"):
        torch_sam(model("sam_tiny"), "tpu")


def test_features_of_another_model(sam: Sam, embedded: Embedded) -> None:
    wrong = Embedded(embedded.features[:, :, :8], embedded.sizes)
    with pytest.raises(CloudsError):
        sam.prompt(wrong, **good())
