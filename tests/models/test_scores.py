"""Labels that are computed strip by strip are those of all scores at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clouds_deploy.models.clouds import scores as module
from clouds_deploy.models.clouds.mask_decoder import Prediction
from clouds_deploy.models.clouds.scores import Scores, class_scores, class_shares, labels_at


def predicted(size: tuple[int, int], queries: int, images: int = 1) -> tuple[Prediction, tuple[int, int]]:
    """Random segments of images, and the padded size; every second class has a rival with equal scores."""
    height, width = (side + -side % 32 for side in size)
    draw = torch.Generator().manual_seed(size[0] * queries)
    logits = 2 * torch.randn(images, queries, 20, generator=draw)
    logits[..., 1:19:2] = logits[..., 0:18:2]
    masks = 6 * torch.randn(images, queries, height // 4, width // 4, generator=draw)
    return Prediction(logits, masks), (height, width)


def lazy(prediction: Prediction, size: tuple[int, int]) -> Scores:
    return Scores(class_shares(prediction), prediction.mask_logits, size)


SIZES = [(64, 64), (61, 97), (200, 333), (1000, 33), (33, 1000), (1, 700), (700, 1), (257, 510)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("queries", [1, 40, 100])
def test_strips_give_the_same_bits(
    size: tuple[int, int], queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    prediction, padded = predicted(size, queries)
    wanted = class_scores(prediction, padded)[0, :, : size[0], : size[1]]
    for rows in (5, 16, 1000):  # of masks; the smallest still makes more than PyTorch's small maps
        if 4 * (rows + 2) + padded[1] <= 128:
            continue
        monkeypatch.setattr(module, "_MASK_STRIP", 4 * padded[1] * rows)
        scores = lazy(prediction, size)[0]
        assert scores.shape == wanted.shape
        assert torch.equal(scores.whole(), wanted)
        for other in (size, (size[0] + 7, 3 * size[1])):
            labels, trust = scores.labels(other, shares=True)
            expected = labels_at(wanted, other, shares=True)
            assert torch.equal(labels, expected[0])
            assert trust is not None
            assert expected[1] is not None
            assert torch.equal(trust, expected[1])
        assert torch.equal(scores.labels(size)[0], wanted.argmax(0).to(torch.uint8))


def test_images_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MASK_STRIP", 1 << 13)
    prediction, padded = predicted((150, 170), 12, images=3)
    wanted = class_scores(prediction, padded)[:, :, :150, :170]
    scores = lazy(prediction, (150, 170))
    assert scores.shape == wanted.shape
    for number in range(3):
        assert torch.equal(scores[number].whole(), wanted[number])


def test_no_strip_is_small_enough_for_other_arithmetic() -> None:
    """PyTorch enlarges maps whose sides together have at most 128 pixels by other code."""
    for width in range(32, 20000, 32):
        rows = 4 * (max(1, module._MASK_STRIP // (4 * width)) + 2)
        assert rows + width > 256


def test_bytes_a_pixel() -> None:
    """Besides the masks themselves: 4 bytes a pixel at most of a large image, where it took 19 float maps."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        pytest.skip("the system tells no peak of memory")

    def memory(name: str) -> int:
        return 1024 * int(status.read_text().split(f"{name}:")[1].split()[0])

    prediction, size = predicted((2048, 4096), 40)
    scores = lazy(prediction, size)[0]
    reset.write_text("5")  # the peak starts anew
    before = memory("VmRSS")
    labels, trust = scores.labels(size, shares=True)
    assert labels.shape == size
    assert trust is not None
    strips = 3 * 4 * (40 + 19) * module._MASK_STRIP
    assert memory("VmHWM") - before < 4 * size[0] * size[1] + strips
