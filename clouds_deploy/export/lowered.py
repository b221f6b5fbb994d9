"""A graph in a lower precision than float32, whichever, and the proof of what it computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from clouds_deploy.backends.backends import runs
from clouds_deploy.bundles.tensors import Array
from clouds_deploy.config.export import ExportConfig, HalfConfig, Int8Config, LimitsConfig
from clouds_deploy.errors import CloudsError
from clouds_deploy.export.gates import Gate, prove
from clouds_deploy.export.half import BF16, FP16, HALVES, Typed, to_half
from clouds_deploy.export.int8 import INT8, Quantized, quantize
from clouds_deploy.export.proof import engine_gate, flops_gate, prove_rounded
from clouds_deploy.models.clouds.names import INPUT

FP32 = "fp32"
SAMPLES = 8
"""Images that are looked at for values that overflow."""


def precision_of(fp16: bool, bf16: bool, int8: bool) -> str:
    """Name the precision that was asked for.

    Raises:
        CloudsError: More than one was.
    """
    asked = [name for name, wanted in ((FP16.name, fp16), (BF16.name, bf16), (INT8, int8)) if wanted]
    if len(asked) > 1:
        raise CloudsError(
            f"a bundle has one precision, not {' and '.join(asked)}", "export once for each, to two places"
        )
    return asked[0] if asked else FP32


@dataclass(frozen=True)
class Lowered:
    """A graph of a lower precision.

    Attributes:
        precision: Its name.
        limits: What it has to reach.
        made: How it was made.
    """

    precision: str
    limits: LimitsConfig
    made: Typed | Quantized

    @property
    def model(self) -> ir.Model:
        """The graph, with scores."""
        return self.made.model

    def facts(self) -> dict[str, Any]:
        """Give what the bundle says of it."""
        return {
            "precision": self.precision,
            "label_agreement": self.limits.label_agreement,
            "typing": self.made.to_json(),
        }

    def prove(
        self,
        engines: Sequence[str],
        shipped: Path,
        with_scores: Path,
        images: Array,
        expected: dict[str, Array],
        extra: Mapping[str, Array],
    ) -> list[Gate]:
        """Prove that the file is of the precision and computes what PyTorch does; see `parity.prove`."""
        what, only = ("backbone", self.limits.nodes) if isinstance(self.limits, Int8Config) else ("graph", "")
        gates = [flops_gate(shipped, self.limits.flops, what, precision=self.precision, only=only)]
        for engine in engines:
            if runs(engine, self.precision):
                found = prove(engine, shipped, with_scores, images, expected, self.limits, extra)
                gates += [replace(gate, engine=f"{engine} {self.precision}") for gate in found]
        if isinstance(self.made, Typed):
            gates += prove_rounded(self.made, images, expected, self.limits, extra)
        return gates

    def prove_engine(self, built: Mapping[str, Any]) -> Gate:
        """Prove that an engine's parser saw the precision too; see `proof.engine_gate`."""
        of = self.made.products if isinstance(self.made, Quantized) else None
        return engine_gate(built, self.limits.flops, self.precision, of)


def lower(
    model: ir.Model,
    precision: str,
    limits: ExportConfig,
    images: Array,
    calibration: Array | None,
    extra: Mapping[str, Array],
) -> Lowered:
    """Bring an exported segmenter to a lower precision.

    Args:
        model: What `to_onnx` made, with scores; not changed.
        precision: `fp16`, `bf16` or `int8`.
        limits: The recipe's section.
        images: (N, H, W, 3) uint8; the last ones, a user's own where there are any, are run for values that
            overflow.
        calibration: (N, H, W, 3) uint8; INT8 only: the images that ranges are taken from.
        extra: What the graph takes beside images, by input name.
    """
    section = getattr(limits, precision)
    if isinstance(section, HalfConfig):
        samples = [{INPUT: image[None], **extra} for image in images[-SAMPLES:]]
        return Lowered(precision, section, to_half(model, section.islands, samples, HALVES[precision]))
    assert calibration is not None
    return Lowered(precision, section, quantize(model, section, calibration, extra))
