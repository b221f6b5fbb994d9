"""What this machine can do at most: the yardstick beside every speed."""

from __future__ import annotations

from clouds_deploy.bench.timing import measure

SIDE = 2048


def matmul_peak(seconds: float = 1.0) -> dict[str, float]:
    """Time a large square matrix product in PyTorch, on all its threads.

    Args:
        seconds: About how long for each type.

    Returns:
        GFLOP/s by type, `float32` and `bfloat16`, of the quickest call.
    """
    import torch

    found = {}
    for name in ("float32", "bfloat16"):
        kind = getattr(torch, name)
        one, other = (torch.randn(SIDE, SIDE).to(kind) for _ in range(2))
        timing = measure({name: lambda a=one, b=other: a @ b}, warmup=1, rounds=1, seconds=seconds)[name]  # type: ignore[misc]
        found[name] = 2 * SIDE**3 / timing.minimum / 1e6
    return found
