"""Make a CUDA build of torchvision importable beside a CPU build of torch.

Why: on machines where PyPI's only torchvision wheel is built for CUDA, `pip install` resolves it beside a
CPU torch. Its compiled operators cannot load there, `import torchvision` then fails with "operator
torchvision::nms does not exist", and open_clip, timm and segment_anything fail with it, although none of
them needs those operators here.

What: when, and only when, the import fails in exactly that way, `ensure_torchvision` declares the operators
that torchvision's Python code registers fake kernels for, gives `nms` a plain PyTorch kernel, and imports
again. A torchvision that works is left alone; one that is absent, or broken in another way, is reported.
"""

from __future__ import annotations

import importlib
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from clouds_deploy.errors import CloudsError

if TYPE_CHECKING:
    import torch

Mode = Literal["native", "patched"]

_SYMPTOM = "torchvision::nms does not exist"
_LIBRARIES: list[torch.library.Library] = []  # a Library's registrations die with it, so it is kept


def non_maximum_suppression(boxes: torch.Tensor, scores: torch.Tensor, threshold: float) -> torch.Tensor:
    """Keep the best-scored box of every group of overlapping boxes.

    The plain PyTorch twin of `torchvision.ops.nms`, for boxes on a CPU.

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


@lru_cache(maxsize=1)
def ensure_torchvision() -> Mode:
    """Import torchvision, mending the one known fault if it shows.

    Returns:
        "native" when torchvision imported as it is, "patched" when its operators were stood in for.

    Raises:
        CloudsError: torchvision is missing, or broken in a way this module does not know.
    """
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        raise CloudsError(
            "torchvision is not installed", "pip install -c constraints.txt torchvision==0.28.0"
        ) from error
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


def _declare_operators() -> None:
    import torch

    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.impl("nms", non_maximum_suppression, "CPU")
    _LIBRARIES.append(library)
