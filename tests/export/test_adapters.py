from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from clouds_deploy.config.model import (
    AdapterConfig,
    BackboneConfig,
    MaskDecoderConfig,
    ModelConfig,
    PixelDecoderConfig,
)
from clouds_deploy.export.trace import to_onnx
from clouds_deploy.models.backbones import build_backbone
from clouds_deploy.models.clouds.graph import SegmenterGraph
from clouds_deploy.models.clouds.segmenter import Segmenter

HEIGHT, WIDTH = 64, 96


def build(adapter: AdapterConfig) -> Segmenter:
    torch.manual_seed(0)
    config = ModelConfig(
        width=32,
        backbone=BackboneConfig(
            name="dinov2/s",
            weights="random",
            options={"depth": 1, "embed_dim": 24, "num_heads": 2, "img_size": 56},
            adapter=adapter,
        ),
        pixel_decoder=PixelDecoderConfig(layers=1, heads=2, feedforward=16),
        mask_decoder=MaskDecoderConfig(queries=4, layers=1, heads=2, feedforward=16),
    )
    segmenter = Segmenter(config, build_backbone(config.backbone)).eval()
    with torch.no_grad():
        for name, parameter in segmenter.named_parameters():
            if "adapter" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return segmenter


@pytest.mark.slow
def test_low_rank_adapters_leave_no_node_in_the_graph() -> None:
    import onnx_ir as ir
    import onnxruntime

    image = np.random.default_rng(0).integers(0, 256, (2, HEIGHT, WIDTH, 3), np.uint8)
    counts = []
    for adapter in (AdapterConfig(), AdapterConfig(kind="lora", rank=2), AdapterConfig(kind="soma", rank=2)):
        segmenter = build(adapter)
        model = to_onnx(segmenter, HEIGHT, WIDTH).model
        counts.append(Counter(node.op_type for node in model.graph))
        session = onnxruntime.InferenceSession(
            ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
        )
        scores = session.run(["scores"], {"image": image})[0]
        with torch.no_grad():
            graph = SegmenterGraph(segmenter, inference="exact", scores=True)
            expected = graph(torch.from_numpy(image))[1].numpy()
        assert scores.shape == expected.shape
        assert np.abs(scores - expected).max() <= 1e-4 * np.abs(expected).max()
    assert counts[0] == counts[1] == counts[2]
