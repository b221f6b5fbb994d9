from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_FAULTS = """
import resource, sys
import torch
from clouds_deploy.backends.memory import kept_memory

def faults(rounds=12):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        torch.ones(1 << 24).add(1)  # two tensors of 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def held():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() >> 20

first, base = faults(), held()
with kept_memory() as give_back:
    # a small block between two large ones costs a few more at first
    kept = min(faults() for _ in range(5))
    inside = held()
    give_back()
    between = held()
    faults()
    again = min(faults() for _ in range(5))
after = held()
torch.ones(1 << 27).add(1)  # two of 512 MiB: larger than any hole that is left between small blocks
print(first, kept, again, inside - base, between - base, after - base, held() - base)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_memory_is_kept_and_given_back() -> None:
    out = subprocess.check_output([sys.executable, "-c", _FAULTS], text=True)
    first, kept, again, inside, between, after, later = map(int, out.split())
    assert max(kept, again) < 0.1 * first
    assert inside > 100
    assert between < 30
    assert after < 30
    assert later < 30
