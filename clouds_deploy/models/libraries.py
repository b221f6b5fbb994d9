"""The one door to the libraries that need torchvision: timm, open_clip, segment_anything, transformers, ...

Where PyPI's only torchvision wheel is built for CUDA, `pip install` puts it beside a CPU build of torch. Its
compiled operators cannot load there, `import torchvision` fails with "operator torchvision::nms does not
exist", and all of these libraries fail with it, although none of them needs those operators here.

When, and only when, the import fails in exactly that way, the operators that torchvision's Python code
registers fake kernels for are declared, `nms` gets a plain PyTorch kernel, and torchvision is imported again.
A torchvision that works is left alone; one that is absent, or broken in another way, is reported.
"""

from __future__ import annotations

import importlib
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from clouds_deploy.errors import EXTRAS, CloudsError, install

if TYPE_CHECKING:
    import torch

Mode = Literal["native", "patched"]

NEED_TORCHVISION = frozenset(
    {"torchvision", "timm", "open_clip", "segment_anything", "transformers", "diffusers", "peft"}
)

_SYMPTOM = "torchvision::nms does not exist"
_LIBRARIES: list[torch.library.Library] = []  # a Library's registrations die with it, so it is kept


def library(name: str) -> Any:
    """Imports a library, or a module of it, once torchvision is importable.

    Args:
        name: One of `NEED_TORCHVISION`, or a module of one: `segment_anything.modeling`.

    Raises:
        CloudsError: It is not installed, or cannot be imported; or see `torchvision_mode`.
    """
    torchvision_mode()
    return _import(name)


@lru_cache(maxsize=1)
def torchvision_mode() -> Mode:
    """How torchvision was imported: "native" as it is, "patched" with its operators replaced.

    Raises:
        CloudsError: torchvision is missing, or broken in a way this module does not know.
    """
    try:
        _import("torchvision")
    except RuntimeError as error:
        if _SYMPTOM not in str(error):
            raise CloudsError(
                f"torchvision cannot be imported: {error}",
                "install the torchvision that belongs to your torch; `clouds-deploy doctor` shows both",
            ) from error
    else:
        return "native"
    _declare_operators()
    for name in [n for n in sys.modules if n == "torchvision" or n.startswith("torchvision.")]:
        del sys.modules[name]
    boxes: Any = importlib.import_module("torchvision.ops.boxes")
    boxes._assert_has_ops = lambda: None
    return "patched"


def _import(name: str) -> Any:
    package = name.partition(".")[0]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name in (package, None)
        raise CloudsError(
            f"{package} is not installed" if missing else f"{package} cannot be imported: {error}",
            install(EXTRAS[package]),
        ) from error


def _declare_operators() -> None:
    import torch

    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.impl("nms", non_maximum_suppression, "CPU")
    _LIBRARIES.append(library)


def non_maximum_suppression(boxes: torch.Tensor, scores: torch.Tensor, threshold: float) -> torch.Tensor:
    """Indices of the best-scored box of every group of overlapping boxes.

    `torchvision.ops.nms` in plain PyTorch, for boxes on a CPU.

    Args:
        boxes: (N, 4) x1, y1, x2, y2 in any unit.
        scores: (N,) higher is better.
        threshold: Intersection over union, 0..1, above which the worse box goes.

    Returns:
        (K,) int64 indices of the kept boxes, best first.
    """
    import torch

    order = torch.argsort(scores, descending=True, stable=True)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept: list[torch.Tensor] = []
    while order.numel() > 0:
        best, order = order[0], order[1:]
        kept.append(best)
        low = torch.maximum(boxes[order, :2], boxes[best, :2])
        high = torch.minimum(boxes[order, 2:], boxes[best, 2:])
        overlap = (high - low).clamp(min=0).prod(dim=1)
        order = order[overlap / (areas[order] + areas[best] - overlap) <= threshold]
    return torch.stack(kept) if kept else torch.empty(0, dtype=torch.int64)
