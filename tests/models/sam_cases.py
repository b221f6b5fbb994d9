"""SAMs of the official structure, small enough for a test, with nothing left at its initial zero."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from clouds_deploy.models.libraries import library
from clouds_deploy.models.sam.assembly import VIT, build_mobile_sam, build_vit_sam
from clouds_deploy.models.sam.build import SamModel, build

library("segment_anything")  # before any test imports it

NAMES = ("vit_b", "vit_h", "sam_tiny")
SIZES = {"vit_b": 160, "vit_h": 128, "sam_tiny": 256, "mobile_sam": 160}
"""In grids of 10 and 8 the windows of 14 are padded."""


@lru_cache(maxsize=4)
def small_sam(name: str) -> Any:
    """Build a SAM whose relative positions, biases and norms are random: at zero they would prove nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name == "sam_tiny":
            sam = build(name, SIZES[name])
        elif name == "mobile_sam":
            sam = build_mobile_sam(SIZES[name])
        else:
            structure = replace(VIT[name], depth=3, global_blocks=(1,))
            sam = build_vit_sam(structure, SIZES[name])
        with torch.no_grad():
            numbers = {k: t for k, t in sam.state_dict().items() if t.is_floating_point()}
            for key, tensor in numbers.items():
                if "rel_pos" in key or "pos_embed" in key or "attention_biases" in key:
                    tensor.normal_(std=0.5)
                elif "running_var" in key:
                    tensor.uniform_(0.5, 2.0)
                elif key.endswith("bias") or "norm" in key or "running_mean" in key or ".bn." in key:
                    tensor.add_(torch.randn_like(tensor) * 0.1)
    return sam.eval().requires_grad_(False)


def model(name: str) -> SamModel:
    sam = small_sam(name)
    return SamModel(sam, name, "random", None, sam.image_encoder.img_size)


def pictures(*sizes: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [
        np.kron(rng.integers(0, 256, (-(-h // 8), -(-w // 8), 3)), np.ones((8, 8, 1)))[:h, :w].astype(
            np.uint8
        )
        for h, w in sizes
    ]
