"""The C++ SAM against the Python one: the same two graphs, the same pre- and post-processing around them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clouds_deploy.backends.backends import open_graph
from clouds_deploy.backends.options import Options
from clouds_deploy.errors import CloudsError
from clouds_deploy.inference.sam import Sam
from tests.cpp.toy_sam import LOW, SIDE


@pytest.fixture(scope="module")
def python(toy_sam: Path) -> Sam:
    sessions = (
        open_graph(toy_sam / f"{name}.onnx", "openvino", Options()) for name in ("encoder", "decoder")
    )
    return Sam(*sessions, "toy", prompt_batch=16)


@pytest.fixture
def sam(library: Any, binding: Any, toy_sam: Path) -> Any:
    opened = binding.Sam(library, toy_sam, backend="openvino")
    yield opened
    opened.close()


def prompts(height: int, width: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Points and boxes, mixed; more than are decoded at once."""
    rng = np.random.default_rng(count)
    points = rng.uniform(0, 1, (count, 3, 2)) * (width, height)
    labels = rng.integers(0, 2, (count, 3))
    labels[::3] = (2, 3, -1)
    labels[1::3, 2] = -1
    points[labels == -1] = 0
    return points, labels


@pytest.mark.parametrize("size", [(SIDE, SIDE), (40, 90), (301, 77), (500, 333), (3, 64)])
def test_it_gives_what_python_gives(sam: Any, python: Sam, size: tuple[int, int]) -> None:
    assert (sam.size, sam.mask_size) == (SIDE, LOW)
    image = np.random.default_rng(sum(size)).integers(0, 256, (*size, 3)).astype(np.uint8)
    points, labels = prompts(*size, 40)
    embedded = python.embed([image])
    want, want_iou = python.prompt(embedded, np.zeros(40, np.int64), points, labels)
    seen = sam.embed(image)
    logits, iou = sam.prompt(seen, points, labels)
    np.testing.assert_allclose(logits, want, rtol=1e-6, atol=1e-4)
    np.testing.assert_allclose(iou, want_iou, rtol=1e-6)
    rng = np.random.default_rng(1)
    low = rng.normal(size=(8, LOW, LOW)).astype(np.float32)
    masks = np.stack([sam.mask(seen, one) for one in low])
    wanted = python.masks(low, size)
    assert set(np.unique(masks)) == {0, 1}
    assert (masks == wanted).mean() >= 0.9999
    sam.free(seen)


def test_what_does_not_fit_is_refused(library: Any, binding: Any, sam: Any, python: Sam, toy: Path) -> None:
    image = np.zeros((20, 30, 3), np.uint8)
    seen, embedded = sam.embed(image), python.embed([image])
    for points, labels in (
        (np.zeros((1, 1, 2)), np.full((1, 1), 4)),
        (np.full((1, 1, 2), np.nan), np.ones((1, 1), int)),
    ):
        with pytest.raises(CloudsError) as want:
            python.prompt(embedded, np.zeros(1, np.int64), points, labels)
        with pytest.raises(binding.Refused) as caught:
            sam.prompt(seen, points, labels)
        assert (caught.value.message, caught.value.hint) == (want.value.message, want.value.hint)
    sam.free(seen)
    thin = np.zeros((1, 5000, 3), np.uint8)
    with pytest.raises(CloudsError) as want:
        python.embed([thin])
    with pytest.raises(binding.Refused) as caught:
        sam.embed(thin)
    assert caught.value.message == want.value.message
    with pytest.raises(binding.Refused, match="is a bundle, not a sam_bundle"):
        binding.Sam(library, toy)
