from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from clouds_deploy.models.backbones import Backbone
from tests.models.backbone_cases import CASES, HEIGHT, WIDTH, Case, build, close, marked


class _Maps(torch.nn.Module):
    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return self.backbone(self.backbone.normalize(image))


def export_maps(backbone: Backbone) -> Any:
    batch = torch.export.Dim("batch", min=1, max=64)
    return torch.onnx.export(
        _Maps(backbone).eval(),
        (torch.zeros(2, 3, HEIGHT, WIDTH),),
        dynamo=True,
        opset_version=18,
        input_names=["image"],
        dynamic_shapes={"image": {0: batch}},
        verbose=False,
    )


def _exports(case: Case) -> None:
    import onnxruntime

    backbone = build(case)
    program = export_maps(backbone)
    model = program.model_proto
    resizes = [node for node in model.graph.node if node.op_type == "Resize"]
    assert len(resizes) == (getattr(backbone.trunk, "patch", 16) != 16)  # the image, never the positions
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    image = torch.rand(3, 3, HEIGHT, WIDTH) * 255
    with torch.no_grad():
        expected = _Maps(backbone)(image)
    for theirs, mine in zip(session.run(None, {"image": image.numpy()}), expected, strict=True):
        assert close(torch.from_numpy(theirs), mine, 1e-4)


QUICK = ("clip_resnet", "dinov2")
LONG = tuple(name for name in CASES if name not in QUICK)


@pytest.mark.parametrize("case", [marked(name, LONG) for name in CASES])
def test_exports_to_onnx(case: Case) -> None:
    _exports(case)
