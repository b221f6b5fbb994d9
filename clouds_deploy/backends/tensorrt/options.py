"""Options of building an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from clouds_deploy.backends.tensorrt.machine import ENGINES, Machine
from clouds_deploy.config.export import EngineKnobs
from clouds_deploy.errors import CloudsError, nearest

SMS = ("75", "80", "86", "89", "120", "121")
"""Compute capabilities that TensorRT-RTX 1.7 builds for ahead of time; 90 (H100, H200) is not among them."""
TENSORRT_ONLY = ("version_compatible", "hardware_compatible", "optimization_level")
"""Knobs that TensorRT-RTX does not have."""


@dataclass(frozen=True)
class EngineOptions:
    """Options of building an engine.

    Attributes:
        engine: A name in `ENGINES`.
        sms: Compute capabilities to build for, such as `89`; TensorRT-RTX only, TensorRT builds for the GPU
            that is there.
        batch: Smallest, most likely and largest number of images.
        knobs: How the builder works; the `engine` section of an export recipe.
    """

    engine: str
    sms: tuple[str, ...]
    batch: tuple[int, int, int]
    knobs: EngineKnobs = field(default_factory=EngineKnobs)

    def __post_init__(self) -> None:
        """Refuses what cannot be built.

        Raises:
            CloudsError: See the attributes.
        """
        if self.engine not in ENGINES:
            raise CloudsError(f"there is no engine `{self.engine}`", nearest(self.engine, ENGINES))
        least, likeliest, most = self.batch
        if not 1 <= least <= likeliest <= most:
            raise CloudsError(
                f"batch {least}, {likeliest}, {most} is not a range",
                "give the smallest, the most likely and the largest batch, in this order: 1,4,8",
            )
        if self.engine == "tensorrt":
            if self.sms:
                raise CloudsError(
                    "TensorRT builds for the GPU in this machine, not for a list of SMs",
                    "leave --sm out, or use --engine tensorrt-rtx",
                )
        elif wrong := [name for name in TENSORRT_ONLY if getattr(self.knobs, name)]:
            raise CloudsError(f"`{wrong[0]}` is an option of --engine tensorrt", "leave it out")
        elif not self.sms:
            raise CloudsError(
                "TensorRT-RTX needs to know what to build for", f"add --sm, of {', '.join(SMS)}"
            )
        for sm in self.sms:
            if sm not in SMS:
                hint = (
                    "H100 and H200 are served by --engine tensorrt"
                    if sm == "90"
                    else f"it knows {', '.join(SMS)}"
                )
                raise CloudsError(f"TensorRT-RTX does not build for SM {sm}", hint)

    def to_json(self) -> dict[str, Any]:
        """The options as JSON values, in one level."""
        return {
            "engine": self.engine,
            "sms": list(self.sms),
            "batch": list(self.batch),
            **self.knobs.model_dump(mode="json"),
        }


def targets(engine: str, asked: Sequence[str], recipe: Sequence[str]) -> tuple[str, ...]:
    """Compute capabilities that an engine is built for.

    Args:
        engine: A name in `ENGINES`; TensorRT builds for the GPU that is there, and takes none.
        asked: What the user said.
        recipe: What the export recipe says, where there is no GPU here.
    """
    if engine == "tensorrt" or asked:
        return tuple(asked)
    own = Machine.here().sm
    return (own,) if own else tuple(recipe)
