"""Strict and lossless import of checkpoints of CLOUDS, FC-CLIP and Mask2Former.

The released loaders skip silently what does not fit; this one accounts for every tensor by name
(docs/explanation/method.md 6).
"""

from __future__ import annotations

from clouds_deploy.models.importing.checkpoint import import_checkpoint, to_official

__all__ = ["import_checkpoint", "to_official"]
