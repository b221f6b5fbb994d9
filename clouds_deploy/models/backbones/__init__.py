"""Foundation models behind one small interface: four feature maps at strides 4, 8, 16 and 32.

`build_backbone` makes a `Backbone` from a recipe's section; each family has its own file, and its library is
imported only when it is built.
"""

from __future__ import annotations

from clouds_deploy.models.backbones.backbone import Backbone, Features
from clouds_deploy.models.backbones.build import build_backbone
from clouds_deploy.models.backbones.open_clip import CLIP_MEAN, CLIP_STD, Clip, load_clip

__all__ = ["CLIP_MEAN", "CLIP_STD", "Backbone", "Clip", "Features", "build_backbone", "load_clip"]
