"""What `bench_gpu.py` times: SAM's encoders and decoder, and the segmenter, official and ours."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import nn

SEGMENTER = "segmenter gta_convnext_l 1024x2048"


@dataclass
class Case:
    """One thing to time: its official formulation and ours, on the same inputs."""

    name: str
    inputs: tuple[torch.Tensor, ...]
    official: Callable[..., Any]
    ours: dict[str, nn.Module] = field(default_factory=dict)
    graph: Callable[[Path], tuple[Path, list[str]]] | None = None


def half(device: torch.device) -> Any:
    """Compute in float16 where that is safe, as people deploy these models in PyTorch."""
    return torch.autocast(device.type, _kind(device), cache_enabled=False)


def _kind(device: torch.device) -> torch.dtype:
    return torch.float16 if device.type == "cuda" else torch.bfloat16


def stored_half(module: nn.Module, device: torch.device) -> nn.Module:
    """Copy a module to the device; the weights of its products lie there in float16."""
    copied = copy.deepcopy(module).to(device)
    for part in copied.modules():
        if isinstance(part, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            part.to(_kind(device))
    return copied


def _fp16_graph(make: Callable[[], Any], names: list[str], samples: dict[str, Any], islands: Any) -> Any:
    def write(folder: Path) -> tuple[Path, list[str]]:
        from clouds_deploy.export.half import to_half
        from clouds_deploy.export.trace import save

        path = folder / "graph.onnx"
        save(to_half(make().model, islands, [samples]).model, path, {})
        return path, names

    return write


def flexible(encoder: nn.Module) -> nn.Module:
    """Let a `SamEncoder` attend through PyTorch's FlexAttention, which adds the positions inside its kernel.

    Only for what is compiled: in eager mode PyTorch writes everything out.
    """
    from torch.nn.attention.flex_attention import flex_attention

    from clouds_deploy.models.sam.vit_encoder import VitBlock

    def attend(self: VitBlock, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        heads, side = self.block.attn.num_heads, self.side
        q, k, v = (t.unflatten(-1, (heads, -1)) for t in (q, k, v))
        rows, columns = (t.to(q.dtype) for t in self._positions(q))

        def add(score: Any, batch: Any, head: Any, query: Any, key: Any) -> Any:
            place = rows[batch, query, head, key // side] + columns[batch, query, head, key % side]
            return score + place

        q, k, v = (t.transpose(1, 2).contiguous() for t in (q, k, v))
        return flex_attention(q, k, v, score_mod=add, scale=1.0).transpose(1, 2).flatten(2)

    for module in encoder.modules():
        if isinstance(module, VitBlock):
            module._attend = MethodType(attend, module)  # type: ignore[method-assign]
    return encoder


def encoder_case(name: str) -> Callable[[torch.device], list[Case]]:
    """Make a SAM's encoder, from bytes to embeddings."""

    def make(device: torch.device) -> list[Case]:
        from clouds_deploy.config.export import SamExportConfig
        from clouds_deploy.export.sam import encoder_to_onnx
        from clouds_deploy.models.sam.build import load_seeded
        from clouds_deploy.models.sam.encoder import SamEncoder

        sam = load_seeded(name, "random").sam.requires_grad_(False)
        side = sam.image_encoder.img_size
        image = torch.randint(0, 256, (1, side, side, 3), dtype=torch.uint8)
        size = torch.full((1, 2), side, dtype=torch.int32)
        graph = _fp16_graph(
            lambda: encoder_to_onnx(sam.cpu()),
            ["image", "size"],
            {"image": image.numpy(), "size": size.numpy()},
            SamExportConfig().islands,
        )
        forms = {"bias": ("bias", "bias")}
        if name != "sam_tiny":
            forms |= {"channels": ("channels", "channels"), "both": ("bias", "channels")}
        ours = {
            form: stored_half(
                SamEncoder(sam, window_form=window, global_form=whole),  # type: ignore[arg-type]
                device,
            )
            for form, (window, whole) in forms.items()
        }
        if name != "sam_tiny":
            ours["flex"] = flexible(copy.deepcopy(ours["bias"]))
        sam = sam.to(device)

        def official(image: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
            pixels = (image.permute(0, 3, 1, 2).float() - sam.pixel_mean) / sam.pixel_std
            out: torch.Tensor = sam.image_encoder(pixels)
            return out

        return [Case(f"{name} encoder", (image.to(device), size.to(device)), official, ours, graph)]

    return make


def decoder_cases(device: torch.device) -> list[Case]:
    """Make SAM's decoder, at 1, 64 and 256 prompts on one image."""
    from clouds_deploy.models.sam.build import load_seeded
    from clouds_deploy.models.sam.decoder import SamDecoder

    sam = load_seeded("vit_b", "random").sam.requires_grad_(False).to(device)
    ours = stored_half(SamDecoder(sam), device)
    features = torch.randn(1, 256, 64, 64, device=device)

    def official(
        features: torch.Tensor, index: torch.Tensor, points: torch.Tensor, kinds: torch.Tensor
    ) -> Any:
        sparse, dense = sam.prompt_encoder(points=(points[:, :-1], kinds[:, :-1]), boxes=None, masks=None)
        return sam.mask_decoder(
            image_embeddings=features,
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )

    cases = []
    for count in (1, 64, 256):
        points = torch.rand(count, 2, 2, device=device) * 1024
        kinds = torch.tensor([1.0, -1.0], device=device).expand(count, -1).contiguous()
        index = torch.zeros(count, dtype=torch.int64, device=device)
        inputs = (features, index, points, kinds)
        cases.append(Case(f"vit_b decoder, {count} prompts", inputs, official, {"merged heads": ours}))
    return cases


def segmenter_case(device: torch.device) -> list[Case]:
    """Make the published ConvNeXt-L segmenter, from bytes to class scores."""
    from clouds_deploy.config.shipped import load_recipe
    from clouds_deploy.models.backbones import build_backbone
    from clouds_deploy.models.clouds.graph import SegmenterGraph
    from clouds_deploy.models.clouds.segmenter import Segmenter

    recipe = load_recipe("gta_convnext_l", ("model.backbone.weights=random",))
    torch.manual_seed(0)
    model = (
        Segmenter(recipe.model, build_backbone(recipe.model.backbone)).requires_grad_(False).to(device).eval()
    )
    image = torch.randint(0, 256, (1, 1024, 2048, 3), dtype=torch.uint8, device=device)

    class Graph(nn.Module):
        def __init__(self, model: Segmenter, form: str) -> None:
            super().__init__()
            model.set_form(form)  # type: ignore[arg-type]
            self.graph = SegmenterGraph(model, inference="exact", scores=True)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = self.graph(image)[1]
            return scores

    ours = {form: stored_half(Graph(model, form), device) for form in ("grid_sample", "gather")}
    return [Case(SEGMENTER, (image,), Graph(model, "grid_sample"), ours)]


MAKERS: dict[str, Callable[[torch.device], list[Case]]] = {
    **{name: encoder_case(name) for name in ("sam_tiny", "vit_b", "vit_l", "vit_h")},
    "decoder": decoder_cases,
    "segmenter": segmenter_case,
}
