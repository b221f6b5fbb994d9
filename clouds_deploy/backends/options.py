"""What a session can be asked for, whatever the backend."""

from __future__ import annotations

from dataclasses import dataclass

from clouds_deploy.config.precision import Precision


@dataclass(frozen=True)
class Options:
    """How a session is to run.

    Attributes:
        device: `auto`, `cpu`, `cuda` or `cuda:N`, see `device.resolve_device`; for OpenVINO also another
            device that it lists, such as `GPU`.
        threads: Threads to compute with; None leaves it to the backend.
        precision: `fp32` computes as the graph is written; `bf16` in bfloat16, where the backend can
            (OpenVINO). Never chosen silently.
        batch: Images of nearly every call, where that is known beforehand; OpenVINO plans for it.
    """

    device: str = "cpu"
    threads: int | None = None
    precision: Precision = "fp32"
    batch: int | None = None
