"""Engines: built for named GPUs from the graph's types, cached by content, refused where they cannot run."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner

from clouds_deploy.artifacts import CACHE_VARIABLE, cache_folder, read_json, read_manifest, sha256
from clouds_deploy.backends.tensorrt import build as building
from clouds_deploy.backends.tensorrt.build import build_engine
from clouds_deploy.backends.tensorrt.machine import ENGINES, Machine
from clouds_deploy.backends.tensorrt.options import EngineOptions
from clouds_deploy.backends.tensorrt.preflight import check_engine
from clouds_deploy.backends.tensorrt.shapes import engine_config, graph_shapes
from clouds_deploy.bundles.bundle import open_bundle
from clouds_deploy.bundles.tensors import GraphSpec, TensorSpec
from clouds_deploy.cli.app import app
from clouds_deploy.config.export import EngineKnobs, ExportConfig
from clouds_deploy.errors import CloudsError
from clouds_deploy.export.export import export
from clouds_deploy.export.gates import engine_gate

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed"
)
RTX = EngineOptions("tensorrt-rtx", ("86", "89"), (1, 2, 4))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def shapes_of(bundle: Path) -> dict[str, list[list[int]]]:
    opened = open_bundle(bundle)
    return graph_shapes(opened.graphs, engine_config(opened), RTX.batch)["segmenter"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"engine": "tensorrtx"}, "did you mean"),
        ({"sms": ()}, "needs to know what to build for"),
        ({"sms": ("90",)}, "does not build for SM 90"),
        ({"batch": (2, 1, 4)}, "not a range"),
        ({"batch": (0, 1, 4)}, "not a range"),
        ({"knobs": EngineKnobs(version_compatible=True)}, "is an option of --engine tensorrt"),
        ({"engine": "tensorrt"}, "not for a list of SMs"),
    ],
)
def test_options_that_cannot_be_built(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(CloudsError) as caught:
        replace(RTX, **wrong)
    assert message in f"{caught.value.message} {caught.value.hint}"


def test_profiles_free_the_batch_and_the_vocabulary() -> None:
    specs = (
        TensorSpec("image", "uint8", (None, 64, 128, 3)),
        TensorSpec("vocabulary", "float32", (None, None, 8)),
        TensorSpec("class_share", "float32", (None,)),
    )
    graphs, own = {"segmenter": GraphSpec(specs, ())}, {"vocabulary": (19, 3, 8), "class_share": (19,)}
    engine = ExportConfig.model_validate({}).engine
    (fixed,) = graph_shapes(graphs, engine, (1, 2, 4), own).values()
    assert fixed == {
        "image": [[1, 64, 128, 3], [2, 64, 128, 3], [4, 64, 128, 3]],
        "vocabulary": [[19, 3, 8]] * 3,
        "class_share": [[19]] * 3,
    }
    wide = engine.model_copy(update={"classes": (2, 19, 64), "synonyms": (1, 3, 12)})
    (free,) = graph_shapes(graphs, wide, (1, 2, 4), own).values()
    assert free["vocabulary"] == [[2, 1, 8], [19, 3, 8], [64, 12, 8]]
    assert free["class_share"] == [[2], [19], [64]]
    with pytest.raises(CloudsError, match="leaves out the bundle's own 19"):
        graph_shapes(graphs, engine.model_copy(update={"classes": (1, 2, 18)}), (1, 2, 4), own)


def test_engine_options_over_the_recipes() -> None:
    engine = ExportConfig.model_validate({"engine": {"optimization_level": 5}}).engine
    made = engine.knobs({"workspace_mib": "2048", "tf32": "true"})
    assert (made.workspace_mib, made.tf32, made.optimization_level) == (2048, True, 5)
    assert engine.knobs({"optimization_level": "null"}).optimization_level is None
    for name, word, fault in (
        ("workspac_mib", "1", "did you mean `workspace_mib`"),
        ("workspace_mib", "0", "greater than 0"),
        ("tf32", "perhaps", "tf32=perhaps"),
    ):
        with pytest.raises(CloudsError) as told:
            engine.knobs({name: word})
        assert fault in f"{told.value.message} {told.value.hint}"


@needs_rtx
def test_built_from_the_graphs_types(half_bundle: Path, tmp_path: Path, cache: Path) -> None:
    graph = open_bundle(half_bundle).file()
    facts = build_engine(graph, tmp_path / "out", RTX, shapes_of(half_bundle))
    engine = tmp_path / facts["file"]
    assert engine.parent.name == "out"
    assert engine.name == f"segmenter-tensorrt-rtx-{facts['version']}-sm86_sm89.engine"
    assert (engine.stat().st_size, sha256(engine)) == (facts["bytes"], facts["sha256"])
    assert engine_gate(facts, 0.9).passed, facts["layers"]
    again = build_engine(graph, tmp_path / "again", RTX, shapes_of(half_bundle))
    listing = f"again/{engine.stem}.layers.json"
    assert again == {**facts, "cached": True, "file": f"again/{engine.name}", "listing": listing}
    kinds = {kind for _, kind, _ in read_json(tmp_path / listing)}
    assert {"CONVOLUTION", "MATRIX_MULTIPLY"} <= kinds
    assert facts["tf32"] is False
    assert facts["built_on"] is None


def test_the_cache_knows_all_that_matters(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[EngineOptions] = []

    def fake(graph: Path, out: Path, options: EngineOptions, shapes: Any, machine: Machine) -> dict[str, Any]:
        built.append(options)
        out.write_bytes(b"engine %d" % len(built))
        return {
            "version": "1.0",
            "seconds": 1.0,
            "bytes": 8,
            "layers": {"half": 1},
            "listing": [],
            "heard": [],
        }

    version = ["1.0"]
    monkeypatch.setattr(building, "_run_worker", fake)
    monkeypatch.setattr(building, "engine_version", lambda _: version[0])
    graph = tmp_path / "some.onnx"
    graph.write_bytes(b"graph")

    def make(options: EngineOptions = RTX, shapes: Any = None) -> bool:
        return bool(build_engine(graph, tmp_path / "out", options, shapes or {})["cached"])

    assert [make(), make()] == [False, True]
    assert [make(replace(RTX, sms=("89",))), make(replace(RTX, batch=(1, 1, 1)))] == [False, False]
    knobs = EngineKnobs(workspace_mib=512)
    assert [make(replace(RTX, knobs=knobs)), make(replace(RTX, knobs=knobs))] == [False, True]
    assert [make(shapes={"x": [[1], [1], [2]]}), make(shapes={"x": [[1], [1], [2]]})] == [False, True]
    graph.with_name("some.onnx.data").write_bytes(b"weights")
    assert [make(), make()] == [False, True]
    version[0] = "1.1"
    assert [make(), make()] == [False, True]
    for kept in cache.rglob("engine"):
        kept.write_bytes(b"damaged")
    assert [make(), make()] == [False, True]
    assert len(built) == 8


@needs_rtx
def test_a_graph_that_the_parser_refuses_is_told_with_its_node(tmp_path: Path, cache: Path) -> None:
    node = helper.make_node("Unknowable", ["x"], ["y"], name="head/strange")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    made = helper.make_graph([node], "made", values[:1], values[1:])
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "strange.onnx")
    with pytest.raises(CloudsError, match=r"parser refuses the graph.*(strange|Unknowable)"):
        build_engine(tmp_path / "strange.onnx", tmp_path / "out", RTX, {})
    assert not (tmp_path / "out").exists()
    assert list(cache.rglob("*")) == [cache / "engines"]


def test_a_builder_that_crashes_takes_nothing_with_it(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "crashing.py").write_text("import os; os.abort()")
    (tmp_path / "some.onnx").write_bytes(b"")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setitem(ENGINES, "tensorrt-rtx", "crashing")
    monkeypatch.setattr(building, "engine_version", lambda _: "1.0")
    with pytest.raises(CloudsError, match="builder ended with -6"):
        build_engine(tmp_path / "some.onnx", tmp_path / "out", RTX, {})
    assert list(cache.rglob("*")) == [cache / "engines"]


def test_an_engine_that_is_not_installed(tmp_path: Path) -> None:
    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("tensorrt is installed")
    with pytest.raises(CloudsError, match="tensorrt is not installed"):
        build_engine(tmp_path / "some.onnx", tmp_path, EngineOptions("tensorrt", (), (1, 1, 1)), {})


@needs_rtx
def test_export_keeps_its_engines(
    small_run: Path, exported_already: None, tmp_path: Path, cache: Path
) -> None:
    out = tmp_path / "bundle"
    engines = "onnxruntime", "tensorrt-rtx"
    result = export(small_run, out=out, engines=engines, sms=("89",), batch=RTX.batch)
    (facts,) = open_bundle(out).facts["engines"]
    assert set(facts["layers"]) == {"float"}
    assert not engine_gate(facts, 0.9).passed
    assert facts["file"] == result["engines"][0]["file"]
    manifest = read_manifest(out, "bundle")
    assert manifest["built"] == [facts["file"]]
    (out / facts["file"]).write_bytes(b"another")
    with pytest.raises(CloudsError, match=r"\.engine"):
        open_bundle(out)


@pytest.fixture
def built(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "a.engine").write_bytes(b"engine")
    return {
        "file": "a.engine", "engine": "tensorrt-rtx", "version": "1.7.1", "sms": ["86", "89"],
        "sha256": sha256(tmp_path / "a.engine"),
    }  # fmt: skip


GOOD = Machine({"tensorrt-rtx": "1.7.1"}, "89", "RTX 4090", "580.65", cuda={"tensorrt-rtx": "13"})


def test_preflight_lets_the_right_machine_pass(built: dict[str, Any], tmp_path: Path) -> None:
    check_engine(built, tmp_path, GOOD)
    other = replace(GOOD, versions={"tensorrt-rtx": "1.8.0"})
    check_engine({**built, "version_compatible": True}, tmp_path, other)


@pytest.mark.parametrize(
    ("change", "fault", "fix"),
    [
        ({"versions": {}}, "tensorrt-rtx is not installed", "pip install tensorrt-rtx==1.7.1"),
        ({"versions": {"tensorrt-rtx": "1.8.0"}}, "built by tensorrt-rtx 1.7.1, and 1.8.0", "pip install"),
        ({"sm": None, "driver": None}, "no NVIDIA GPU", "onnxruntime"),
        ({"sm": "120"}, "built for SM 86, 89, and this GPU (RTX 4090) has 120", "--sm 120"),
        ({"driver": "535.104"}, "driver 535.104 is older than 580, which tensorrt-rtx for CUDA 13", "update"),
        ({"cuda_driver": "12.8"}, "driver 580.65 runs CUDA up to 12.8, and tensorrt-rtx needs", "update"),
    ],
)
def test_preflight_names_each_fault_with_its_fix(
    built: dict[str, Any], tmp_path: Path, change: dict[str, Any], fault: str, fix: str
) -> None:
    with pytest.raises(CloudsError) as caught:
        check_engine(built, tmp_path, replace(GOOD, **change))
    assert fault in caught.value.message
    assert fix in str(caught.value.hint)


def test_preflight_sees_changed_and_lost_files(built: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "a.engine").write_bytes(b"changed")
    with pytest.raises(CloudsError, match="was changed"):
        check_engine(built, tmp_path, GOOD)
    (tmp_path / "a.engine").unlink()
    with pytest.raises(CloudsError, match="is missing"):
        check_engine(built, tmp_path, replace(GOOD, sm="75"))


def test_this_machine_can_be_looked_at() -> None:
    here = Machine.here()
    assert (here.sm is None) == (here.driver is None)
    if importlib.util.find_spec("tensorrt_rtx") is not None:
        assert here.versions["tensorrt-rtx"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch", "1,x"], "is not a range"),
        (["--sm", "89"], "--sm is for TensorRT-RTX"),
        (["--engine", "tensorrt-rtx", "--sm", "90"], "does not build for SM 90"),
        (["--engine-option", "tf32=true"], "--engine-option is for engines"),
        (["--engine", "tensorrt-rtx", "--engine-option", "tf32"], "has no value"),
        (["--engine", "tensorrt_rtx"], "no engine"),
        (["--engine", "tensorrt_rtx"], "did you mean `tensorrt-rtx`?"),
    ],
)
def test_words_that_are_wrong(small_run: Path, tmp_path: Path, words: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["export", str(small_run), "--out", str(tmp_path / "out"), *words])
    assert isinstance(result.exception, CloudsError)
    assert message in result.exception.message + str(result.exception.hint)
    assert not (tmp_path / "out").exists()


def test_the_cache_is_in_the_home_where_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder("engines") == tmp_path / ".cache" / "clouds-deploy" / "engines"
    shutil.rmtree(tmp_path / ".cache", ignore_errors=True)
