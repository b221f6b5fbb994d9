"""`engine build|add|ls|rm|command`, and what says whether an engine was run.

There is no GPU here: where a test has one, the machine is said to have it, and ONNX Runtime runs the file
that stands for the engine, by the code that would run TensorRT's.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

from clouds_deploy.artifacts import read_json
from clouds_deploy.backends import backends
from clouds_deploy.backends.tensorrt import build as building
from clouds_deploy.backends.tensorrt import session as engine_session
from clouds_deploy.backends.tensorrt.machine import Machine
from clouds_deploy.bundles.bundle import open_bundle
from clouds_deploy.bundles.packed import pack
from clouds_deploy.bundles.proofs import NOT_RUN, proof_folder
from clouds_deploy.cli import app
from clouds_deploy.errors import CloudsError
from clouds_deploy.inference import engines
from clouds_deploy.inference.selftest import selftest

VERSION = "10.3.0"
ORIN = Machine(
    {"tensorrt": VERSION}, "87", "Orin (nvgpu)", "540.4.0", cuda={"tensorrt": "12.6"}, cuda_driver="12.6",
    platform="linux-aarch64", tegra=True,
)  # fmt: skip
NONE = Machine({"tensorrt": VERSION}, None, None, None)


@pytest.fixture
def bundle(small_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_bundle, tmp_path / "bundle"))


def _on(patch: pytest.MonkeyPatch, machine: Machine) -> None:
    patch.setattr(Machine, "here", staticmethod(lambda index=0: machine))
    engine_session._tell.cache_clear()


class _Engine:
    """ONNX Runtime in the place of an engine; a plan is an ONNX file here."""

    def __init__(self, file: Path, engine: str, options: Any, *, host_code: bool = False) -> None:
        self.inner = backends.open_graph(file, "onnxruntime")
        self.file, self.backend, self.device, self.precision = file, engine, options.device, "fp32"
        self.inputs, self.outputs = self.inner.inputs, self.inner.outputs

    def run(self, feeds: Any) -> Any:
        return self.inner.run(feeds)

    def close(self) -> None:
        self.inner.close()


@pytest.fixture
def orin(monkeypatch: pytest.MonkeyPatch) -> None:
    _on(monkeypatch, ORIN)
    monkeypatch.setattr(engine_session, "EngineSession", _Engine)


def _plan(bundle: Path, to: Path, *, swapped: bool = False) -> Path:
    """The bundle's graph as the plan; or one whose weights are another's."""
    model = onnx.load(str(bundle / "segmenter.onnx"))
    if swapped:
        weight = next(one for one in model.graph.initializer if list(one.dims) == [32, 20])
        array = np.roll(numpy_helper.to_array(weight), 7, axis=1)
        weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    onnx.save(model, str(to))
    return to


def test_an_added_engine_is_run_where_it_can_be(bundle: Path, orin: None, tmp_path: Path) -> None:
    result = engines.engine_add(bundle, _plan(bundle, tmp_path / "good.plan"))
    (entry,) = result["engines"]
    assert entry["state"] == "proven on Orin (nvgpu)"
    assert entry["built_on"]["sm"] == "87"
    assert open_bundle(bundle).engines[0]["file"] == f"engines/segmenter-tensorrt-{VERSION}-on_sm87.engine"


def test_an_engine_of_other_weights_is_refused_and_nothing_changes(
    bundle: Path, orin: None, tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    with pytest.raises(CloudsError, match="does not agree with") as told:
        engines.engine_add(bundle, _plan(bundle, tmp_path / "other.plan", swapped=True))
    assert told.value.exit_code == 1
    assert {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_elsewhere_it_is_built_not_run_until_its_selftest(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _on(monkeypatch, NONE)
    graph = (bundle / "segmenter.onnx").read_bytes()
    (entry,) = engines.engine_add(bundle, _plan(bundle, tmp_path / "a.plan"))["engines"]
    assert entry["state"] == NOT_RUN
    assert NOT_RUN in capsys.readouterr().err
    sealed = {path.name: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}

    _on(monkeypatch, ORIN)
    monkeypatch.setattr(engine_session, "EngineSession", _Engine)
    session = backends.open_session(bundle, "tensorrt")
    session.close()
    assert NOT_RUN in capsys.readouterr().err
    result = selftest(bundle, backends=("tensorrt",))
    assert result["passed"]
    (proof,) = result["proofs"]
    assert Path(proof) == bundle / "proofs" / "Orin_nvgpu-tensorrt.json"
    assert read_json(Path(proof))["cuda"] == "12.6"
    (entry,) = engines.engine_list(bundle)["engines"]
    assert entry["state"] == "proven on Orin (nvgpu)"
    assert {name: (bundle / name).read_bytes() for name in ("bundle.json", "manifest.json")} == {
        name: sealed[name] for name in ("bundle.json", "manifest.json")
    }
    assert (bundle / "segmenter.onnx").read_bytes() == graph
    engine_session._tell.cache_clear()
    capsys.readouterr()
    backends.open_session(bundle, "tensorrt").close()
    assert NOT_RUN not in capsys.readouterr().err


def test_engines_leave_and_commands_are_printed(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _on(monkeypatch, NONE)
    plan = _plan(bundle, tmp_path / "a.plan")
    assert CliRunner().invoke(app, ["engine", "add", str(bundle), str(plan)]).exit_code == 0
    shown = CliRunner().invoke(app, ["engine", "ls", str(bundle)]).stdout
    assert NOT_RUN in shown
    before = engines.engine_list(bundle)["engines"][0]["file"]
    engines.engine_remove(bundle, Path(before).name)
    assert engines.engine_list(bundle)["engines"] == []
    assert not (bundle / "engines").exists()
    lines = engines.engine_command(bundle, engine_options={"workspace_mib": "2048"})["commands"]
    assert lines[0].startswith("trtexec --onnx=")
    for word in (
        "--stronglyTyped", "--noTF32", "--memPoolSize=workspace:2048M", "--minShapes=image:1x64x128x3",
        "--maxShapes=image:8x64x128x3",
    ):  # fmt: skip
        assert word in lines[0].split()
    assert lines[1] == f"clouds-deploy engine add {bundle} segmenter.plan --graph segmenter"


def test_a_packed_bundle_is_written_to_another_place(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _on(monkeypatch, NONE)
    pack(bundle, tmp_path / "one.clouds")
    plan = _plan(bundle, tmp_path / "a.plan")
    with pytest.raises(CloudsError, match="not changed in place"):
        engines.engine_add(tmp_path / "one.clouds", plan)
    made = engines.engine_add(tmp_path / "one.clouds", plan, out=tmp_path / "two.clouds")
    assert [entry["state"] for entry in made["engines"]] == [NOT_RUN]
    assert len(open_bundle(tmp_path / "two.clouds").engines) == 1
    assert open_bundle(tmp_path / "one.clouds").engines == []
    assert proof_folder(tmp_path / "two.clouds") == tmp_path / "two.proofs"


def test_proofs_stay_when_engines_change(
    bundle: Path, orin: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines.engine_add(bundle, _plan(bundle, tmp_path / "a.plan"))
    (proof,) = selftest(bundle, backends=("tensorrt",))["proofs"]
    before = Path(proof).read_bytes()
    (entry,) = engines.engine_list(bundle)["engines"]
    engines.engine_remove(bundle, entry["file"])
    assert Path(proof).read_bytes() == before
    (bundle / "notes.txt").write_text("mine")
    with pytest.raises(CloudsError, match=r"notes\.txt"):
        engines.engine_list(bundle)


def test_an_engine_built_again_that_fails_leaves_the_first_one(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The changed bundle shares its files with the old one until it takes its place."""
    _on(monkeypatch, NONE)
    monkeypatch.setenv("CLOUDS_DEPLOY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(building, "engine_version", lambda _: "1.7.1")
    made = iter((b"first", b"second"))

    def worker(graph: Path, out: Path, *_: Any) -> dict[str, Any]:
        out.write_bytes(next(made))
        return {"version": "1.7.1", "seconds": 1.0, "bytes": 5, "layers": {}, "listing": [], "heard": []}

    monkeypatch.setattr(building, "_run_worker", worker)
    (entry,) = engines.engine_build(bundle, engine="tensorrt-rtx", sms=("89",))["engines"]
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setattr(engines, "_prove", _refuses)
    with pytest.raises(CloudsError, match="does not agree"):
        engines.engine_build(bundle, engine="tensorrt-rtx", sms=("89",))
    assert (bundle / entry["file"]).read_bytes() == b"first"
    assert engines.engine_list(bundle)["engines"][0]["sha256"] == entry["sha256"]


def _refuses(*_: Any) -> None:
    raise CloudsError("the engine does not agree", "build it again", exit_code=1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"file": "missing.plan"}, "there is no file"),
        ({"engine": "tensorrtx"}, "there is no engine `tensorrtx`"),
        ({"graph": "segmentr"}, "has no graph `segmentr`"),
    ],
)
def test_wrong_words(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: dict[str, Any], message: str
) -> None:
    _on(monkeypatch, NONE)
    (tmp_path / "a.plan").write_bytes(b"plan")
    given = {"file": tmp_path / "a.plan", **words}
    with pytest.raises(CloudsError, match=message):
        engines.engine_add(small_bundle, **given)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")
def test_an_engine_is_built_from_a_bundle(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUDS_DEPLOY_CACHE", str(tmp_path / "cache"))
    made = engines.engine_build(bundle, engine="tensorrt-rtx", sms=("89",), out=tmp_path / "with")
    (entry,) = made["engines"]
    assert (entry["state"], entry["tf32"], entry["sms"]) == (NOT_RUN, False, ["89"])
    assert open_bundle(tmp_path / "with").engines[0]["sha256"] == entry["sha256"]
    assert open_bundle(bundle).engines == []
