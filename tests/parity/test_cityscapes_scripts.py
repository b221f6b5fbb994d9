"""Our metric against the benchmark's own evaluation script, on label maps of all 19 classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from clouds_deploy.evaluation.metrics import ConfusionMatrix
from clouds_deploy.labels import CLASSES, IGNORE, NAMES

NOT_EVALUATED = (0, 1, 4, 5, 9, 15, 29)
"""`labelIds` of the benchmark that no score counts: unlabeled, ego vehicle, static, dynamic, parking, ..."""


@pytest.fixture(scope="module")
def script() -> Any:
    """The benchmark's module; it counts pixels in Python, as where its compiled part is missing."""
    module = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CSUPPORT", False)
        # Instance scores aren't compared; they call `np.in1d`, which NumPy 2.4 no longer has.
        patch.setattr(module.args, "evalInstLevelScore", False)
        patch.setattr(module.args, "quiet", True)
        yield module


def _pair(seed: int, shape: tuple[int, int]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """A prediction and a ground truth, both as train ids: blocks, of which about 70 % agree."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, len(CLASSES), (shape[0] // 4, shape[1] // 4)).astype(np.uint8)
    target = blocks.repeat(4, 0).repeat(4, 1)
    other = random.integers(0, len(CLASSES), shape).astype(np.uint8)
    prediction = np.where(random.random(shape) < 0.7, target, other).astype(np.uint8)
    target[random.random(shape) < 0.1] = IGNORE
    return prediction, target


def _label_ids(labels: npt.NDArray[np.uint8], seed: int) -> npt.NDArray[np.uint8]:
    """Train ids as the benchmark's `labelIds`; ignored pixels get ids that it doesn't evaluate."""
    table = np.zeros(256, np.uint8)
    for c in CLASSES:
        table[c.train_id] = c.cityscapes_id
    ignored = np.random.default_rng(seed).choice(NOT_EVALUATED, labels.shape)
    return np.where(labels == IGNORE, ignored, table[labels]).astype(np.uint8)


def test_every_class_scores_as_the_benchmark_says(script: Any, tmp_path: Path) -> None:
    ours = ConfusionMatrix()
    predictions, truths = [], []
    for frame in range(3):
        prediction, target = _pair(frame, (40, 64))
        ours.update(prediction, target)
        stem = f"town_{frame:06d}_000019"
        truths.append(str(tmp_path / f"{stem}_gtFine_labelIds.png"))
        predictions.append(str(tmp_path / f"{stem}_pred.png"))
        Image.fromarray(_label_ids(target, frame)).save(truths[-1])
        Image.fromarray(_label_ids(prediction, frame)).save(predictions[-1])
    script.args.exportFile = str(tmp_path / "theirs.json")
    script.evaluateImgLists(predictions, truths, script.args)
    theirs = json.loads(Path(script.args.exportFile).read_text())

    scores = {name: theirs["classScores"][name] for name in NAMES}
    assert len(scores) == 19
    np.testing.assert_allclose(ours.iou(), list(scores.values()), rtol=1e-12)
    assert ours.miou() == pytest.approx(theirs["averageScoreClasses"], rel=1e-12)
