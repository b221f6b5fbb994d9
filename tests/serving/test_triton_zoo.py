"""Triton's configs for the whole zoo: each recipe with either head, and each SAM, for every backend.

The bundles hold the facts that the exporter writes for these models, beside a graph that is a stand-in: a
config is made of the facts, and the weights of most models are not here.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from clouds_deploy.artifacts import write_json, write_manifest
from clouds_deploy.bundles.sam_specs import sam_specs
from clouds_deploy.bundles.vocabulary import Vocabulary
from clouds_deploy.config.shipped import is_sam_recipe, load_recipe, recipe_names
from clouds_deploy.export.embed import fix_inputs
from clouds_deploy.export.sam import graph_facts
from clouds_deploy.export.segmenter import bundle_facts, graph_spec
from clouds_deploy.models.clouds.names import SHARE, VOCABULARY
from clouds_deploy.models.sam.build import NAMES, SamModel, build
from clouds_deploy.serving.triton.config import BACKENDS, TritonOptions
from clouds_deploy.serving.triton.repository import write_repository
from tests.serving.triton_schema import read_config

SEGMENTERS = [name for name in recipe_names() if not is_sam_recipe(name)]
UINT8, INT32, INT64, FP32 = 2, 8, 9, 11
"""Of Triton's `DataType`: TYPE_UINT8 and so on, by the schema."""


@pytest.fixture(scope="module")
def sams(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for name in NAMES:
        with torch.device("meta"):  # shapes only
            sam = build(name)
        model = SamModel(sam, name, "random", None, int(sam.image_encoder.img_size))
        path = tmp_path_factory.mktemp("sams") / name
        path.mkdir()
        facts = {"name": name, "image_size": model.image_size, "weights": "random", "precision": "fp32"}
        write_json(path / "bundle.json", {**facts, "graphs": graph_facts(sam_specs(sam))})
        for part in ("encoder", "decoder"):
            stand_in = helper.make_graph([], "stand-in", [], [])
            onnx.save(helper.make_model(stand_in), str(path / f"{part}.onnx"))
        write_manifest(path, "sam_bundle")
        made[name] = path
    return made


def segmenter(path: Path, recipe_name: str, head: str, scores: bool) -> Path:
    recipe = load_recipe(recipe_name, (f"model.head={head}",))
    path.mkdir()
    write_json(path / "manifest.json", {})
    backbone = SimpleNamespace(mean=torch.full((3,), 120.0), weights="random")
    words = Vocabulary(("a", "b"), np.ones((2, 1, 768), np.float32), np.zeros(2, np.float32))
    extra = {VOCABULARY: words.vectors, SHARE: words.share} if head == "text" else {}
    model: Any = SimpleNamespace(backbone=backbone)
    facts = bundle_facts(path, recipe, model, "exact", graph_spec(recipe.export, scores, extra, 19))
    (path / "manifest.json").unlink()
    write_json(path / "bundle.json", facts)
    if extra:
        words.save(path / "vocabulary.npz")
    values = [helper.make_tensor_value_info(i["name"], TensorProto.FLOAT, None) for i in facts["inputs"]]
    same = helper.make_node("Identity", [values[0].name], ["labels"])
    out = [helper.make_tensor_value_info("labels", TensorProto.FLOAT, None)]
    onnx.save(helper.make_model(helper.make_graph([same], "g", values, out)), str(path / "segmenter.onnx"))
    write_manifest(path, "bundle")
    return path


def check_tensors(config: Any) -> None:
    tensors = [*config.input, *config.output]
    assert tensors
    assert len({t.name for t in tensors}) == len(tensors)
    for tensor in tensors:
        assert tensor.data_type in (UINT8, INT32, INT64, FP32)
        assert all(size == -1 or size > 0 for size in tensor.dims)
        assert -1 not in tensor.dims[1:] or config.max_batch_size == 0
    for warm in config.model_warmup:
        assert set(warm.inputs) == {t.name for t in config.input}
        assert all(size > 0 for given in warm.inputs.values() for size in given.dims)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("head", ["linear", "text"])
@pytest.mark.parametrize("name", SEGMENTERS)
def test_every_recipe(name: str, head: str, backend: str, tmp_path: Path) -> None:
    bundle = segmenter(tmp_path / "bundle", name, head, scores=backend == "openvino")
    write_repository(bundle, tmp_path / "r", TritonOptions(backend), fix=fix_inputs)
    config = read_config(tmp_path / "r", "clouds")
    check_tensors(config)
    size = load_recipe(name).export
    (image,) = config.input
    assert list(image.dims) == [size.height, size.width, 3]
    assert config.backend == backend
    assert config.default_model_filename == BACKENDS[backend]
    if backend != "tensorrt":
        assert (tmp_path / "r" / "models" / "clouds" / "1" / config.default_model_filename).is_file()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", NAMES)
def test_every_sam(name: str, backend: str, sams: dict[str, Path], tmp_path: Path) -> None:
    bundle = segmenter(tmp_path / "bundle", "tiny", "linear", scores=False)
    made = write_repository(bundle, tmp_path / "r", TritonOptions(backend), sam=sams[name])
    for model, runs in made["models"].items():
        config = read_config(tmp_path / "r", model)
        check_tensors(config)
        assert config.backend == runs
    side = 768 if name == "sam_tiny" else 1024
    encoder, decoder = (read_config(tmp_path / "r", f"clouds_sam_{part}") for part in ("encoder", "decoder"))
    assert list(encoder.input[0].dims) == [side, side, 3]
    assert [t.data_type for t in encoder.input] == [UINT8, INT32]
    assert [t.data_type for t in decoder.input] == [FP32, INT64, FP32, FP32]
    assert list(encoder.output[0].dims) == list(decoder.input[0].dims)[1:]
