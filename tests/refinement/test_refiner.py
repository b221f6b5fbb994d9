from __future__ import annotations

import numpy as np
import pytest

import clouds_deploy.refinement.prompts as prompts
from clouds_deploy.config.joint import RefineConfig
from clouds_deploy.errors import CloudsError
from clouds_deploy.inference.sam import Sam, torch_sam
from clouds_deploy.refinement.refiner import Refiner
from tests.models.sam_cases import model
from tests.refinement.fakes import ColourSam, scene

MODES = ("robust", "official")
SIZES = ((64, 64), (48, 64), (64, 40), (64, 64), (50, 50))


@pytest.fixture(scope="module")
def sam() -> Sam:
    return torch_sam(model("sam_tiny"))


def batch() -> tuple[list[np.ndarray], list[np.ndarray]]:
    images, labels = zip(*(scene(i, *size) for i, size in enumerate(SIZES)), strict=True)
    return list(images), list(labels)


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_is_its_images_one_at_a_time(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "PROMPTS_AT_ONCE", 4)  # cuts through images
    refiner = Refiner(ColourSam(), RefineConfig(mode=mode))  # type: ignore[arg-type]
    images, labels = batch()
    together = refiner.refine(images, labels)
    for i, (image, own) in enumerate(zip(images, labels, strict=True)):
        (alone,) = refiner.refine([image], [own], keys=[i])
        assert np.array_equal(alone.labels, together[i].labels)
        assert np.array_equal(alone.negatives, together[i].negatives)
        assert (alone.prompted, alone.accepted) == (together[i].prompted, together[i].accepted)
    assert sum(r.accepted for r in together) >= len(SIZES)


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_through_a_real_sam(mode: str, sam: Sam) -> None:
    refiner = Refiner(sam, RefineConfig(mode=mode))  # type: ignore[arg-type]
    images, labels = batch()
    together, again = refiner.refine(images, labels), refiner.refine(images, labels)
    for i, (image, own) in enumerate(zip(images, labels, strict=True)):
        (alone,) = refiner.refine([image], [own], keys=[i])
        assert np.array_equal(together[i].labels, again[i].labels)
        assert (together[i].labels == alone.labels).mean() > 0.999


def test_prompts_of_several_images_go_through_the_decoder_together() -> None:
    sam = ColourSam()
    images, labels = batch()
    refined = Refiner(sam, RefineConfig()).refine(images, labels)
    assert sam.embedded == [len(SIZES)]
    assert sam.prompted == [sum(r.prompted for r in refined)]


def test_images_without_prompts_are_not_encoded() -> None:
    sam = ColourSam()
    images, labels = batch()
    labels[1][:] = 255
    Refiner(sam, RefineConfig()).refine(images, labels)
    assert sam.embedded == [len(SIZES) - 1]
    assert Refiner(sam, RefineConfig()).refine([], []) == []


def test_inputs_are_left_alone() -> None:
    images, labels = batch()
    before = [a.copy() for a in (*images, *labels)]
    for mode in MODES:
        Refiner(ColourSam(), RefineConfig(mode=mode)).refine(images, labels)  # type: ignore[arg-type]
    assert all(np.array_equal(a, b) for a, b in zip((*images, *labels), before, strict=True))


def test_sizes_must_agree() -> None:
    image, labels = scene(0)
    with pytest.raises(CloudsError, match="has labels of"):
        Refiner(ColourSam(), RefineConfig()).refine([image], [labels[:-1]])
