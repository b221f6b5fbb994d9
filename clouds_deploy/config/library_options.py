"""What a recipe may say to the libraries that build its foundation model: typed, listed, and nothing else.

A recipe is data from elsewhere, and a library's constructor takes more than a model's shape: paths of pickles
to load, flags that let them run code, names of repositories with code in them. So every option of a family is
listed here with its type; none of them is a path, an address, a module, or a switch of a safeguard.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clouds_deploy.errors import nearest

Count = Annotated[int, Field(ge=0, le=1 << 20)]
Counts = Annotated[list[Count], Field(max_length=16)] | Annotated[tuple[Count, ...], Field(max_length=16)]
Number = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
Numbers = Annotated[list[Number], Field(max_length=16)] | Annotated[tuple[Number, ...], Field(max_length=16)]
Word = Annotated[str, Field(pattern=r"^[a-z0-9_]{0,64}$")]
Architecture = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,64}(\.[a-z0-9_]{1,64})?$")]


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _ClipTowerOptions(_Options):
    """What both towers of open_clip's models may be told."""

    mlp_ratio: Number = 4.0
    ls_init_value: Number | None = None
    final_ln_after_pool: bool = False
    output_tokens: bool = False
    qk_norm: bool = False
    scaled_cosine_attn: bool = False
    scale_heads: bool = False
    scale_attn_inner: bool = False
    scale_attn: bool = False
    scale_fc: bool = False


class ClipVisionOptions(_ClipTowerOptions):
    """The image tower of open_clip's models: the fields of its `CLIPVisionCfg` that say its shape."""

    layers: Count | Counts = 12
    width: Count = 768
    head_width: Count = 64
    patch_size: Count | None = 16
    image_size: Count | Counts = 224
    patch_dropout: Number = 0.0
    no_ln_pre: bool = False
    pos_embed_type: Word = "learnable"
    pool_type: Word = "tok"
    timm_model_name: Architecture | None = None
    timm_model_pretrained: Literal[False] = False
    timm_pool: Word = "avg"
    timm_proj: Word | None = "linear"
    timm_proj_bias: bool = False
    timm_drop: Number = 0.0
    timm_drop_path: Number | None = None


class ClipTextOptions(_ClipTowerOptions):
    """The text tower of open_clip's models: the fields of its `CLIPTextCfg` that say its shape."""

    context_length: Count = 77
    vocab_size: Count = 49408
    width: Count = 512
    heads: Count = 8
    layers: Count = 12
    embed_cls: bool = False
    pad_id: Count = 0
    eos_id: Count = 2
    no_causal_mask: bool = False
    pool_type: Word = "argmax"
    proj_bias: bool = False
    proj_type: Word = "linear"


class OpenClipOptions(_Options):
    """What `open_clip.create_model` may be told of a model's shape."""

    embed_dim: Count = 512
    quick_gelu: bool = False
    force_quick_gelu: bool = False
    force_image_size: Count | Counts | None = None
    force_patch_dropout: Number | None = None
    force_context_length: Count | None = None
    init_logit_scale: Number | None = None
    init_logit_bias: Number | None = None
    vision_cfg: ClipVisionOptions | None = None
    text_cfg: ClipTextOptions | None = None


class TimmOptions(_Options):
    """What timm's constructors may be told of a model's shape; each takes some of these."""

    act_layer: Word | None = None
    attn_drop_rate: Number = 0.0
    avg_down: bool = False
    base_width: Count = 64
    block_reduce_first: Count = 1
    cardinality: Count = 1
    channel_divisor: Count = 8
    channel_multiplier: Number = 1.0
    channels: Counts | None = None
    class_token: bool = True
    conv_bias: bool = True
    conv_mlp: bool = False
    depth: Count = 12
    depth_multiplier: Number = 1.0
    depths: Counts | None = None
    dims: Counts | None = None
    drop_block_rate: Number = 0.0
    drop_path_rate: Number = 0.0
    drop_rate: Number = 0.0
    dynamic_img_pad: bool = False
    embed_dim: Count | Counts = 768
    final_norm: bool = True
    fix_stem: bool = False
    img_size: Count | Counts | None = None
    init_values: Number | None = None
    kernel_sizes: Count | Counts = 7
    layers: Counts | None = None
    ls_init_value: Number | None = None
    mlp_ratio: Number | Numbers = 4.0
    no_embed_class: bool = False
    norm_eps: Number | None = None
    norm_layer: Word | None = None
    num_heads: Count | Counts = 12
    patch_drop_rate: Number = 0.0
    patch_size: Count | Counts = 16
    pos_drop_rate: Number = 0.0
    pos_embed: Word = "learn"
    pre_norm: bool = False
    proj_bias: bool = True
    proj_drop_rate: Number = 0.0
    qk_norm: bool = False
    qkv_bias: bool = True
    reg_tokens: Count = 0
    replace_stem_pool: bool = False
    stem_type: Word = ""
    stem_width: Count = 64
    strict_img_size: bool = True
    use_grn: bool = False
    window_size: Count | Counts | None = None
    zero_init_last: bool = True


class SegformerOptions(_Options):
    """What transformers' `SegformerConfig` may be told of the encoder's shape."""

    attention_probs_dropout_prob: Number = 0.0
    depths: Counts | None = None
    drop_path_rate: Number = 0.1
    hidden_act: Word = "gelu"
    hidden_dropout_prob: Number = 0.0
    hidden_sizes: Counts | None = None
    initializer_range: Number = 0.02
    layer_norm_eps: Number = 1e-6
    mlp_ratios: Counts | None = None
    num_attention_heads: Counts | None = None
    num_encoder_blocks: Count = 4
    patch_sizes: Counts | None = None
    sr_ratios: Counts | None = None
    strides: Counts | None = None


_FAMILIES: dict[str, type[_Options]] = {
    "open_clip/": OpenClipOptions,
    "timm/": TimmOptions,
    "dinov2/": TimmOptions,
    "dinov3/": TimmOptions,
    "segformer/": SegformerOptions,
}


def check_options(model: str | None, options: Mapping[str, Any]) -> None:
    """Refuses options that a family of models does not list, or of another type.

    Args:
        model: A backbone's name, with its family before the slash.
        options: What the recipe says.

    Raises:
        ValueError: One is not listed, or of another type; the message names it.
    """
    if not options:
        return
    family = next((kind for prefix, kind in _FAMILIES.items() if (model or "").startswith(prefix)), None)
    if family is None:
        raise ValueError(f"`{model}` takes no options")
    try:
        family.model_validate(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = _fields(family, first["loc"][:-1])
            raise ValueError(
                f"`{key}` is no option of `{model}`; {nearest(str(first['loc'][-1]), known)}"
            ) from None
        raise ValueError(f"the option `{key}` of `{model}`: {first['msg']}") from None


def _fields(family: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    inner: dict[str, type[BaseModel]] = {"vision_cfg": ClipVisionOptions, "text_cfg": ClipTextOptions}
    return list((inner[str(path[0])] if path else family).model_fields)
