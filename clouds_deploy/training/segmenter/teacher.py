"""The teacher: an exponential moving average of the student (docs/explanation/method.md 3.5).

Frozen weights are shared, not copied: with a frozen backbone only the head exists twice.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from clouds_deploy.config.joint import SelfTrainingConfig
from clouds_deploy.errors import CloudsError
from clouds_deploy.models.clouds.scores import label_and_trust
from clouds_deploy.models.clouds.segmenter import Segmenter


def decay_at(update: int, config: SelfTrainingConfig) -> float:
    """Share of the teacher's weights that stays at an update, counted from 0.

    The first update copies the student. Later the share is `ema_decay`; with `ema_warmup` it grows towards
    that as (1 + n) / (10 + n) after n updates, so that at first the teacher does not lag behind.
    """
    if update == 0:
        return 0.0
    return min(config.ema_decay, (1 + update) / (10 + update)) if config.ema_warmup else config.ema_decay


class Teacher:
    """A copy of the student that follows it slowly and labels images for it.

    Args:
        student: The model in training.
        config: The schedule.
    """

    def __init__(self, student: Segmenter, config: SelfTrainingConfig) -> None:
        shared = {id(t): t for t in (*student.parameters(), *student.buffers()) if not t.requires_grad}
        if student.vocabulary is not None:
            shared[id(student.vocabulary)] = student.vocabulary
        self.model = copy.deepcopy(student, shared).eval().requires_grad_(False)
        self.config = config
        own = dict(self.model.named_parameters())
        self._pairs = [(n, own[n], p) for n, p in student.named_parameters() if p.requires_grad]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Moves towards the student, if an update is due before this step; steps count from 0."""
        number, rest = divmod(step, self.config.ema_every)
        if rest:
            return
        decay = decay_at(number, self.config)
        for _, mine, theirs in self._pairs:
            if decay:
                mine.lerp_(theirs, 1 - decay)
            else:
                mine.copy_(theirs)

    @torch.no_grad()
    def label(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Labels images.

        Args:
            images: (B, 3, H, W) uint8 RGB on the model's device.

        Returns:
            labels (B, H, W) uint8 and confidence (B, H, W) float32 in 0..1, see `label_and_trust`.
        """
        pictures = images.float()
        views = [
            self._view(pictures, scale, flip)
            for scale in self.config.teacher_scales
            for flip in ((False, True) if self.config.teacher_flip else (False,))
        ]
        if len(views) == 1:
            return label_and_trust(views[0])
        views = [scores / scores.sum(1, keepdim=True).clamp(min=1e-6) for scores in views]
        return label_and_trust(torch.stack(views).mean(0))

    def _view(self, pictures: Tensor, scale: float, flip: bool) -> Tensor:
        """Scores at the images' own size, computed at another scale or on mirror images: (B, C, H, W)."""
        size = pictures.shape[-2:]
        seen = pictures.flip(-1) if flip else pictures
        if scale == 1:
            scores = self.model.scores(seen, "exact")
        else:
            other = (round(size[0] * scale), round(size[1] * scale))
            seen = F.interpolate(seen, size=other, mode="bilinear", antialias=True)
            scores = F.interpolate(self.model.scores(seen, "exact"), size=size, mode="bilinear")
        return scores.flip(-1) if flip else scores

    def state(self) -> dict[str, Tensor]:
        """Tensors that differ from the student's, by the student's names."""
        return {name: mine for name, mine, _ in self._pairs}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Restores the tensors that `state` returned.

        Raises:
            CloudsError: The names or the shapes are others.
        """
        own = self.state()
        if own.keys() != tensors.keys() or any(own[n].shape != t.shape for n, t in tensors.items()):
            raise CloudsError(f"{where} holds another teacher than the recipe's", "start the run again")
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
