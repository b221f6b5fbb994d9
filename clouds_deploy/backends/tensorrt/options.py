"""Options of building an engine."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from clouds_deploy.backends.tensorrt.machine import ENGINES
from clouds_deploy.errors import CloudsError, nearest

SMS = ("75", "80", "86", "89", "120", "121")
"""Compute capabilities that TensorRT-RTX 1.7 builds for ahead of time; 90 (H100, H200) is not among them."""


@dataclass(frozen=True)
class EngineOptions:
    """Options of building an engine.

    Attributes:
        engine: A name in `ENGINES`.
        sms: Compute capabilities to build for, such as `89`; TensorRT-RTX only, TensorRT builds for the GPU
            that is there.
        batch: Smallest, most likely and largest number of images.
        workspace_mib: Most memory that the engine may use beside its weights and tensors; None sets no limit.
        version_compatible: Whether later versions of TensorRT may load it; TensorRT only.
        hardware_compatible: Whether GPUs from Ampere on may load it; TensorRT only.
    """

    engine: str
    sms: tuple[str, ...]
    batch: tuple[int, int, int]
    workspace_mib: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False

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
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise CloudsError(f"a workspace of {self.workspace_mib} MiB is too small", "give at least 1")
        if self.engine == "tensorrt":
            if self.sms:
                raise CloudsError(
                    "TensorRT builds for the GPU in this machine, not for a list of SMs",
                    "leave --sm out, or use --engine tensorrt-rtx",
                )
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
        """The options as JSON values."""
        return asdict(self)
