"""Options of the verb `generate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clouds_deploy.config.section import Section
from clouds_deploy.errors import CloudsError


@dataclass(frozen=True)
class Settings:
    """How a text-to-image model makes images.

    Attributes:
        height: Rows in pixels; None is what the model was made for.
        width: Columns in pixels.
        steps: Denoising steps; None is the pipeline's own number (the authors: 50).
        guidance: Classifier-free guidance; None is the pipeline's own (the authors: 7.5).
        negative: Negative prompt: what should not be seen; the authors have none.
        precision: `auto` is fp16 on a GPU and fp32 on a CPU.
        compiled: Whether to compile the denoiser.
    """

    height: int | None = None
    width: int | None = None
    steps: int | None = None
    guidance: float | None = None
    negative: str = ""
    precision: str = "auto"
    compiled: bool = False


class GenerateOptions(Section):
    """Which images are generated, and by what.

    Attributes:
        prompts: A folder that `prompts` wrote, or a text file with one prompt a line.
        model: `streets`, or a text-to-image pipeline by hub id or folder; see `painter.Diffusion`.
        count: Images in all; None makes one for each prompt.
        seed: Seed of the run; the noise of an image derives from it and the image's number.
        batch: Images made at once; a setting that images depend on, as kernels may round by it.
        shard: `k/n`: this process makes every n-th image, from number k; start one process for each k from 0.
        attempts: How often an image that is blank or refused is drawn.
        adapter: A LoRA of the model: what `tune_diffusion` made, a hub id, a folder or a file.
        adapter_scale: Its strength; 0 is the model without it.
        suffix: Appended to every prompt: the words that a LoRA was tuned on.
        settings: How images are made.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        shards: Whether to write tar shards.
        runner: `local`, or `ray`: on all machines of a Ray cluster.
    """

    prompts: str | Path | None = None
    model: str = "streets"
    count: int | None = None
    seed: int = 0
    batch: int = 4
    shard: str = "0/1"
    attempts: int = 3
    adapter: str | None = None
    adapter_scale: float = 1.0
    suffix: str = ""
    settings: Settings = Settings()
    device: str = "auto"
    shards: bool = False
    runner: str = "local"

    def part(self) -> tuple[int, int]:
        """Number of this process, from 0, and of all processes.

        Raises:
            CloudsError: `shard` does not say so.
        """
        number, _, parts = self.shard.partition("/")
        if not (number.isdecimal() and parts.isdecimal() and int(number) < int(parts)):
            raise CloudsError(f"`{self.shard}` is no shard", "0/2 is the first of two, 1/2 the second")
        return int(number), int(parts)
