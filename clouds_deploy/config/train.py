"""How `train` runs; what it trains stands in the recipe."""

from __future__ import annotations

from pathlib import Path

from clouds_deploy.config.section import Section


class TrainOptions(Section):
    """Options of `train`.

    Attributes:
        recipe: Name of a shipped recipe, or path of a YAML file.
        out: Folder of the run.
        overrides: Changes to the recipe, `key=value` each, such as `train.lr=2e-4`.
        resume: Goes on with the run in `out` from its newest checkpoint; a finished run is left as it is.
        init: Finished run whose weights a new run starts from, such as a joint stage from its warm-up. For a
            SAM it may be a safetensors file.
        device: `auto` (a GPU if PyTorch can use one, else the CPU), `cpu`, `cuda` or `cuda:N`.
    """

    recipe: str
    out: Path
    overrides: tuple[str, ...] = ()
    resume: bool = False
    init: Path | None = None
    device: str = "auto"
