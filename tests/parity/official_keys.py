"""The tensors of a released CLOUDS checkpoint, from rules (docs/explanation/method.md 6).

The rules restate the authors' module definitions and share nothing with the importer. With their defaults
they give the 837 tensors of the ConvNeXt-L checkpoints; other sizes give some small enough for quick tests.
"""

from __future__ import annotations

from collections.abc import Iterator

Shape = tuple[int, ...]
Shapes = dict[str, Shape]

CLIP = "backbone.clip_model."
PIXEL = "sem_seg_head.pixel_decoder."
PREDICTOR = "sem_seg_head.predictor."


def _linear(name: str, inside: int, outside: int, *, bias: bool = True) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (outside, inside)
    if bias:
        yield f"{name}.bias", (outside,)


def _norm(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _attention(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.in_proj_weight", (3 * width, width)
    yield f"{name}.in_proj_bias", (3 * width,)
    yield from _linear(f"{name}.out_proj", width, width)


def convnext(dims: tuple[int, ...], depths: tuple[int, ...], dimension: int) -> Iterator[tuple[str, Shape]]:
    """The image tower: timm's ConvNeXt, its last norm, and open_clip's perceptron."""
    trunk = f"{CLIP}visual.trunk."
    yield f"{trunk}stem.0.weight", (dims[0], 3, 4, 4)
    yield f"{trunk}stem.0.bias", (dims[0],)
    yield from _norm(f"{trunk}stem.1", dims[0])
    for stage, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
        if stage:
            yield from _norm(f"{trunk}stages.{stage}.downsample.0", dims[stage - 1])
            yield f"{trunk}stages.{stage}.downsample.1.weight", (dim, dims[stage - 1], 2, 2)
            yield f"{trunk}stages.{stage}.downsample.1.bias", (dim,)
        for index in range(depth):
            block = f"{trunk}stages.{stage}.blocks.{index}."
            yield f"{block}gamma", (dim,)
            yield f"{block}conv_dw.weight", (dim, 1, 7, 7)
            yield f"{block}conv_dw.bias", (dim,)
            yield from _norm(f"{block}norm", dim)
            yield from _linear(f"{block}mlp.fc1", dim, 4 * dim)
            yield from _linear(f"{block}mlp.fc2", 4 * dim, dim)
    yield from _norm(f"{trunk}head.norm", dims[-1])
    yield from _linear(f"{CLIP}visual.head.mlp.fc1", dims[-1], 2 * dimension)
    yield from _linear(f"{CLIP}visual.head.mlp.fc2", 2 * dimension, dimension, bias=False)


def text_tower(
    width: int, layers: int, dimension: int, words: int, context: int
) -> Iterator[tuple[str, Shape]]:
    """The text tower, with what CLIP has of its own."""
    yield f"{CLIP}positional_embedding", (context, width)
    yield f"{CLIP}text_projection", (width, dimension)
    yield f"{CLIP}logit_scale", ()
    for index in range(layers):
        block = f"{CLIP}transformer.resblocks.{index}."
        yield from _norm(f"{block}ln_1", width)
        yield from _attention(f"{block}attn", width)
        yield from _norm(f"{block}ln_2", width)
        yield from _linear(f"{block}mlp.c_fc", width, 4 * width)
        yield from _linear(f"{block}mlp.c_proj", 4 * width, width)
    yield f"{CLIP}token_embedding.weight", (words, width)
    yield from _norm(f"{CLIP}ln_final", width)


def pixel_decoder(
    dims: tuple[int, ...], width: int, layers: int, heads: int, feedforward: int
) -> Iterator[tuple[str, Shape]]:
    """The deformable encoder of three levels with four points each, and the finest level on top."""
    for index, dim in enumerate(dims[:0:-1]):
        yield f"{PIXEL}input_proj.{index}.0.weight", (width, dim, 1, 1)
        yield f"{PIXEL}input_proj.{index}.0.bias", (width,)
        yield from _norm(f"{PIXEL}input_proj.{index}.1", width)
    yield f"{PIXEL}transformer.level_embed", (3, width)
    for index in range(layers):
        layer = f"{PIXEL}transformer.encoder.layers.{index}."
        yield from _linear(f"{layer}self_attn.sampling_offsets", width, heads * 3 * 4 * 2)
        yield from _linear(f"{layer}self_attn.attention_weights", width, heads * 3 * 4)
        yield from _linear(f"{layer}self_attn.value_proj", width, width)
        yield from _linear(f"{layer}self_attn.output_proj", width, width)
        yield from _norm(f"{layer}norm1", width)
        yield from _linear(f"{layer}linear1", width, feedforward)
        yield from _linear(f"{layer}linear2", feedforward, width)
        yield from _norm(f"{layer}norm2", width)
    yield f"{PIXEL}mask_features.weight", (width, width, 1, 1)
    yield f"{PIXEL}mask_features.bias", (width,)
    for name, shape in (("adapter_1", (width, dims[0], 1, 1)), ("layer_1", (width, width, 3, 3))):
        yield f"{PIXEL}{name}.weight", shape
        yield from _norm(f"{PIXEL}{name}.norm", width)


def predictor(width: int, layers: int, queries: int, feedforward: int) -> Iterator[tuple[str, Shape]]:
    """The transformer decoder without its classifier."""
    for index in range(layers):
        layer = f"{PREDICTOR}transformer_self_attention_layers.{index}."
        yield from _attention(f"{layer}self_attn", width)
        yield from _norm(f"{layer}norm", width)
        layer = f"{PREDICTOR}transformer_cross_attention_layers.{index}."
        yield from _attention(f"{layer}multihead_attn", width)
        yield from _norm(f"{layer}norm", width)
        layer = f"{PREDICTOR}transformer_ffn_layers.{index}."
        yield from _linear(f"{layer}linear1", width, feedforward)
        yield from _linear(f"{layer}linear2", feedforward, width)
        yield from _norm(f"{layer}norm", width)
    yield from _norm(f"{PREDICTOR}decoder_norm", width)
    yield f"{PREDICTOR}query_feat.weight", (queries, width)
    yield f"{PREDICTOR}query_embed.weight", (queries, width)
    yield f"{PREDICTOR}level_embed.weight", (3, width)
    for index in range(3):
        yield from _linear(f"{PREDICTOR}mask_embed.layers.{index}", width, width)


def classifier(head: str, width: int, dimension: int, classes: int) -> Iterator[tuple[str, Shape]]:
    """The linear head, or FC-CLIP's; and what stands beside the decoders in either case."""
    if head == "linear":
        yield from _linear(f"{PREDICTOR}class_embed", width, classes + 1)
    else:
        yield f"{PREDICTOR}logit_scale", ()
        yield from _norm(f"{PREDICTOR}_mask_pooling_proj.0", width)
        yield from _linear(f"{PREDICTOR}_mask_pooling_proj.1", width, width)
        yield from _linear(f"{PREDICTOR}class_embed.layers.0", width, width)
        yield from _linear(f"{PREDICTOR}class_embed.layers.1", width, width)
        yield from _linear(f"{PREDICTOR}class_embed.layers.2", width, dimension)
    yield "criterion.empty_weight", (classes + 1,)
    yield "void_embedding.weight", (1, dimension)


def official_shapes(
    *,
    dims: tuple[int, ...] = (192, 384, 768, 1536),
    depths: tuple[int, ...] = (3, 3, 27, 3),
    dimension: int = 768,
    text: tuple[int, int, int, int] = (768, 16, 49408, 77),
    width: int = 256,
    encoder: tuple[int, int, int] = (6, 8, 1024),
    decoder: tuple[int, int, int] = (9, 100, 2048),
    head: str = "linear",
    classes: int = 19,
) -> Shapes:
    """Give shape by name; the defaults are the released ConvNeXt-L checkpoint.

    Args:
        dims: Channels of ConvNeXt's stages.
        depths: Blocks of its stages.
        dimension: Channels of CLIP's embedding.
        text: Width, layers, words and context of the text tower.
        width: Channels of both decoders.
        encoder: Layers, heads and feed-forward channels of the pixel decoder.
        decoder: Layers, queries and feed-forward channels of the transformer decoder.
        head: `linear` or `text`.
        classes: Without void.
    """
    return dict(
        (
            *text_tower(text[0], text[1], dimension, text[2], text[3]),
            *convnext(dims, depths, dimension),
            *pixel_decoder(dims, width, *encoder),
            *predictor(width, *decoder),
            *classifier(head, width, dimension, classes),
        )
    )
