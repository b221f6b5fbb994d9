"""The one door to libraries that report how they are used; they are told not to before they are loaded.

ONNX Runtime 1.31 looks up its vendor's host and keeps a database in the user's cache with the process, its
paths and the names of graph and nodes; `disable_telemetry_events()` comes too late for both. Ray sends usage
statistics of its cluster. Neither has been asked for, so both are off.
"""

from __future__ import annotations

import importlib
import os
from typing import Any


def load_onnxruntime(module: str = "onnxruntime") -> Any:
    """Imports ONNX Runtime, or a module of it, with its telemetry off.

    Raises:
        ImportError: It is not installed.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    return importlib.import_module(module)


def load_ray() -> Any:
    """Imports Ray with its usage statistics off, here and in the processes that it starts.

    Raises:
        ImportError: It is not installed.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    return importlib.import_module("ray")
