from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from clouds_deploy.errors import CloudsError
from clouds_deploy.inference.sam import Embedded, Sam, fitted_size, torch_sam
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


def test_masks_in_chunks(sam: Sam, embedded: Embedded, monkeypatch: pytest.MonkeyPatch) -> None:
    low = sam.prompt(embedded, **good())[0][:, 1]
    whole = sam.masks(low, (100, 60))
    monkeypatch.setattr("clouds_deploy.inference.sam.LARGEST_CHUNK", 1)
    assert np.array_equal(sam.masks(low, (100, 60)), whole)
    assert 0 < whole.mean() < 1


@pytest.mark.parametrize(
    ("size", "fitted"), [((768, 768), (1024, 1024)), ((1052, 1914), (563, 1024)), ((3, 4000), (1, 1024))]
)
def test_fitted_size(size: tuple[int, int], fitted: tuple[int, int]) -> None:
    assert fitted_size(*size, 1024) == fitted


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
    with pytest.raises(CloudsError, match="no device"):
        torch_sam(model("sam_tiny"), "tpu")


def test_features_of_another_model(sam: Sam, embedded: Embedded) -> None:
    wrong = Embedded(embedded.features[:, :, :8], embedded.sizes)
    with pytest.raises(CloudsError):
        sam.prompt(wrong, **good())
