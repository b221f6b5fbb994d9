"""Libraries behind torchvision; its replaced operators give the right numbers, and only where needed."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from clouds_deploy.errors import CloudsError
from clouds_deploy.models.libraries import library, non_maximum_suppression


def reference(boxes: torch.Tensor, scores: torch.Tensor, threshold: float) -> list[int]:
    """The definition, one pair at a time."""
    overlap = library("torchvision.ops").box_iou(boxes, boxes)
    kept: list[int] = []
    for index in scores.argsort(descending=True).tolist():
        if all(overlap[index, other] <= threshold for other in kept):
            kept.append(index)
    return kept


@pytest.mark.parametrize("count", [0, 1, 40, 300])
def test_non_maximum_suppression(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    corner = torch.rand(count, 2, generator=generator) * 50
    boxes = torch.cat([corner, corner + 5 + torch.rand(count, 2, generator=generator) * 30], dim=1)
    scores = torch.rand(count, generator=generator)
    nms = library("torchvision.ops").nms
    expected = reference(boxes, scores, 0.5)
    assert nms(boxes, scores, 0.5).tolist() == expected
    assert non_maximum_suppression(boxes, scores, 0.5).tolist() == expected


def test_dependants_import() -> None:
    assert library("open_clip").list_models()
    assert library("timm").list_models("convnext*")
    flip = library("torchvision.transforms.v2.functional").horizontal_flip
    assert flip(torch.eye(2)).tolist() == [
        [0, 1],
        [1, 0],
    ]


PROGRAM = """
import sys, types, importlib.abc, importlib.machinery
class Fake(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name == "torchvision" else None
    def create_module(self, spec): return None
    def exec_module(self, module): {body}
sys.meta_path.insert(0, Fake())
from clouds_deploy.models.libraries import torchvision_mode
from clouds_deploy.errors import CloudsError
try: print(torchvision_mode())
except CloudsError as error: print("error:", error.message)
import torch
print("stands in:", hasattr(torch.ops.torchvision, "nms"))
"""


@pytest.mark.parametrize(
    ("body", "answer", "stands_in"),
    [
        ("pass", "native", "False"),
        ("raise RuntimeError('something else')", "error: torchvision cannot be imported", "False"),
        ("raise ModuleNotFoundError('torchvision')", "error: torchvision is not installed", "False"),
    ],
)
def test_active_only_for_its_one_fault(body: str, answer: str, stands_in: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=body)], capture_output=True, text=True, check=True
    )
    first, second = done.stdout.strip().splitlines()
    assert first.startswith(answer)
    assert second == f"stands in: {stands_in}"


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(CloudsError, match="diffusers is not installed") as caught:
        library("diffusers")
    assert caught.value.hint == 'pip install "clouds-deploy[generate]"'
