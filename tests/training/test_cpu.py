from __future__ import annotations

import torch

from clouds_deploy.training.cpu import prepare_cpu


def test_denormal_numbers_become_zero() -> None:
    tiny = torch.tensor([1e-30])
    torch.set_flush_denormal(False)  # whatever trained before
    assert (tiny * 1e-9).item() != 0
    try:
        prepare_cpu()
        assert (tiny * 1e-9).item() == 0
    finally:
        torch.set_flush_denormal(False)
