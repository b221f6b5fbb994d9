"""Official refinement next to the authors' way on `segment_anything.SamPredictor`."""

from __future__ import annotations

import numpy as np
import pytest

from clouds_deploy.config.joint import RefineConfig
from clouds_deploy.inference.sam import torch_sam
from clouds_deploy.refinement.refiner import Refiner
from tests.models.sam_cases import model, small_sam
from tests.parity import authors_refinement
from tests.refinement.fakes import scene

CONFIG = RefineConfig(mode="official", seed=3, min_area=15000)


@pytest.mark.parametrize("name", ["vit_b", "sam_tiny"])
def test_the_same_prompts_give_the_same_labels(name: str) -> None:
    from segment_anything import SamPredictor

    images, labels = zip(
        *(scene(i, *size) for i, size in enumerate([(64, 64), (50, 80), (72, 60)])), strict=True
    )
    refined = Refiner(torch_sam(model(name)), CONFIG).refine(list(images), list(labels))
    predictor = SamPredictor(small_sam(name))
    assert sum(r.prompted for r in refined) >= 6
    for key, (image, own, ours) in enumerate(zip(images, labels, refined, strict=True)):
        random = np.random.default_rng([CONFIG.seed, key])
        theirs = authors_refinement.refine(predictor, image, own, CONFIG, random)
        assert (ours.labels == theirs).mean() > 0.999
        assert np.array_equal(ours.negatives, ours.labels == 255)


def test_without_prompts_the_labels_stay() -> None:
    from segment_anything import SamPredictor

    image, labels = scene(0)
    config = CONFIG.model_copy(update={"min_area": 768 * 768})
    theirs = authors_refinement.refine(
        SamPredictor(small_sam("sam_tiny")), image, labels, config, np.random.default_rng(0)
    )
    (ours,) = Refiner(torch_sam(model("sam_tiny")), config).refine([image], [labels])
    assert np.array_equal(ours.labels, theirs)
    assert np.array_equal(theirs, labels)
