"""One small segmenter, its run and its bundle, built once for all tests that need them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from torch.utils.data._utils import signal_handling

from clouds_deploy.artifacts import write_manifest, write_text
from clouds_deploy.config.export import ExportConfig
from clouds_deploy.config.model import MaskDecoderConfig, ModelConfig, PixelDecoderConfig
from clouds_deploy.config.recipe import Recipe
from clouds_deploy.models.clouds.segmenter import Segmenter, build_segmenter
from clouds_deploy.models.clouds.store import RECIPE, save_weights

HEIGHT, WIDTH = 64, 128

# torch's DataLoader leaves a SIGCHLD handler behind. With an alternate signal stack that some native library
# leaves too, the end of any child then ended the whole run with SIGSEGV. So no handler is set.
signal_handling._SIGCHLD_handler_set = True

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Draws from the global generator repeat, whatever ran before."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def engines_only_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """`export --fp16` builds the engines that are installed; a test that is about them names them."""
    # by module: `clouds_deploy.export` is the verb until the package is imported
    monkeypatch.setattr(import_module("clouds_deploy.export.export"), "installed_engines", tuple)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tiny layers gain nothing from more threads, and lose much where cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def small_recipe() -> Recipe:
    return Recipe(
        name="small",
        model=ModelConfig(
            width=32,
            pixel_decoder=PixelDecoderConfig(layers=1, heads=4, feedforward=64),
            mask_decoder=MaskDecoderConfig(queries=8, layers=2, heads=4, feedforward=64),
        ),
        export=ExportConfig(height=HEIGHT, width=WIDTH),
        evaluate={"short_side": None},
    )


@pytest.fixture(scope="session")
def small_segmenter(small_recipe: Recipe) -> Segmenter:
    """Random decoders on real features, spread out so that several classes win somewhere."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        segmenter = build_segmenter(small_recipe.model).eval()
        with torch.no_grad():
            for name, parameter in segmenter.named_parameters():
                if "sampling_offsets.weight" in name or "attention_weights.weight" in name:
                    parameter.normal_(std=0.2)
                if name == "mask_decoder.classify.weight":
                    parameter.normal_(std=1.0)
                if name == "mask_decoder.query_features":
                    parameter.mul_(4)
                if name == "pixel_decoder.mask_features.weight":
                    parameter.mul_(4)
    return segmenter


@pytest.fixture(scope="session")
def small_run(
    tmp_path_factory: pytest.TempPathFactory, small_recipe: Recipe, small_segmenter: Segmenter
) -> Path:
    return write_run(tmp_path_factory.mktemp("small") / "run", small_recipe, small_segmenter)


def write_run(run: Path, recipe: Recipe, segmenter: Segmenter) -> Path:
    """Write what training would leave."""
    run.mkdir()
    write_text(run / RECIPE, recipe.to_yaml())
    save_weights(run, segmenter)
    write_manifest(run, "run", backbone_weights=segmenter.backbone.weights)
    return run


@pytest.fixture(scope="session")
def small_exported(small_segmenter: Segmenter) -> Any:
    """What the exporter made of the small segmenter, an `Exported`: it needs half a minute for it."""
    from clouds_deploy.export.trace import to_onnx

    return to_onnx(small_segmenter, HEIGHT, WIDTH)


@pytest.fixture
def exported_already(small_exported: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `export` take what was made already for the small run."""
    _take(small_exported, monkeypatch)


def _take(exported: Any, patch: pytest.MonkeyPatch) -> None:
    from clouds_deploy.export import segmenter

    patch.setattr(segmenter, "to_onnx", lambda *_, **__: replace(exported, model=exported.model.clone()))


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory, small_run: Path, small_exported: Any) -> Path:
    """Exported and proven once."""
    from clouds_deploy.export.export import export

    out = tmp_path_factory.mktemp("small") / "bundle"
    with pytest.MonkeyPatch.context() as patch:
        _take(small_exported, patch)
        export(small_run, out=out)
    return out


@pytest.fixture(scope="session")
def sam_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`sam_tiny` with the weights that the package ships, at a quick size, exported and proven once."""
    from clouds_deploy.export.export import export

    out = tmp_path_factory.mktemp("sam") / "bundle"
    export("sam:sam_tiny@256", out=out, engines=("onnxruntime",))
    return out


@pytest.fixture(scope="session")
def half_bundle(
    tmp_path_factory: pytest.TempPathFactory,
    small_recipe: Recipe,
    small_segmenter: Segmenter,
    small_exported: Any,
) -> Path:
    """The same in FP16; random decoders decide narrowly, so its tolerances are wide."""
    from clouds_deploy.export.export import export

    folder = tmp_path_factory.mktemp("half")
    half = small_recipe.export.fp16.model_copy(update={"label_agreement": 0.93, "relative_error": 0.05})
    recipe = small_recipe.model_copy(update={"export": small_recipe.export.model_copy(update={"fp16": half})})
    run = write_run(folder / "run", recipe, small_segmenter)
    with pytest.MonkeyPatch.context() as patch:
        _take(small_exported, patch)
        export(run, out=folder / "bundle", engines=("onnxruntime",), fp16=True)
    return folder / "bundle"


@pytest.fixture
def picture() -> np.ndarray:
    """(64, 128, 3) uint8: blocks of colour under a gradient."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (8, 16, 3)).repeat(8, axis=0).repeat(8, axis=1)
    slope = np.linspace(-30, 30, WIDTH)[None, :, None]
    return np.clip(blocks + slope, 0, 255).astype(np.uint8)


@pytest.fixture
def ray() -> Iterator[Any]:
    """Ray, which is left alone again afterwards."""
    found = pytest.importorskip("ray", reason="Ray is not installed: pip install clouds-deploy[ray]")
    yield found
    found.shutdown()


@pytest.fixture
def two_machines(ray: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two machines' worth of Ray on this one, of a core each: two workers."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield cluster
    ray.shutdown()
    cluster.shutdown()
