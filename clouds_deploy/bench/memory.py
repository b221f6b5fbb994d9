"""What a backend needs of memory: the peak of a process that runs nothing else.

The peak is read from /proc, not from getrusage: Linux hands the parent's peak down through fork and exec.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

_CHILD = """
import json, sys
from pathlib import Path
from clouds_deploy.inference.agreement import run_batched
from clouds_deploy.backends.backends import open_session
from clouds_deploy.bundles.bundle import open_bundle
path, backend, batch = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
bundle = open_bundle(path, verify=False)
images = bundle.reference()["image"]
session = open_session(bundle, backend)
run_batched(session, images.repeat(-(-batch // len(images)), axis=0)[:batch], batch)
status = Path("/proc/self/status").read_text()
print(json.dumps({"peak": int(status.split("VmHWM:")[1].split()[0]) / 1024}))
"""


def peak_memory(bundle: Path, backend: str, batch: int, *, timeout: float = 120.0) -> float | None:
    """Run a backend once in a process of its own.

    Args:
        bundle: The bundle's directory, already verified.
        backend: The backend.
        batch: Images per call.
        timeout: Seconds to wait at most.

    Returns:
        Peak resident MiB of that process, interpreter and libraries included; None where it could not be
        had (no Linux, no answer in time), which is no error: it is an aside to the timings.
    """
    command = [sys.executable, "-c", _CHILD, str(bundle.resolve()), backend, str(batch)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=True)
        return float(json.loads(done.stdout.splitlines()[-1])["peak"])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError, KeyError):
        return None
