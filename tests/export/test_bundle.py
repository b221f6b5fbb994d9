from __future__ import annotations

import json
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from clouds_deploy.artifacts import read_manifest, sha256
from clouds_deploy.backends.backends import open_graph
from clouds_deploy.backends.tensorrt.machine import Machine
from clouds_deploy.backends.tensorrt.options import EngineOptions
from clouds_deploy.bundles.bundle import open_bundle
from clouds_deploy.bundles.proofs import state
from clouds_deploy.config.export import ExportOptions
from clouds_deploy.config.recipe import Recipe
from clouds_deploy.config.section import make_options
from clouds_deploy.errors import CloudsError
from clouds_deploy.export import segmenter
from clouds_deploy.export.export import _check, export, installed_engines
from clouds_deploy.labels import NAMES


def test_graph_keeps_its_contract(small_bundle: Path) -> None:
    model = onnx.load(str(small_bundle / "segmenter.onnx"))
    assert [v.name for v in model.graph.input] == ["image"]
    assert [v.name for v in model.graph.output] == ["labels"]
    shape = model.graph.input[0].type.tensor_type.shape.dim
    assert shape[0].dim_param
    assert [d.dim_value for d in shape[1:]] == [64, 128, 3]
    assert model.graph.node[0].op_type == "Cast"
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]
    assert model.producer_name == "clouds-deploy"
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["classes"]) == list(NAMES)


def test_simplification_leaves_one_shape_and_no_repeated_constant(small_bundle: Path) -> None:
    model = onnx.load(str(small_bundle / "segmenter.onnx"))
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("Shape") == 1
    assert "IsNaN" not in kinds
    arrays = [onnx.numpy_helper.to_array(i) for i in model.graph.initializer]
    keys = [(a.dtype.str, a.shape, a.tobytes()) for a in arrays]
    assert len(set(keys)) == len(keys)


def test_carries_no_path_of_the_machine_it_was_made_on(small_bundle: Path) -> None:
    assert (
        str(Path(segmenter.__file__).parents[2]).encode()
        not in (small_bundle / "segmenter.onnx").read_bytes()
    )


def test_bundle_is_whole_and_names_its_run(small_bundle: Path, small_run: Path) -> None:
    bundle = open_bundle(small_bundle)
    assert bundle.manifest["random_weights"] is False
    assert "ImageNet" in bundle.manifest["backbone_weights"]
    assert (bundle.height, bundle.width, bundle.mean_color) == (64, 128, (127, 127, 127))
    expected = bundle.reference()
    images = expected["image"]
    assert images.shape == (4, 64, 128, 3)
    assert expected["labels"].shape == (4, 64, 128)
    assert len(np.unique(expected["labels"])) > 3
    assert all(gate["passed"] for gate in bundle.gates())
    assert {gate["engine"] for gate in bundle.gates()} == {"onnxruntime", "openvino"}
    assert not list(small_bundle.glob("with_scores*"))
    read_manifest(small_run, "run")  # the input is as it was


@pytest.mark.parametrize("name", ["segmenter.onnx", "gates.json", "source/trained.safetensors"])
def test_flipped_byte_is_refused(tmp_path: Path, small_bundle: Path, name: str) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(small_bundle, copy)
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(CloudsError, match="is not the file its manifest names"):
        open_bundle(copy)


def test_run_is_no_bundle(small_run: Path) -> None:
    with pytest.raises(CloudsError, match="is a run, not a bundle"):
        open_bundle(small_run)


def test_failed_gate_fails_the_export_and_leaves_nothing(
    tmp_path: Path, small_run: Path, small_exported: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The classifier's weights with the wrong sign: a sound graph, but not the network."""

    def spoiled(*_: object, **__: object) -> Any:
        model = small_exported.model.clone()
        (weight,) = (v for v in model.graph.initializers.values() if v.shape == (32, 20))
        weight.const_value = ir.Tensor(-weight.const_value.numpy(), name=weight.name)
        return replace(small_exported, model=model)

    monkeypatch.setattr(segmenter, "to_onnx", spoiled)
    with pytest.raises(CloudsError, match="FAILED") as caught:
        export(small_run, out=tmp_path / "out", engines=("onnxruntime",))
    assert caught.value.exit_code == 1
    failed = [line for line in caught.value.message.splitlines() if "FAILED" in line]
    assert any("labels equal " in line for line in failed)
    assert not any("equal rows" in line for line in failed)
    assert "not what PyTorch computes" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"engines": ("onnxruntim",)}, "did you mean `onnxruntime`"),
        ({"inference": "exakt"}, "did you mean `exact`"),
        ({"height": 65}, "not a multiple of 32"),
        ({"heigth": 64}, "no option `heigth`"),
        ({"batch": (1, 2)}, "batch"),
        ({"sms": ("89",)}, "--sm is for TensorRT-RTX"),
        ({"device": "tpu"}, "no device `tpu`"),
        ({"weights": "some.pth"}, "a run has its own"),
        ({"weights": "random"}, "a run has its own"),
    ],
)
def test_wrong_arguments(tmp_path: Path, small_run: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(CloudsError) as caught:
        export(small_run, out=tmp_path / "out", **arguments)
    assert message in f"{caught.value.message} {caught.value.hint}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_weights_over_the_limit_go_to_a_file_of_their_own(
    tmp_path: Path, small_bundle: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    from clouds_deploy.backends.backends import open_graph
    from clouds_deploy.export import trace as exporter

    monkeypatch.setattr(exporter, "LARGEST_FILE", 1000)
    exporter.save(ir.load(small_bundle / "segmenter.onnx"), tmp_path / "large.onnx", {})
    assert (tmp_path / "large.onnx.data").stat().st_size > 10 * (tmp_path / "large.onnx").stat().st_size
    expected = open_bundle(small_bundle).reference()
    images = expected["image"]
    labels = open_graph(tmp_path / "large.onnx", engine).run({"image": images})["labels"]
    assert (labels == expected["labels"]).mean() > 0.999


def test_a_bundle_whose_weights_lie_beside_its_graph(
    tmp_path: Path,
    small_run: Path,
    exported_already: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Exported, packed, unpacked, proven and run with both files; a missing or a changed one is told."""
    import clouds_deploy
    from clouds_deploy.artifacts import CACHE_VARIABLE
    from clouds_deploy.bundles.packed import pack, unpacked
    from clouds_deploy.export import trace

    monkeypatch.setattr(trace, "LARGEST_FILE", 1000)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    file = tmp_path / "a.clouds"
    clouds_deploy.export(small_run, out=file, engines=("onnxruntime",))
    opened = unpacked(file)
    graph, weights = opened / "segmenter.onnx", opened / "segmenter.onnx.data"
    assert weights.stat().st_size > 10 * graph.stat().st_size
    assert open_bundle(opened).manifest["files"][weights.name]["sha256"] == sha256(weights)
    assert {path.name for path in opened.glob("*.onnx*")} == {graph.name, weights.name}
    pack(opened, tmp_path / "again.clouds")
    assert (tmp_path / "again.clouds").read_bytes() == file.read_bytes()
    for backend in ("onnxruntime", "openvino"):
        assert clouds_deploy.selftest(file, backends=(backend,))["passed"]
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CloudsError, match=r"segmenter\.onnx\.data"):
        open_bundle(opened)
    weights.unlink()
    with pytest.raises(CloudsError, match=r"segmenter\.onnx\.data"):
        open_bundle(opened)


def test_a_recipe_is_tried_before_it_is_trained(
    tmp_path: Path,
    small_recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its graph on random weights, in one file; said to be random, and given to no run that exists."""
    import clouds_deploy
    from clouds_deploy.artifacts import CACHE_VARIABLE
    from clouds_deploy.bundles.packed import unpacked

    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    file = tmp_path / "dry.clouds"
    recipe = tmp_path / "small.yaml"
    recipe.write_text(small_recipe.to_yaml(), encoding="utf-8")
    result = clouds_deploy.export(recipe, weights="random", out=file, width=64, engines=("onnxruntime",))
    assert result["out"] == str(file)
    assert result["random_weights"] is True
    assert "RANDOM" in capsys.readouterr().err
    bundle = open_bundle(unpacked(file))
    assert bundle.manifest["random_weights"] is True
    assert (bundle.height, bundle.width, bundle.recipe.name) == (64, 64, "small")
    assert clouds_deploy.selftest(file, backends=("onnxruntime",))["passed"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "dry.clouds", "small.yaml"]


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")
def test_fp16_names_the_engines_that_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # conftest's
    assert installed_engines() == ("tensorrt-rtx",)  # TensorRT itself needs a GPU to build
    options = make_options(ExportOptions, {"fp16": True})
    assert _check(options)[2] == ["tensorrt-rtx"]
    assert _check(make_options(ExportOptions, {"fp16": True, "engines": ("none",)}))[1:] == (
        ("onnxruntime",),
        [],
    )
    assert _check(make_options(ExportOptions, {}))[2] == []


def test_an_engine_at_hand_goes_through_the_gates(
    small_run: Path, exported_already: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime stands for TensorRT, by the code that would run it."""
    machine = Machine({"tensorrt": "10.3.0"}, "89", "L4", "550.54", cuda={"tensorrt": "12"})
    monkeypatch.setattr(Machine, "here", staticmethod(lambda index=0: machine))
    monkeypatch.setattr("clouds_deploy.export.export.engine_version", lambda name: "10.3.0")

    def build(graph: Path, out: Path, options: EngineOptions, shapes: Any) -> dict[str, Any]:
        out.mkdir(exist_ok=True)
        name = f"{graph.stem}-tensorrt-10.3.0-on_sm89.engine"
        shutil.copyfile(graph, out / name)
        return {"file": f"{out.name}/{name}", **options.to_json(), "version": "10.3.0", "bytes": 1,
                "sha256": sha256(out / name), "built_on": machine.built_on("tensorrt"), "seconds": 1.0,
                "cached": False, "layers": {}}  # fmt: skip

    monkeypatch.setattr("clouds_deploy.export.export.build_engine", build)
    monkeypatch.setattr(
        "clouds_deploy.backends.tensorrt.session.EngineSession",
        lambda file, engine, options, host_code: open_graph(file, "onnxruntime"),
    )
    made = export(small_run, out=tmp_path / "bundle", engines=("tensorrt",), batch=(1, 1, 2))
    gates = {gate["name"] for gate in made["gates"] if gate["engine"] == "tensorrt"}
    assert {"labels equal", "batch 1 = batch N", "equal rows stay equal"} <= gates
    (entry,) = open_bundle(tmp_path / "bundle").engines
    assert entry["run_on"]["gpu"] == "L4"
    assert state(tmp_path / "bundle", entry, "L4") == "proven on L4"
    assert state(tmp_path / "bundle", entry, "A100") == "built, not run"
