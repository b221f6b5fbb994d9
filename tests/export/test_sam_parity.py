"""A SAM whose answer to one image or prompt depends on those beside it does not pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from clouds_deploy.config.export import SamExportConfig
from clouds_deploy.export.sam import Case, encoder_gates, prompt_gates
from clouds_deploy.models.sam.names import EMBEDDINGS, IMAGE, INDEX, LABELS, MASKS, POINTS, SIZE

RANDOM = np.random.default_rng(0)
CASE = Case(
    {IMAGE: RANDOM.integers(0, 256, (2, 8, 8, 3)).astype(np.uint8), SIZE: np.full((2, 2), 8, np.int32)},
    {
        INDEX: np.array([0, 0, 1]),
        POINTS: RANDOM.random((3, 1, 2)).astype(np.float32),
        LABELS: np.ones((3, 1), np.int64),
    },
)
Rows = Callable[[Any], Any]


class Fake:
    """Both graphs as a function of a row, and what is done to the rows of a batch."""

    def __init__(self, mix: Rows) -> None:
        self.mix = mix

    def run(self, feeds: dict[str, Any]) -> dict[str, Any]:
        if IMAGE in feeds:
            return {EMBEDDINGS: self.mix(feeds[IMAGE].mean((1, 2, 3), keepdims=True).astype(np.float32))}
        given = feeds[EMBEDDINGS][feeds[INDEX]][:, :, 0, 0] + feeds[POINTS][:, 0, :1]
        return {MASKS: self.mix(given[:, :, None, None].astype(np.float32))}


MIXES = {
    "good": lambda rows: rows,
    "sees the batch": lambda rows: rows + 0.01 * rows.sum(0),
    "sees its place": lambda rows: rows + np.arange(len(rows), dtype=np.float32).reshape(-1, 1, 1, 1),
}


@pytest.mark.parametrize(
    ("mix", "failing"),
    [
        ("good", set()),
        ("sees the batch", {"batch 1 = batch N", "1 prompt = N prompts"}),
        (
            "sees its place",
            {"equal rows stay equal", "batch 1 = batch N", "shuffled prompts", "1 prompt = N prompts"},
        ),
    ],
)
def test_rows_that_depend_on_others_are_seen(mix: str, failing: set[str]) -> None:
    session: Any = Fake(MIXES[mix])
    limits = SamExportConfig().fp32
    embeddings, gates = encoder_gates("x", session, CASE, limits, batched=True)
    whole = session.run(CASE.decoder(embeddings))
    gates += prompt_gates("x", session, CASE, embeddings, whole, limits)
    assert {gate.name for gate in gates if not gate.passed} == failing
