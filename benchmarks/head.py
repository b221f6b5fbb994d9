"""The head (pixel decoder and mask decoder) against transformers' Mask2Former, every rewrite in one run.

    python benchmarks/head.py --out benchmarks/results/head.json

Features are random, of the widths and strides that ConvNeXt-L gives for one image of 512x1024; both heads
have the same random weights. Agreement is that of the last layer's mask pixels, above zero or not, and
the error that of the masks' logits, relative to the largest: random weights give one label everywhere, which
would agree whatever happens. Rounds are interleaved; a ratio is the median of the rounds' ratios with its
95 % bootstrap interval.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from clouds_deploy.artifacts import environment, write_json
from clouds_deploy.bench.timing import measure, ratio
from clouds_deploy.config.model import MaskDecoderConfig, PixelDecoderConfig
from clouds_deploy.models.clouds.mask_decoder import LEVELS, MaskDecoder, Prediction
from clouds_deploy.models.clouds.pixel_decoder import PixelDecoder
from tests.parity.mask2former import Peer, load_mask_decoder, load_pixel_decoder, randomize

CHANNELS = [192, 384, 768, 1536]
PEER = "transformers Mask2Former, eager fp32"


class FullMasks(MaskDecoder):
    """The mask decoder as published: attention masks from full-size masks, made anew in every layer."""

    def forward(  # type: ignore[override]
        self, mask_features: Tensor, maps: list[Tensor], *, every_layer: bool
    ) -> tuple[Prediction, ...]:
        """See `MaskDecoder.forward`."""
        keys, values, _ = self._memory(mask_features, maps)
        x = self.query_features.unsqueeze(0).expand(mask_features.shape[0], -1, -1)
        predictions = []
        for index, layer in enumerate(self.layers):
            decoded = self.norm(x)
            made = self._predict(decoded, self.mask_embedding(decoded), mask_features, None)
            predictions.append(made)
            level = index % LEVELS
            size = maps[level].shape[-2:]
            logits = F.interpolate(made.mask_logits.detach(), size, mode="bilinear").flatten(2)
            allowed = ~(logits < 0) | (logits.amax(dim=2, keepdim=True) < 0)
            x = layer(x, self.query_embedding, keys[level], values[level], allowed)
        decoded = self.norm(x)
        predictions.append(self._predict(decoded, self.mask_embedding(decoded), mask_features, None))
        return tuple(predictions)


class Head(nn.Module):
    """Our two decoders with the peer's weights."""

    def __init__(self, peer: Peer, decoder: type[MaskDecoder], form: str, *, every_layer: bool) -> None:
        super().__init__()
        self.pixels = PixelDecoder(CHANNELS, 256, PixelDecoderConfig())
        self.masks = decoder(256, 19, MaskDecoderConfig())
        load_pixel_decoder(self.pixels, peer)
        load_mask_decoder(self.masks, peer)
        self.every_layer = every_layer
        for layer in self.pixels.layers:
            layer.attention.form = form  # type: ignore[union-attr]

    def forward(self, features: tuple[Tensor, ...]) -> list[tuple[Tensor, Tensor]]:
        """Give (classes, masks) of the layers asked for."""
        made = self.masks(*self.pixels(features), every_layer=self.every_layer)
        return [(p.class_logits, p.mask_logits) for p in made]


def backward(forward: Callable[[], list[Tensor]], module: nn.Module) -> Callable[[], None]:
    """Make a training step of a stand-in loss that reaches every layer's classes and masks."""

    def step() -> None:
        module.zero_grad(set_to_none=True)
        torch.stack([t.square().mean() for t in forward()]).sum().backward()

    return step


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("head.json"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--only", choices=["inference", "training"])
    parser.add_argument("--bf16", action="store_true", help="a bfloat16 row too (slow without AMX)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    generator = torch.Generator().manual_seed(0)
    features = tuple(
        torch.randn(1, c, arguments.height // s, arguments.width // s, generator=generator)
        for c, s in zip(CHANNELS, (4, 8, 16, 32), strict=True)
    )
    peer = Peer(CHANNELS, 256, PixelDecoderConfig(), MaskDecoderConfig()).eval()
    randomize(peer, 0)
    results = {"environment": environment(), "image": [arguments.height, arguments.width]}
    if arguments.only != "training":
        results["inference"] = inference(peer, features, arguments.rounds, bf16=arguments.bf16)
    if arguments.only != "inference":
        results["training"] = training(peer, features, max(3, arguments.rounds - 2))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.out, results)
    print(json.dumps(results))


@torch.no_grad()
def inference(
    peer: Peer, features: tuple[Tensor, ...], rounds: int, *, bf16: bool
) -> dict[str, dict[str, float]]:
    """Time every rewrite on top of the one before."""
    heads = {
        "same formulation, ours, eager": Head(peer, FullMasks, "grid_sample", every_layer=True),
        "+ attention masks from features resized once, last layer's masks only": Head(
            peer, MaskDecoder, "grid_sample", every_layer=False
        ),
        "+ deformable attention as a sparse product": Head(peer, MaskDecoder, "sparse", every_layer=False),
    }
    last = list(heads.values())[-1]
    compiled = torch.compile(last, fullgraph=True, dynamic=False)
    calls: dict[str, Callable[[], object]] = {PEER: lambda: peer(list(features))}
    for name, head in heads.items():
        calls[name] = partial(head.eval(), features)
    calls["+ torch.compile"] = lambda: compiled(features)
    if bf16:

        def half() -> object:
            with torch.autocast("cpu", torch.bfloat16):
                return compiled(features)

        calls["+ bfloat16"] = half
    truth = peer(list(features))[1][-1]
    assert 0.05 < float((truth > 0).float().mean()) < 0.95, "masks this full or empty agree whatever happens"
    table = _table(calls, rounds)
    for name, call in calls.items():
        if name != PEER:
            found = call()[-1][1].float()  # type: ignore[index]
            table[name]["mask_agreement"] = float(((found > 0) == (truth > 0)).double().mean())
            table[name]["mask_error"] = float((found - truth).abs().max() / truth.abs().max())
    return table


def training(peer: Peer, features: tuple[Tensor, ...], rounds: int) -> dict[str, dict[str, float]]:
    """Time forward and backward, predictions of every layer included."""
    peer.train()
    heads = {
        "same formulation, ours, eager": Head(peer, FullMasks, "grid_sample", every_layer=True),
        "+ attention masks from features resized once": Head(
            peer, MaskDecoder, "grid_sample", every_layer=True
        ),
        "+ deformable attention as a sparse product": Head(peer, MaskDecoder, "sparse", every_layer=True),
    }

    def theirs() -> list[Tensor]:
        classes, masks = peer(list(features))
        return [*classes, *masks]

    calls: dict[str, Callable[[], object]] = {PEER: backward(theirs, peer)}
    for name, head in heads.items():
        calls[name] = backward(partial(_flat, head.train(), features), head)
    last = list(heads.values())[-1]
    compiled = torch.compile(last, fullgraph=True, dynamic=False)
    calls["+ torch.compile"] = backward(partial(_flat, compiled, features), last)
    return _table(calls, rounds)


def _flat(head: Callable[..., list[tuple[Tensor, Tensor]]], features: tuple[Tensor, ...]) -> list[Tensor]:
    return [tensor for pair in head(features) for tensor in pair]


def _table(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    timings = measure(calls, warmup=1, rounds=rounds, seconds=0.1)
    table = {}
    for name, timing in timings.items():
        against = ratio(timings[PEER], timing)
        table[name] = {
            "median_ms": timing.percentile(50),
            "ratio": against.value,
            "ratio_low": against.low,
            "ratio_high": against.high,
        }
        spread = f"{against.value:5.2f}x ({against.low:.2f} to {against.high:.2f})"
        print(f"{timing.percentile(50):9.0f} ms  {spread}  {name}", flush=True)
    return table


if __name__ == "__main__":
    main()
