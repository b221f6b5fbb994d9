"""A SAM by its name, with trained weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clouds_deploy.errors import CloudsError, nearest
from clouds_deploy.models.sam.names import RANDOM

SHIPPED = "sam_tiny.safetensors"
"""Weights of `sam_tiny`, packed with this package in `assets`."""


@dataclass(frozen=True)
class Official:
    """Source of published weights.

    Attributes:
        file: Their published file name.
        url: Address of the download.
    """

    file: str
    url: str


_META = "https://dl.fbaipublicfiles.com/segment_anything/"
OFFICIAL = {
    "vit_b": Official("sam_vit_b_01ec64.pth", f"{_META}sam_vit_b_01ec64.pth"),
    "vit_l": Official("sam_vit_l_0b3195.pth", f"{_META}sam_vit_l_0b3195.pth"),
    "vit_h": Official("sam_vit_h_4b8939.pth", f"{_META}sam_vit_h_4b8939.pth"),
    "mobile_sam": Official("mobile_sam.pt", "https://github.com/ChaoningZhang/MobileSAM, folder weights"),
}
SAM_TINY = "sam_tiny"
NAMES = (*OFFICIAL, SAM_TINY)


@dataclass(frozen=True)
class SamModel:
    """A SAM and the source of its weights.

    Attributes:
        sam: A `segment_anything.modeling.Sam` in evaluation mode, without gradients.
        name: One of `NAMES`.
        source: `random`, `package <file>`, or `file <file>`.
        sha256: Of the file of weights; None for random ones.
        image_size: Side of the square that the image encoder sees.
    """

    sam: Any
    name: str
    source: str
    sha256: str | None
    image_size: int

    def describe(self) -> dict[str, Any]:
        """Description for manifests and reports."""
        return {
            "sam": self.name,
            "weights": self.source,
            "sha256": self.sha256,
            "image_size": self.image_size,
        }


def load_sam(name: str, weights: str | Path | None = None) -> SamModel:
    """Builds a SAM and loads its weights strictly.

    Args:
        name: `vit_b`, `vit_l`, `vit_h`, `mobile_sam` or `sam_tiny`; for another input size than that of
            its training followed by `@` and the side in pixels of the square that its image encoder sees,
            a multiple of 16 (32 for `sam_tiny`): `sam_tiny@384`. Weights of a ViT fit one size only.
        weights: A file, see `models.weights`; `random` for a dry run, with a warning; None for
            the weights shipped with the package, which only `sam_tiny` has.

    Raises:
        CloudsError: There is no such model, the size is impossible, no weights were given (the message says
            where to get them), the file cannot be read, or it does not hold exactly this model.
    """
    name, image_size = _split(name)
    if weights == RANDOM:
        from clouds_deploy.console import warn

        sam = build(name, image_size)
        warn(f"`{name}` has random weights: its masks are meaningless")
        return _finish(sam, name, RANDOM, None)
    path, source = _locate(name, weights)

    import torch

    from clouds_deploy.artifacts import sha256
    from clouds_deploy.models.sam.weights import fill

    with torch.device("meta"):  # the file's tensors replace these, which need no memory
        sam = build(name, image_size)
    fill(sam, path)
    return _finish(sam, name, source, sha256(path))


def load_seeded(name: str, weights: str | Path | None = None, seed: int = 0) -> SamModel:
    """Loads a SAM as `load_sam` does; random weights depend on `seed`, and torch's random state is kept."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return load_sam(name, weights)


def build(name: str, image_size: int | None = None) -> Any:
    """Builds an untrained SAM, one of `NAMES`; without a size for that of its training."""
    from clouds_deploy.models.sam.assembly import FULL_SIZE, VIT, build_mobile_sam, build_vit_sam

    if name == SAM_TINY:
        from clouds_deploy.config.sam import SamTinyConfig
        from clouds_deploy.models.sam.tiny import build_sam_tiny

        config = SamTinyConfig()
        return build_sam_tiny(
            config if image_size is None else config.model_copy(update={"image_size": image_size})
        )
    if name == "mobile_sam":
        return build_mobile_sam(image_size or FULL_SIZE)
    return build_vit_sam(VIT[name], image_size or FULL_SIZE)


def _split(name: str) -> tuple[str, int | None]:
    """Name and size of `name@size`."""
    plain, at, side = name.partition("@")
    if plain not in NAMES:
        raise CloudsError(f"there is no SAM `{plain}`", nearest(plain, NAMES))
    if not at:
        return plain, None
    step, example = (32, 384) if plain == SAM_TINY else (16, 1024)
    size = int(side) if side.isascii() and side.isdigit() else 0
    if size < step or size % step:
        raise CloudsError(
            f"`{name}` names no input size that `{plain}` can have",
            f"give a multiple of {step} after the @, such as {plain}@{example}",
        )
    return plain, size


def shipped_weights() -> Path:
    """Path of the shipped weights of `sam_tiny`, whether they exist or not."""
    return Path(__file__).parents[2] / "assets" / SHIPPED


def _locate(name: str, weights: str | Path | None) -> tuple[Path, str]:
    if weights is not None:
        path = Path(weights)
        return path, f"file {path.name}"
    if name in OFFICIAL:
        official = OFFICIAL[name]
        raise CloudsError(
            f"`{name}` needs its weights, {official.file}, and none were given",
            f"get them from {official.url} and give the file's path, or `random` for a dry run",
        )
    path = shipped_weights()
    if not path.is_file():
        raise CloudsError(
            f"this package has no weights of `{name}`: {path} is missing",
            "install the package again, train them, or give a file's path, or `random` for a dry run",
        )
    return path, f"package {path.name}"


def _finish(sam: Any, name: str, source: str, digest: str | None) -> SamModel:
    sam.eval().requires_grad_(False)
    return SamModel(sam, name, source, digest, int(sam.image_encoder.img_size))
