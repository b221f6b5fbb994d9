"""INT8 graphs: quantised where they say, close to float32, and refused where they are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from PIL import Image

from clouds_deploy.artifacts import read_manifest
from clouds_deploy.backends.tensorrt.build import build_engine
from clouds_deploy.backends.tensorrt.options import EngineOptions
from clouds_deploy.backends.tensorrt.shapes import graph_shapes
from clouds_deploy.bundles.bundle import open_bundle
from clouds_deploy.config.export import ExportConfig, ExportOptions
from clouds_deploy.data.images import write_png
from clouds_deploy.errors import CloudsError
from clouds_deploy.export import segmenter
from clouds_deploy.export.export import export
from clouds_deploy.export.flops import flops_by_type, share
from clouds_deploy.export.gates import engine_gate, flops_gate, street_images
from clouds_deploy.export.int8 import evenly, quantize
from clouds_deploy.export.lint import lint
from clouds_deploy.inference.selftest import selftest
from tests.backends.test_engines import RTX, cache, needs_rtx
from tests.conftest import HEIGHT, WIDTH, write_run
from tests.export.test_precision import chain, run

__all__ = ["cache"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number, image in enumerate(street_images(HEIGHT, WIDTH, 8, seed=9)):
        write_png(folder / f"{number}.png", image)
    return folder


@pytest.fixture(scope="module")
def int8_bundle(
    tmp_path_factory: pytest.TempPathFactory,
    small_recipe: Any,
    small_segmenter: Any,
    small_exported: Any,
    photos: Path,
) -> Path:
    """A random decoder decides by a hair: its labels prove nothing (trained: docs/measurements/export.md)."""
    loose = small_recipe.export.int8.model_copy(
        update={"label_agreement": 0.0, "max_score_error": 1.0, "relative_error": 1.0, "cosine": 0.5}
    )
    recipe = small_recipe.model_copy(
        update={"export": small_recipe.export.model_copy(update={"int8": loose})}
    )
    folder = tmp_path_factory.mktemp("int8")
    made = write_run(folder / "run", recipe, small_segmenter)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segmenter, "to_onnx", lambda *_, **__: small_exported)
        export(made, out=folder / "bundle", int8=True, calibrate=photos)
    return folder / "bundle"


def test_the_backbone_is_int8_and_the_head_is_not(int8_bundle: Path, small_bundle: Path) -> None:
    graph = int8_bundle / "segmenter.onnx"
    backbone = flops_by_type(graph, only=r"^segmenter\.backbone\b")
    assert set(backbone) == {"int8", "float"}  # depthwise convolutions stay
    assert 0.9 < share(backbone, "int8") < 1
    assert set(flops_by_type(graph, only=r"decoder")) == {"float"}
    assert set(flops_by_type(small_bundle / "segmenter.onnx")) == {"float"}
    assert not lint(onnx.load(str(graph)))
    manifest = read_manifest(int8_bundle, "bundle")
    assert manifest["precision"] == "int8"
    gates = {(gate["engine"], gate["name"]): gate for gate in manifest["gates"]}
    assert gates["backbone int8", "FLOPs in int8"]["passed"]
    for engine in ("onnxruntime int8", "openvino int8"):
        assert gates[engine, "equal rows stay equal"]["value"] == 1.0
    assert open_bundle(int8_bundle).facts["typing"] == {"products": 32, "calibration_images": 8}
    assert graph.stat().st_size < 0.7 * (small_bundle / "segmenter.onnx").stat().st_size


def test_the_bundle_is_replayed_on_both_runtimes(int8_bundle: Path) -> None:
    result = selftest(int8_bundle)
    assert {check["backend"] for check in result["checks"]} == {"onnxruntime", "openvino"}
    assert result["precision"] == "int8"


@needs_rtx
def test_an_engine_sees_int8(int8_bundle: Path, half_bundle: Path, tmp_path: Path, cache: Path) -> None:
    options = EngineOptions("tensorrt-rtx", ("89",), RTX.batch)
    bundle = open_bundle(int8_bundle)
    shapes = graph_shapes(bundle.graphs, bundle.recipe.export.engine, options.batch)["segmenter"]
    facts = build_engine(int8_bundle / "segmenter.onnx", tmp_path / "out", options, shapes)
    assert facts["layers"]["int8"] == 32
    assert engine_gate(facts, 0.9, "int8", of=32).passed
    assert not engine_gate({**facts, "layers": {"float": 120}}, 0.9, "int8", of=32).passed


def named(nodes: str) -> Any:
    return ExportConfig().int8.model_copy(update={"nodes": nodes})


def quantized() -> ir.Model:
    model = chain()
    for value in model.graph.inputs:
        value.name = "image"
    samples = np.random.default_rng(2).normal(size=(16, 4)).astype(np.float32)
    return quantize(model, named("head/"), samples, {}).model


def test_numbers_are_close_and_types_are_counted(tmp_path: Path) -> None:
    model = quantized()
    model.graph.inputs[0].name = "x"
    x = np.random.default_rng(1).normal(size=(8, 4)).astype(np.float32)
    found = run(model, tmp_path / "int8.onnx", x)
    right = run(chain(), tmp_path / "fp32.onnx", x)
    assert 1e-5 < np.abs(found - right).max() < 0.05
    assert flops_by_type(tmp_path / "int8.onnx") == {"int8": 256}
    assert flops_gate(tmp_path / "int8.onnx", 0.9, precision="int8").passed


def test_float32_passed_off_as_int8_fails(tmp_path: Path) -> None:
    ir.save(chain(), tmp_path / "fp32.onnx")
    assert not flops_gate(tmp_path / "fp32.onnx", 0.9, precision="int8").passed


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: quantize(chain(), named("("), np.zeros((1, 4)), {}), "is not a regex"),
        (lambda: quantize(chain(), named("tail"), np.zeros((1, 4)), {}), "names no convolution"),
    ],
)
def test_wrong_nodes(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(CloudsError, match=message):
        make()


def test_ranges_need_images(small_run: Path, tmp_path: Path) -> None:
    with pytest.raises(CloudsError, match="ranges from images"):
        export(small_run, out=tmp_path / "out", int8=True)
    with pytest.raises(CloudsError, match="ranges from images"):
        export(small_run, out=tmp_path / "out", calibrate=tmp_path)
    with pytest.raises(CloudsError, match="one precision, not fp16 and int8"):
        export(small_run, out=tmp_path / "out", int8=True, fp16=True, calibrate=tmp_path)


def test_a_wrong_folder_is_told_before_the_long_work(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is traced: a folder that is not there, an empty one, label maps, a damaged photograph."""

    class Traced(Exception):
        pass

    def trace(*_: object, **__: object) -> None:
        raise Traced

    monkeypatch.setattr(segmenter, "to_onnx", trace)

    def told(folder: Path) -> str:
        with pytest.raises(CloudsError) as caught:
            export(small_run, out=tmp_path / "out", int8=True, calibrate=folder)
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    (tmp_path / "labels").mkdir()
    assert "there is no file or folder" in told(tmp_path / "nofolder")
    assert "holds no images" in told(tmp_path / "labels")
    labels = np.zeros((40, 60), np.uint8)
    labels[10:, 20:], labels[30:, 40:] = 13, 255
    for number in range(3):
        Image.fromarray(labels).save(tmp_path / "labels" / f"{number}.png")
    assert "labels holds label maps, such as" in told(tmp_path / "labels")
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "labels" / "photo.png")
    Image.fromarray(noise[..., 0] // 4).save(tmp_path / "labels" / "night.png")  # grey, 64 values
    (tmp_path / "labels" / "other.heic").touch()
    with pytest.raises(Traced):
        export(small_run, out=tmp_path / "out", int8=True, calibrate=tmp_path / "labels")
    said = " ".join(capsys.readouterr().err.split())
    assert "3 of 5 files are label maps, left out: 0.png, 1.png, 2.png" in said
    assert "passed over 1 files" in said
    options = ExportOptions(int8=True, calibrate=tmp_path / "labels")
    assert segmenter.SegmenterSubject(small_run, options, "cpu").choices["calibration"] == {
        "images": 2,
        "label_maps": [str(tmp_path / "labels" / f"{number}.png") for number in range(3)],
        "passed_over": [str(tmp_path / "labels" / "other.heic")],
    }
    (tmp_path / "labels" / "cut.png").write_bytes((tmp_path / "labels" / "photo.png").read_bytes()[:200])
    assert "cut.png is a damaged image" in told(tmp_path / "labels")


def test_images_are_chosen_evenly() -> None:
    assert evenly(np.arange(10), 4).tolist() == [0, 3, 6, 9]
    assert evenly(np.arange(3), 4).tolist() == [0, 1, 2]
    assert evenly(np.arange(3), None).tolist() == [0, 1, 2]
