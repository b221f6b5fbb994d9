"""Our decoders under the weights of transformers' Mask2Former, for the parity tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clouds_deploy.config.model import MaskDecoderConfig, PixelDecoderConfig
from clouds_deploy.labels import NUM_CLASSES
from clouds_deploy.models.clouds.mask_decoder import MaskDecoder
from clouds_deploy.models.clouds.pixel_decoder import PixelDecoder
from clouds_deploy.models.libraries import library


class Peer(nn.Module):
    """transformers' pixel decoder, transformer decoder and class predictor, without a backbone."""

    def __init__(
        self, channels: list[int], width: int, pixel: PixelDecoderConfig, mask: MaskDecoderConfig
    ) -> None:
        super().__init__()
        library("transformers")
        from transformers import Mask2FormerConfig
        from transformers.models.mask2former import modeling_mask2former as peer

        config = Mask2FormerConfig(
            feature_size=width,
            mask_feature_size=width,
            hidden_dim=width,
            encoder_feedforward_dim=pixel.feedforward,
            encoder_layers=pixel.layers,
            decoder_layers=mask.layers + 1,
            num_attention_heads=mask.heads,
            dropout=0.0,
            dim_feedforward=mask.feedforward,
            num_queries=mask.queries,
            num_labels=NUM_CLASSES,
        )
        self.pixel_decoder = peer.Mask2FormerPixelDecoder(config, feature_channels=channels)
        self.transformer = peer.Mask2FormerTransformerModule(in_features=width, config=config)
        self.class_predictor = nn.Linear(width, NUM_CLASSES + 1)

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Class logits and mask logits of every layer."""
        pixels = self.pixel_decoder(features)
        out = self.transformer(list(pixels.multi_scale_features), pixels.mask_features)
        classes = [self.class_predictor(h.transpose(0, 1)) for h in out.intermediate_hidden_states]
        return classes, list(out.masks_queries_logits)


def randomize(module: nn.Module, seed: int) -> None:
    """Give every parameter weight, so that no path hides behind a zero initialisation."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            fan = parameter[0].numel() if parameter.dim() > 1 else 4
            noise = torch.randn(parameter.shape, generator=generator) / fan**0.5
            keeps_mean = parameter.dim() == 1 and name.endswith("weight")
            parameter.copy_(noise * 0.3 + 1 if keeps_mean else noise)
        for name, parameter in module.named_parameters():
            if name.endswith(("queries_embedder.weight", "queries_features.weight", "level_embed")):
                parameter.copy_(torch.randn(parameter.shape, generator=generator))


def pixel_names(layers: int) -> dict[str, str]:
    """Our pixel decoder's names -> transformers'."""
    names = {"level_embedding": "level_embed"}
    for level in range(3):
        for part in ("0.weight", "0.bias", "1.weight", "1.bias"):
            names[f"project.{level}.{part}"] = f"input_projections.{level}.{part}"
    for part in ("0.weight", "1.weight", "1.bias"):
        names[f"lateral.{part}"] = f"adapter_1.{part}"
        names[f"output.{part}"] = f"layer_1.{part}"
    for part in ("weight", "bias"):
        names[f"mask_features.{part}"] = f"mask_projection.{part}"
        for layer in range(layers):
            ours, theirs = f"layers.{layer}", f"encoder.layers.{layer}"
            for a, b in {
                "attention.sampling_offsets": "self_attn.sampling_offsets",
                "attention.attention_weights": "self_attn.attention_weights",
                "attention.value_projection": "self_attn.value_proj",
                "attention.output_projection": "self_attn.output_proj",
                "attention_norm": "self_attn_layer_norm",
                "expand": "fc1",
                "contract": "fc2",
                "feedforward_norm": "final_layer_norm",
            }.items():
                names[f"{ours}.{a}.{part}"] = f"{theirs}.{b}.{part}"
    return names


def load_pixel_decoder(ours: PixelDecoder, peer: Peer) -> None:
    """Copy the peer's pixel decoder into ours, strictly."""
    theirs = peer.pixel_decoder.state_dict()
    names = pixel_names(len(ours.layers))
    ours.load_state_dict({name: theirs[names[name]] for name in ours.state_dict()})


def load_mask_decoder(ours: MaskDecoder, peer: Peer) -> None:
    """Copy the peer's transformer decoder and class predictor into ours, strictly."""
    theirs = peer.transformer.state_dict()
    state = {
        "query_features": theirs["queries_features.weight"],
        "query_embedding": theirs["queries_embedder.weight"],
        "level_embedding": theirs["level_embed.weight"],
    }
    for part in ("weight", "bias"):
        state[f"classify.{part}"] = peer.class_predictor.state_dict()[part]
        state[f"norm.{part}"] = theirs[f"decoder.layernorm.{part}"]
        for i in range(3):
            state[f"mask_embedding.{2 * i}.{part}"] = theirs[
                f"decoder.mask_predictor.mask_embedder.{i}.0.{part}"
            ]
        for layer in range(len(ours.layers)):
            a, b = f"layers.{layer}", f"decoder.layers.{layer}"
            for mine, other in {
                "cross_norm": "cross_attn_layer_norm",
                "self_attention.query": "self_attn.q_proj",
                "self_attention.key": "self_attn.k_proj",
                "self_attention.value": "self_attn.v_proj",
                "self_attention.output": "self_attn.out_proj",
                "self_norm": "self_attn_layer_norm",
                "expand": "fc1",
                "contract": "fc2",
                "feedforward_norm": "final_layer_norm",
                "cross_attention.output": "cross_attn.out_proj",
            }.items():
                state[f"{a}.{mine}.{part}"] = theirs[f"{b}.{other}.{part}"]
            stacked = theirs[f"{b}.cross_attn.in_proj_{part}"].chunk(3)
            for mine, tensor in zip(("query", "key", "value"), stacked, strict=True):
                state[f"{a}.cross_attention.{mine}.{part}"] = tensor
    ours.load_state_dict(state)
