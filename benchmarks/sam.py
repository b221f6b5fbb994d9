"""SAM's encoder and decoder against `segment_anything`, every form of attention in one run.

    OMP_NUM_THREADS=1 python benchmarks/sam.py --cpu-time --out benchmarks/results/sam.json

Weights, image and prompts are random; both sides share the weights. Rounds are interleaved; a ratio is the
median of the rounds' ratios with its 95 % bootstrap interval. `--cpu-time` counts this process's own time,
for a machine that others use too; it needs one thread to be comparable.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parent.parent))

from clouds_deploy.artifacts import environment, write_json
from clouds_deploy.bench.timing import measure, ratio
from clouds_deploy.models.sam.build import build
from clouds_deploy.models.sam.decoder import SamDecoder
from clouds_deploy.models.sam.encoder import SamEncoder

PEER = "segment_anything, eager fp32"
FORMS = (("bias", "bias"), ("bias", "channels"), ("channels", "channels"))
POINTS = 5


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--model", default="vit_b", choices=["vit_b", "vit_l", "vit_h", "sam_tiny"])
    parser.add_argument("--size", type=int, help="side of the square; the model's own by default")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cpu-time", action="store_true")
    given = parser.parse_args()
    torch.manual_seed(0)
    sam = build(given.model, given.size).requires_grad_(False)
    for name, parameter in sam.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:
            parameter.normal_(std=0.2)
    clock = time.process_time_ns if given.cpu_time else time.perf_counter_ns
    with torch.inference_mode():
        report = {
            "environment": environment(),
            "threads": torch.get_num_threads(),
            "clock": "process CPU time" if given.cpu_time else "wall",
            "model": given.model,
            "size": sam.image_encoder.img_size,
            "encoder": table(encoder_calls(sam), given.rounds, clock),
            "prompts": given.prompts,
            "points": POINTS,
            "decoder": table(decoder_calls(sam, given.prompts), given.rounds, clock),
        }
    if given.out:
        write_json(given.out, report)


def encoder_calls(sam: Any) -> dict[str, Callable[[], object]]:
    """One image, a tenth of its width padding, from bytes to embeddings."""
    side = sam.image_encoder.img_size
    width = side * 9 // 10
    image = torch.randint(0, 256, (1, side, side, 3), dtype=torch.uint8)
    size = torch.tensor([[side, width]], dtype=torch.int32)

    def theirs() -> object:
        return sam.image_encoder(sam.preprocess(image[:, :, :width].permute(0, 3, 1, 2)))

    calls: dict[str, Callable[[], object]] = {PEER: theirs}
    for window, whole in FORMS:
        encoder = SamEncoder(sam, window_form=window, global_form=whole)
        assert torch.allclose(encoder(image, size), theirs(), rtol=0, atol=1e-4)  # type: ignore[arg-type]
        calls[f"ours, {window} in windows, {whole} in whole images"] = partial(encoder, image, size)
    return calls


def decoder_calls(sam: Any, prompts: int) -> dict[str, Callable[[], object]]:
    """Point prompts of one image, from embeddings to low-resolution masks."""
    features = torch.randn(1, sam.prompt_encoder.embed_dim, *sam.prompt_encoder.image_embedding_size)
    index = torch.zeros(prompts, dtype=torch.int64)
    points = torch.rand(prompts, POINTS, 2) * sam.image_encoder.img_size
    labels = torch.ones(prompts, POINTS)

    def theirs() -> Any:
        sparse, dense = sam.prompt_encoder(points=(points, labels), boxes=None, masks=None)
        places = sam.prompt_encoder.get_dense_pe()
        return sam.mask_decoder(features, places, sparse, dense, multimask_output=True)

    ours = partial(
        SamDecoder(sam), features, index, F.pad(points, (0, 0, 0, 1)), F.pad(labels, (0, 1), value=-1)
    )
    assert torch.allclose(ours()[0], theirs()[0], rtol=0, atol=1e-4)
    return {PEER: theirs, "ours": ours}


def table(
    calls: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], int]
) -> dict[str, dict[str, float]]:
    """Times the calls interleaved; milliseconds and ratios by name."""
    timings = measure(calls, warmup=1, rounds=rounds, seconds=0.1, clock=clock)
    rows = {}
    for name, timing in timings.items():
        against = ratio(timings[PEER], timing)
        rows[name] = {
            "median_ms": timing.percentile(50),
            "ratio": against.value,
            "ratio_low": against.low,
            "ratio_high": against.high,
        }
        spread = f"{against.value:5.2f}x ({against.low:.2f} to {against.high:.2f})"
        print(f"{timing.percentile(50):9.0f} ms  {spread}  {name}", flush=True)
    return rows


if __name__ == "__main__":
    main()
