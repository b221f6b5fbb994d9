"""Foundation models behind one small interface: four feature maps at strides 4, 8, 16 and 32.

`build_backbone` takes a recipe's section and gives a `Backbone`; the families live in files of their own and
their libraries are imported only when one is built.
"""

from __future__ import annotations

from clouds_deploy.models.backbones.backbone import Backbone, Features
from clouds_deploy.models.backbones.build import build_backbone
from clouds_deploy.models.backbones.open_clip import CLIP_MEAN, CLIP_STD, Clip, load_clip

__all__ = ["CLIP_MEAN", "CLIP_STD", "Backbone", "Clip", "Features", "build_backbone", "load_clip"]
