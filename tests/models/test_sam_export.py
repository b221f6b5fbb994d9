"""The encoder and the decoder as ONNX graphs, with the batch, the prompts and the points left open."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from clouds_deploy.models.sam.decoder import SamDecoder
from clouds_deploy.models.sam.encoder import SamEncoder
from clouds_deploy.models.sam.names import EMBEDDINGS, IMAGE, INDEX, LABELS, MASKS, POINTS, SCORES, SIZE
from clouds_deploy.models.sam.vit_encoder import AttentionForm
from tests.models.sam_cases import SIZES, small_sam

UNWANTED = {"NonZero", "If", "Loop", "Scan", "GridSample", "ScatterND", "OneHot", "Compress"}


def export(
    module: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    shapes: dict[str, Any],
    outputs: Sequence[str],
    path: Path,
) -> onnxruntime.InferenceSession:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            module,
            inputs,
            dynamo=True,
            opset_version=18,
            input_names=list(shapes),
            output_names=list(outputs),
            dynamic_shapes=shapes,
            verbose=False,
        )
    program.save(path)
    graph = onnx.load(path)
    onnx.checker.check_model(graph, full_check=True)
    assert {entry.domain: entry.version for entry in graph.opset_import}[""] == 18
    found = {node.op_type for node in graph.graph.node}
    assert not found & UNWANTED
    assert "LayerNormalization" in found
    return onnxruntime.InferenceSession(path)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("vit_b", "bias"),
        ("vit_b", "channels"),
        ("sam_tiny", "bias"),
        pytest.param("mobile_sam", "bias", marks=pytest.mark.slow),
    ],
)
def test_encoder(tmp_path: Path, name: str, form: AttentionForm) -> None:
    side = SIZES[name]
    encoder = SamEncoder(small_sam(name), window_form=form, global_form=form)
    batch = torch.export.Dim("batch", min=1, max=64)
    example = (torch.zeros(2, side, side, 3, dtype=torch.uint8), torch.full((2, 2), side, dtype=torch.int32))
    session = export(
        encoder, example, {IMAGE: {0: batch}, SIZE: {0: batch}}, [EMBEDDINGS], tmp_path / "encoder.onnx"
    )
    rng = np.random.default_rng(0)
    for count in (1, 3):
        image = rng.integers(0, 256, (count, side, side, 3)).astype(np.uint8)
        size = rng.integers(side // 2, side + 1, (count, 2)).astype(np.int32)
        with torch.inference_mode():
            wanted = encoder(torch.from_numpy(image), torch.from_numpy(size)).numpy()
        (got,) = session.run(None, {IMAGE: image, SIZE: size})
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["vit_b", "sam_tiny"])
def test_decoder(tmp_path: Path, name: str) -> None:
    sam = small_sam(name)
    decoder = SamDecoder(sam)
    shape = (sam.prompt_encoder.embed_dim, *sam.prompt_encoder.image_embedding_size)
    images, prompts, points = (
        torch.export.Dim(what, min=1, max=limit)
        for what, limit in (("images", 64), ("prompts", 1024), ("points", 64))
    )
    example = torch.zeros(2, *shape), torch.tensor([0, 1, 1]), torch.zeros(3, 4, 2), torch.ones(3, 4)
    shapes = {
        EMBEDDINGS: {0: images},
        INDEX: {0: prompts},
        POINTS: {0: prompts, 1: points},
        LABELS: {0: prompts, 1: points},
    }
    session = export(decoder, example, shapes, [MASKS, SCORES], tmp_path / "decoder.onnx")
    rng = np.random.default_rng(0)
    for batch, count, length in ((1, 1, 1), (2, 5, 3), (4, 2, 7)):
        feeds = {
            EMBEDDINGS: rng.normal(size=(batch, *shape)).astype(np.float32),
            INDEX: rng.integers(0, batch, count),
            POINTS: rng.uniform(0, SIZES[name], (count, length, 2)).astype(np.float32),
            LABELS: rng.integers(-1, 4, (count, length)).astype(np.float32),
        }
        with torch.inference_mode():
            wanted = decoder(*(torch.from_numpy(feed) for feed in feeds.values()))
        for got, reference in zip(session.run(None, feeds), wanted, strict=True):
            np.testing.assert_allclose(got, reference.numpy(), rtol=0, atol=1e-4)
