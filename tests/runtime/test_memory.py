from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_FAULTS = """
import resource, sys
import torch
from clouds_deploy.runtime.memory import kept_memory

def faults(rounds=12):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        torch.ones(1 << 24).add(1)  # two tensors of 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = faults()
with kept_memory():
    faults()
    kept = faults()
held = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
print(first, kept, faults(), held)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_memory_is_kept_and_given_back() -> None:
    out = subprocess.check_output([sys.executable, "-c", _FAULTS], text=True)
    first, kept, after, held = map(int, out.split())
    assert kept < 0.1 * first
    assert after > 0.5 * first
    assert held < 600 << 20
