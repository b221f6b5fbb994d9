"""What makes training on a CPU quicker before the first step: memory that stays, and no denormal numbers."""

from __future__ import annotations

import torch

from clouds_deploy.runtime.memory import keep_memory


def prepare_cpu() -> None:
    """Set this process up for training on a CPU; no number changes but denormal ones, which become 0.

    Denormal numbers, gradients below 1e-38, make a convolution's backward pass three times as slow on x86.
    Only threads that PyTorch starts after this call leave them out too, so call it first. For memory see
    `keep_memory`.
    """
    torch.set_flush_denormal(True)
    keep_memory()
