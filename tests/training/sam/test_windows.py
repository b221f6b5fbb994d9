from __future__ import annotations

import torch

from clouds_deploy.models.sam.lite_encoder import STRIDE
from clouds_deploy.training.sam.windows import cut, place_windows

SIDE = 32


def _masks() -> torch.Tensor:
    masks = torch.zeros(6, 64, 128, dtype=torch.bool)
    masks[0, 3:20, 5:25] = True  # fits
    masks[1, 60:, 120:] = True  # fits, in the corner
    masks[2] = True  # larger than any window
    masks[3, 10, 2:126] = True  # a line
    masks[4, 0, 0] = masks[4, 63, 127] = True  # far parts
    masks[5, 40, 77] = True
    return masks


def test_a_window_holds_its_mask_or_a_part_of_it() -> None:
    masks, generator = _masks(), torch.Generator().manual_seed(0)
    owner = torch.arange(len(masks))
    places = []
    for _ in range(60):
        corners = place_windows(masks, SIDE, generator)
        assert (corners >= 0).all()
        assert (corners % STRIDE == 0).all()
        assert (corners <= torch.tensor([64 - SIDE, 128 - SIDE])).all()
        seen = cut(masks[:, None], owner, corners, SIDE)[:, 0]
        assert seen.flatten(1).any(1).all()
        for whole in (0, 1, 5):
            assert seen[whole].sum() == masks[whole].sum()
        places.append(corners)
    spread = torch.stack(places).float().std(0)
    assert spread[0, 1] > 1  # not always the same
    assert (spread[[2, 5]] > 5).all()


def test_a_window_larger_than_the_image_is_the_image() -> None:
    masks = _masks()
    corners = place_windows(masks, 256, torch.Generator().manual_seed(0))
    assert not corners.any()
    assert torch.equal(cut(masks[:, None], torch.arange(6), corners, 256)[:, 0], masks)


def test_cut_is_slicing_and_its_gradient() -> None:
    maps = torch.randn(2, 3, 8, 16, requires_grad=True)
    owner, corners = torch.tensor([1, 0, 1]), torch.tensor([[0, 3], [4, 12], [2, 3]])
    found = cut(maps, owner, corners, 4)
    for window, which, (top, left) in zip(found, owner, corners.tolist(), strict=True):
        assert torch.equal(window, maps[which, :, top : top + 4, left : left + 4])
    found.sum().backward()
    counted = torch.zeros(2, 8, 16)
    counted[1, :4, 3:7] += 1
    counted[1, 2:6, 3:7] += 1
    counted[0, 4:, 12:] += 1
    assert torch.equal(maps.grad, counted[:, None].expand(-1, 3, -1, -1))
