from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from clouds_deploy.training.cpu import prepare_cpu

_FAULTS = """
import resource, sys
import torch
from clouds_deploy.training.cpu import prepare_cpu
if sys.argv[1] == "prepared":
    prepare_cpu()
for _ in range(12):
    torch.ones(1 << 24).add(1)  # two tensors of 64 MiB
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(1 << 24).add(1)  # two tensors of 64 MiB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_memory_is_kept() -> None:
    plain, prepared = (
        int(subprocess.check_output([sys.executable, "-c", _FAULTS, how], text=True))
        for how in ("plain", "prepared")
    )
    assert prepared < 0.1 * plain


def test_denormal_numbers_become_zero() -> None:
    tiny = torch.tensor([1e-30])
    torch.set_flush_denormal(False)  # whatever trained before
    assert (tiny * 1e-9).item() != 0
    try:
        prepare_cpu()
        assert (tiny * 1e-9).item() == 0
    finally:
        torch.set_flush_denormal(False)
