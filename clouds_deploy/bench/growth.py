"""What grows besides batch and prompts: image size, a training step's batch, refinement's images and threads.

Stages do not import each other, so what a bench times of training and refinement is put together here.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from clouds_deploy import seeds
from clouds_deploy.artifacts.claims import Scratch
from clouds_deploy.backends.backends import SAM_BACKENDS
from clouds_deploy.bench.plan import Plan
from clouds_deploy.bench.scaling import scale
from clouds_deploy.bundles.bundle import Bundle
from clouds_deploy.config.joint import RefineConfig
from clouds_deploy.data.images import write_png
from clouds_deploy.inference.sam import open_sam
from clouds_deploy.streets import render

SIDES = (0.5, 0.75, 1.0, 1.5)
"""Image sides timed, as shares of the bundle's."""
STEP_BATCHES = (1, 2, 4)
IMAGES = (2, 4, 8)
"""Images of a folder that is refined."""
Growth = dict[str, Any]


def pixels(bundle: Bundle, plan: Plan) -> Growth:
    """Milliseconds of PyTorch against the image's size; an exported graph has one size. See `scale`."""
    import torch

    from clouds_deploy.backends.torch_session import load_source
    from clouds_deploy.models.clouds.graph import SegmenterGraph

    device = plan.device_of("torch")
    graph = SegmenterGraph(load_source(bundle)).to(device)
    wait = torch.cuda.synchronize if device.startswith("cuda") else None
    sizes = {}
    for share in SIDES:
        height, width = (max(32, round(side * share / 32) * 32) for side in (bundle.height, bundle.width))
        sizes[height * width] = (height, width)

    def make(count: int) -> Callable[[], object]:
        height, width = sizes[count]
        image = torch.from_numpy(render("photo", 0, 0, height, width).image[None].copy()).to(device)

        def call() -> None:
            with torch.inference_mode():
                graph(image)
            if wait is not None:
                wait()

        return call

    return scale("pixels", list(sizes), {"torch": make}, plan)


def training(bundle: Bundle, plan: Plan) -> Growth:
    """Milliseconds of an optimiser's step on random images and labels against its batch; see `scale`."""
    import torch

    from clouds_deploy.backends.torch_session import load_source
    from clouds_deploy.models.clouds.store import read_run_recipe
    from clouds_deploy.training.processes import Processes
    from clouds_deploy.training.segmenter.optimizer import build_optimizer
    from clouds_deploy.training.segmenter.step import Step

    assert bundle.source is not None
    recipe = read_run_recipe(bundle.source)
    device = torch.device(plan.device_of("torch"))
    segmenter = load_source(bundle).train().to(device)
    step = Step(recipe, segmenter, build_optimizer(segmenter, recipe.train), None, Processes(device))
    height, width = recipe.augment.crop

    def make(count: int) -> Callable[[], object]:
        scenes = [render("game", 0, i, height, width) for i in range(count)]
        image = torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2).contiguous()
        labels = torch.from_numpy(np.stack([scene.labels for scene in scenes]) % recipe.data.classes.count)
        return partial(step, 0, {"image": image, "labels": labels})

    return scale("images of a training step", STEP_BATCHES, {"torch": make}, plan)


def refine_images(bundle: Bundle, plan: Plan) -> Growth:
    """Milliseconds of refining a folder, from files to files, against its images; see `scale`."""
    with _folders(bundle, max(IMAGES)) as root, ExitStack() as stack:
        calls = {}
        for name in _backends(plan):
            sam = open_sam(bundle, backend=name, device=plan.device_of(name))
            stack.callback(sam.close)
            calls[name] = partial(_refining, sam, root)
        return scale("images of a folder", IMAGES, calls, plan)


def refine_threads(bundle: Bundle, plan: Plan) -> Growth:
    """Milliseconds of refining a folder against the threads that compute; see `scale`."""
    threads = [n for n in (1, 2, 4, 8, 16, 32) if n <= (os.cpu_count() or 1)]
    with _folders(bundle, IMAGES[0]) as root, ExitStack() as stack:

        def make(name: str, count: int) -> Callable[[], object]:
            sam = open_sam(bundle, backend=name, device=plan.device_of(name), threads=count)
            stack.callback(sam.close)
            return _refining(sam, root, IMAGES[0])

        return scale("threads", threads, {name: partial(make, name) for name in _backends(plan)}, plan)


SEGMENTER: dict[str, Callable[[Any, Plan], Growth]] = {"pixels": pixels, "training": training}
SAM: dict[str, Callable[[Any, Plan], Growth]] = {
    "refine images": refine_images,
    "refine threads": refine_threads,
}


def _backends(plan: Plan) -> list[str]:
    return [name for name in plan.suite.backends if name in SAM_BACKENDS]


def draw_folder(root: Path, count: int, size: tuple[int, int], seed: int = 6161) -> None:
    """Fills `images` and `labels` below a folder with synthetic streets and labels that are a little off.

    Args:
        root: The folder.
        count: How many.
        size: Height and width.
        seed: Of the scenes.
    """
    from scipy import ndimage

    for index in range(count):
        scene = render("photo", seed, index, *size)
        random = seeds.generator(index)
        shifted = ndimage.shift(scene.labels, random.integers(-4, 5, 2), order=0, mode="nearest")
        holes = ndimage.zoom(
            random.random((size[0] // 32, size[1] // 32)), 32, order=1, mode="nearest", grid_mode=True
        )
        labels = np.where(holes > 0.85, random.integers(0, 19), shifted).astype(np.uint8)
        write_png(root / "images" / f"{index:04}.png", scene.image)
        write_png(root / "labels" / f"{index:04}.png", labels)


@contextmanager
def _folders(bundle: Bundle, most: int) -> Iterator[Path]:
    """Folders of synthetic streets, one for every number of images up to `most`."""
    side = bundle.height
    with Scratch() as folder:
        root = folder
        for count in (n for n in IMAGES if n <= most):
            draw_folder(root / str(count), count, (side * 3 // 4, side))
        yield root


def _refining(sam: Any, root: Path, count: int) -> Callable[[], object]:
    from clouds_deploy.refinement.refine import RefineWork, run_refine
    from clouds_deploy.refinement.refiner import Refiner

    refiner = Refiner(sam, RefineConfig())
    given, out = root / str(count), root / f"out {count} {id(sam)}"

    def call() -> None:
        shutil.rmtree(out, ignore_errors=True)
        run_refine(RefineWork(lambda: refiner, given / "labels", overlays=0), given / "images", out)

    return call
