"""Names and shapes of the tensors in the published `mobile_sam.pt`, derived without our modules.

The list that it has to give is pinned by its digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import pairwise

DIGEST = "e4934c6c066a1d417593dd611291020989e8d908223323ba245b1af0e3cc46d2"
"""sha256 of the sorted lines `name<TAB>[d, d]`."""

Entry = tuple[str, tuple[int, ...]]


def layout() -> dict[str, tuple[int, ...]]:
    """Give all 439 entries."""
    entries = dict(
        [
            *_encoder("image_encoder."),
            *_prompt_encoder("prompt_encoder."),
            *_mask_decoder("mask_decoder."),
        ]
    )
    lines = sorted(f"{name}\t{list(shape)}" for name, shape in entries.items())
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == DIGEST
    return entries


def _affine(name: str, width: int) -> Iterator[Entry]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _linear(name: str, inputs: int, outputs: int) -> Iterator[Entry]:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def _conv_norm(name: str, inputs: int, outputs: int, kernel: int) -> Iterator[Entry]:
    yield f"{name}.c.weight", (outputs, inputs, kernel, kernel)
    yield from _affine(f"{name}.bn", outputs)
    yield f"{name}.bn.running_mean", (outputs,)
    yield f"{name}.bn.running_var", (outputs,)
    yield f"{name}.bn.num_batches_tracked", ()


def _encoder(p: str) -> Iterator[Entry]:
    widths = (64, 128, 160, 320)
    yield from _conv_norm(f"{p}patch_embed.seq.0", 3, 32, 3)
    yield from _conv_norm(f"{p}patch_embed.seq.2", 32, 64, 3)
    for block in range(2):
        name = f"{p}layers.0.blocks.{block}"
        yield from _conv_norm(f"{name}.conv1", 64, 256, 1)
        yield from _conv_norm(f"{name}.conv2", 1, 256, 3)
        yield from _conv_norm(f"{name}.conv3", 256, 64, 1)
    for stage, (inputs, outputs) in enumerate(pairwise(widths)):
        name = f"{p}layers.{stage}.downsample"
        yield from _conv_norm(f"{name}.conv1", inputs, outputs, 1)
        yield from _conv_norm(f"{name}.conv2", 1, outputs, 3)
        yield from _conv_norm(f"{name}.conv3", outputs, outputs, 1)
    for stage, depth, heads, window in ((1, 2, 4, 7), (2, 6, 5, 14), (3, 2, 10, 7)):
        for block in range(depth):
            name, width = f"{p}layers.{stage}.blocks.{block}", widths[stage]
            yield f"{name}.attn.attention_biases", (heads, window * window)
            yield from _affine(f"{name}.attn.norm", width)
            yield from _linear(f"{name}.attn.qkv", width, 3 * width)
            yield from _linear(f"{name}.attn.proj", width, width)
            yield from _affine(f"{name}.mlp.norm", width)
            yield from _linear(f"{name}.mlp.fc1", width, 4 * width)
            yield from _linear(f"{name}.mlp.fc2", 4 * width, width)
            yield from _conv_norm(f"{name}.local_conv", 1, width, 3)
    yield from _affine(f"{p}norm_head", 320)
    yield from _linear(f"{p}head", 320, 1000)
    yield f"{p}neck.0.weight", (256, 320, 1, 1)
    yield from _affine(f"{p}neck.1", 256)
    yield f"{p}neck.2.weight", (256, 256, 3, 3)
    yield from _affine(f"{p}neck.3", 256)


def _prompt_encoder(p: str) -> Iterator[Entry]:
    yield f"{p}pe_layer.positional_encoding_gaussian_matrix", (2, 128)
    for name in (*(f"point_embeddings.{i}" for i in range(4)), "not_a_point_embed", "no_mask_embed"):
        yield f"{p}{name}.weight", (1, 256)
    for index, inputs, outputs, kernel in ((0, 1, 4, 2), (3, 4, 16, 2), (6, 16, 256, 1)):
        yield f"{p}mask_downscaling.{index}.weight", (outputs, inputs, kernel, kernel)
        yield f"{p}mask_downscaling.{index}.bias", (outputs,)
    yield from _affine(f"{p}mask_downscaling.1", 4)
    yield from _affine(f"{p}mask_downscaling.4", 16)


def _mask_decoder(p: str) -> Iterator[Entry]:
    def attention(name: str, inner: int) -> Iterator[Entry]:
        for part in "qkv":
            yield from _linear(f"{name}.{part}_proj", 256, inner)
        yield from _linear(f"{name}.out_proj", inner, 256)

    for layer in range(2):
        name = f"{p}transformer.layers.{layer}"
        yield from attention(f"{name}.self_attn", 256)
        yield from attention(f"{name}.cross_attn_token_to_image", 128)
        yield from attention(f"{name}.cross_attn_image_to_token", 128)
        for norm in range(1, 5):
            yield from _affine(f"{name}.norm{norm}", 256)
        yield from _linear(f"{name}.mlp.lin1", 256, 2048)
        yield from _linear(f"{name}.mlp.lin2", 2048, 256)
    yield from attention(f"{p}transformer.final_attn_token_to_image", 128)
    yield from _affine(f"{p}transformer.norm_final_attn", 256)
    yield f"{p}iou_token.weight", (1, 256)
    yield f"{p}mask_tokens.weight", (4, 256)
    yield f"{p}output_upscaling.0.weight", (256, 64, 2, 2)
    yield f"{p}output_upscaling.0.bias", (64,)
    yield from _affine(f"{p}output_upscaling.1", 64)
    yield f"{p}output_upscaling.3.weight", (64, 32, 2, 2)
    yield f"{p}output_upscaling.3.bias", (32,)
    heads = [(f"output_hypernetworks_mlps.{i}", 32) for i in range(4)] + [("iou_prediction_head", 4)]
    for name, outputs in heads:
        for layer, width in enumerate((256, 256, outputs)):
            yield from _linear(f"{p}{name}.layers.{layer}", 256, width)
