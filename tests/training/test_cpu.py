from __future__ import annotations

import torch

from clouds_deploy.training.cpu import flushed_denormals


def test_denormal_numbers_become_zero_for_a_while() -> None:
    tiny = torch.tensor([1e-30])
    with flushed_denormals():
        assert (tiny * 1e-9).item() == 0
    assert (tiny * 1e-9).item() != 0
