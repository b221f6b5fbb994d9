"""Triton's repository: configs against Triton's own schema, the refining model against the library."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from PIL import Image

from clouds_deploy.artifacts import read_manifest, write_json, write_manifest
from clouds_deploy.backends.backends import open_graph
from clouds_deploy.bundles.tensors import TensorSpec
from clouds_deploy.errors import CloudsError
from clouds_deploy.inference.segmenter import open_model
from clouds_deploy.serving.triton.config import TritonOptions
from clouds_deploy.serving.triton.pbtxt import Word, pbtxt
from clouds_deploy.serving.triton.repository import write_repository
from tests.cli.conftest import last_json, run
from tests.serving.live import live
from tests.serving.triton_schema import read_config as config_of

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def sam() -> Any:
    from clouds_deploy.inference.sam import torch_sam
    from clouds_deploy.models.sam.build import load_sam

    return torch_sam(load_sam("sam_tiny@256"))


@pytest.mark.parametrize("fault", ["names: 'x'", "max_batch_size: 1.5", "input { data_type: TYPE_UINT9 }"])
def test_the_schema_refuses(tmp_path: Path, fault: str) -> None:
    from google.protobuf import text_format

    (tmp_path / "models" / "a").mkdir(parents=True)
    (tmp_path / "models" / "a" / "config.pbtxt").write_text(fault)
    with pytest.raises(text_format.ParseError):
        config_of(tmp_path, "a")


def test_text_format() -> None:
    message = {
        "name": 'a "b"\n',
        "kind": Word("KIND_CPU"),
        "on": True,
        "of": [1, 2],
        "no": None,
        "in": {"x": 1.5, "y": {}},
    }
    assert pbtxt(message) == (
        'name: "a \\"b\\"\\n"\nkind: KIND_CPU\non: true\nof: 1\nof: 2\nin {\n  x: 1.5\n  y {}\n}\n'
    )


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "tensorrt"])
def test_configs_hold(small_bundle: Path, sam_bundle: Path, tmp_path: Path, backend: str) -> None:
    out = tmp_path / "repository"
    options = TritonOptions(backend, batch=4, delay_us=500, instances=2, waiting=9, seconds=1.5)
    made = write_repository(small_bundle, out, options, sam=sam_bundle)
    assert made["models"] == {
        "clouds": backend,
        "clouds_sam_encoder": backend,
        "clouds_sam_decoder": backend,
        "clouds_refine": "python",
    }
    assert sorted(p.name for p in (out / "models").iterdir()) == sorted(made["models"])
    assert read_manifest(out, "triton_repository")["models"] == made["models"]
    config = config_of(out, "clouds")
    assert (config.name, config.backend, config.max_batch_size) == ("clouds", backend, 4)
    (image,), (labels,) = config.input, config.output
    assert (image.name, image.data_type, list(image.dims)) == ("image", 2, [64, 128, 3])  # 2 is TYPE_UINT8
    assert (labels.name, labels.data_type, list(labels.dims)) == ("labels", 2, [64, 128])
    assert list(config.dynamic_batching.preferred_batch_size) == [4]
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    policy = config.dynamic_batching.default_queue_policy
    assert (policy.max_queue_size, policy.default_timeout_microseconds) == (9, 1_500_000)
    assert config.version_policy.latest.num_versions == 1
    assert [w.batch_size for w in config.model_warmup] == [1, 4]
    assert list(config.model_warmup[1].inputs["image"].dims) == [64, 128, 3]
    assert config.instance_group[0].count == 2
    assert config.instance_group[0].kind == (2 if backend == "openvino" else 0)  # KIND_CPU, KIND_AUTO
    decoder = config_of(out, "clouds_sam_decoder")
    assert decoder.max_batch_size == 0
    assert list(decoder.input[2].dims) == [-1, -1, 2]
    assert not decoder.HasField("dynamic_batching")
    encoder = config_of(out, "clouds_sam_encoder")
    assert encoder.max_batch_size == 4
    assert set(encoder.model_warmup[0].inputs) == {"image", "size"}
    refine = config_of(out, "clouds_refine")
    assert refine.backend == "python"
    assert refine.input[1].optional
    assert refine.parameters["sam_encoder"].string_value == "clouds_sam_encoder"


def test_graphs_are_the_bundles(small_bundle: Path, tmp_path: Path) -> None:
    made = write_repository(small_bundle, tmp_path / "r")
    assert made["build"] is None
    graph = tmp_path / "r" / "models" / "clouds" / "1" / "model.onnx"
    assert graph.read_bytes() == (small_bundle / "segmenter.onnx").read_bytes()


def test_plans_are_built_where_they_serve(
    small_bundle: Path, half_bundle: Path, sam_bundle: Path, tmp_path: Path
) -> None:
    """The script runs in any folder, with the shapes of the config, in the precision of the graph."""
    made = write_repository(small_bundle, tmp_path / "r", TritonOptions("tensorrt", batch=4), sam=sam_bundle)
    tool = tmp_path / "bin" / "trtexec"
    tool.parent.mkdir()
    tool.write_text(
        '#!/bin/sh\necho "$PWD $*" >> "$LOG"\n'
        'for w in "$@"; do case $w in --saveEngine=*) : > "${w#*=}";; esac; done\n'
    )
    tool.chmod(tool.stat().st_mode | stat.S_IEXEC)
    log = tmp_path / "log"
    environment = {**os.environ, "PATH": f"{tool.parent}:{os.environ['PATH']}", "LOG": str(log)}
    subprocess.run(["sh", made["build"]], cwd="/", env=environment, check=True)
    lines = log.read_text().splitlines()
    assert lines[0] == (
        f"{tmp_path}/r --onnx=onnx/clouds.onnx --saveEngine=models/clouds/1/model.plan "
        "--minShapes=image:1x64x128x3 --optShapes=image:4x64x128x3 --maxShapes=image:4x64x128x3 --noTF32"
    )
    assert "--maxShapes=image_embeddings:4x" in lines[2]
    assert "point_coords:4x8x2" in lines[2]
    for name in ("clouds", "clouds_sam_encoder", "clouds_sam_decoder"):
        assert (tmp_path / "r" / "models" / name / "1" / "model.plan").is_file()
        assert (tmp_path / "r" / "onnx" / f"{name}.onnx").is_file()
    made = write_repository(half_bundle, tmp_path / "h", TritonOptions("tensorrt"))
    assert "--stronglyTyped" in Path(made["build"]).read_text()


def test_a_plan_that_the_bundle_holds(small_bundle: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(small_bundle, bundle)
    (bundle / "engines").mkdir()
    (bundle / "engines" / "x.engine").write_bytes(b"plan")
    facts = json.loads((bundle / "bundle.json").read_text())
    facts["engines"] = [{"file": "engines/x.engine", "engine": "tensorrt", "batch": [1, 1, 2]}]
    write_json(bundle / "bundle.json", facts)
    (bundle / "manifest.json").unlink()
    write_manifest(bundle, "bundle")
    made = write_repository(bundle, tmp_path / "r", TritonOptions("tensorrt"))
    assert made["build"] is None
    assert (tmp_path / "r" / "models" / "clouds" / "1" / "model.plan").read_bytes() == b"plan"
    assert "max_batch_size: 2" in (tmp_path / "r" / "models" / "clouds" / "config.pbtxt").read_text()


def test_classes_go_into_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text head's vocabulary has no batch, so it cannot be an input of a model that Triton batches."""
    from onnx import TensorProto, helper

    from clouds_deploy.bundles.bundle import KIND, SEGMENTER, Bundle
    from clouds_deploy.bundles.tensors import GraphSpec
    from clouds_deploy.bundles.vocabulary import Vocabulary
    from clouds_deploy.export import trace
    from clouds_deploy.export.embed import fix_inputs
    from clouds_deploy.serving.triton.repository import _fix_classes

    vectors = np.random.default_rng(0).normal(size=(3, 2, 64)).astype(np.float32)
    made = Vocabulary(("a", "b", "c"), vectors, np.zeros(3, np.float32))
    made.save(tmp_path / "vocabulary.npz")
    node = helper.make_node("ReduceSum", ["vocabulary"], ["total"], keepdims=0)
    add = helper.make_node("Add", ["image", "total"], ["labels"])
    graph = helper.make_graph(
        [node, add],
        "g",
        [
            helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 2]),
            helper.make_tensor_value_info("vocabulary", TensorProto.FLOAT, [3, 2, 64]),
        ],
        [helper.make_tensor_value_info("labels", TensorProto.FLOAT, ["N", 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(tmp_path / "segmenter.onnx"))
    specs = (TensorSpec("image", "float32", (None, 2)), TensorSpec("vocabulary", "float32", (3, 2, 64)))
    bundle = Bundle(tmp_path, KIND, {}, {SEGMENTER: GraphSpec(specs, ())}, {}, tmp_path)
    _fix_classes(bundle, tmp_path / "fixed.onnx", fix_inputs)
    monkeypatch.setattr(trace, "LARGEST_FILE", 10)  # and beside it, where the graph has over 2 GB
    _fix_classes(bundle, tmp_path / "large.onnx", fix_inputs)
    for name in ("fixed", "large"):
        session = open_graph(tmp_path / f"{name}.onnx", "onnxruntime")
        assert [spec.name for spec in session.inputs] == ["image"]
        image = np.ones((5, 2), np.float32)
        assert np.allclose(session.run({"image": image})["labels"], 1 + vectors.sum(), atol=1e-4)
        assert (tmp_path / f"{name}.onnx.data").exists() == (name == "large")


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"backend": "x"}, "no Triton backend `x`"),
        ({"device": "x"}, "no device `x`"),
        ({"backend": "tensorrt", "device": "cpu"}, "no CPU"),
        ({"backend": "openvino", "device": "gpu"}, "no NVIDIA GPU"),
        ({"batch": 0}, "batch is 0"),
        ({"name": "a/b"}, "not a model name"),
    ],
)
def test_options_make_sense(given: dict[str, Any], word: str) -> None:
    with pytest.raises(CloudsError, match=word):
        TritonOptions(**given)


def test_command_line(small_bundle: Path, sam_bundle: Path, tmp_path: Path) -> None:
    words = ("export", small_bundle, "--triton", tmp_path / "r", "--triton-sam", sam_bundle)
    result = last_json(run(*words, "--json"))
    assert result["repository"] == str(tmp_path / "r" / "models")
    done = run(*words)
    assert done.returncode == 2
    assert "exists already" in done.stderr
    done = run("export", small_bundle, "--triton", tmp_path / "t", "--triton-backend", "tensorrt")
    assert "sh " in done.stdout
    assert "tritonserver --model-repository=" in done.stdout
    done = run("export", small_bundle)
    assert done.returncode == 2
    assert "is a bundle, not a run" in done.stderr


class FakeTriton(types.ModuleType):
    """`triton_python_backend_utils`, as far as the model uses it, over sessions in this process."""

    TRITONSERVER_MEMORY_CPU = 0

    def __init__(self, sessions: dict[str, Any]) -> None:
        super().__init__("triton_python_backend_utils")
        self.sessions = sessions
        self.calls: list[str] = []
        fake = self

        class Tensor:
            def __init__(self, name: str, array: np.ndarray) -> None:
                self._name, self._array = name, array

            def name(self) -> str:
                return self._name

            def as_numpy(self) -> np.ndarray:
                return self._array

        class Response:
            def __init__(self, output_tensors: list[Tensor], error: Any = None) -> None:
                self.tensors, self._error = {t.name(): t for t in output_tensors}, error

            def has_error(self) -> bool:
                return self._error is not None

            def error(self) -> Any:
                return self._error

        class Error:
            def __init__(self, text: str) -> None:
                self._text = text

            def message(self) -> str:
                return self._text

        class Request:
            def __init__(
                self, model_name: str, requested_output_names: Any, inputs: Any, preferred_memory: Any
            ) -> None:
                self.model, self.names, self.inputs = model_name, requested_output_names, inputs
                assert preferred_memory == ("memory", 0, 0)
                assert all(t.as_numpy().flags["C_CONTIGUOUS"] for t in inputs)  # Triton takes no others

            def exec(self) -> Response:
                fake.calls.append(self.model)
                if self.model not in fake.sessions:
                    return Response([], Error("not loaded"))
                outputs = fake.sessions[self.model].run({t.name(): t.as_numpy() for t in self.inputs})
                return Response([Tensor(name, outputs[name]) for name in self.names])

        self.Tensor, self.InferenceRequest, self.InferenceResponse, self.TritonError = (
            Tensor,
            Request,
            Response,
            Error,
        )

    def PreferredMemory(self, kind: int, number: int) -> tuple[str, int, int]:
        return "memory", kind, number

    def get_output_tensor_by_name(self, response: Any, name: str) -> Any:
        return response.tensors[name]

    def get_input_tensor_by_name(self, request: dict[str, np.ndarray], name: str) -> Any:
        return self.Tensor(name, request[name]) if name in request else None


def test_the_refining_model(
    small_bundle: Path,
    sam_bundle: Path,
    sam: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The file that Triton loads, with the config that it hands over, equals the library on the same SAM."""
    from clouds_deploy.config.joint import RefineConfig
    from clouds_deploy.refinement.refiner import Refiner
    from clouds_deploy.streets import render

    write_repository(small_bundle, tmp_path / "r", sam=sam_bundle)
    segmenter = open_model(small_bundle)
    fake = FakeTriton(
        {"clouds": segmenter.session, "clouds_sam_encoder": sam.encoder, "clouds_sam_decoder": sam.decoder}
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", fake)
    scope: dict[str, Any] = {}
    exec((tmp_path / "r" / "models" / "clouds_refine" / "1" / "model.py").read_text(), scope)
    model = scope["TritonPythonModel"]()
    model.initialize({"model_config": json.dumps({"parameters": parameters(tmp_path / "r")})})
    scene = render("photo", 0, 0, 90, 160)
    wrong = scene.labels[:-1]
    answers = model.execute(
        [
            {"image": scene.image, "labels": scene.labels},
            {"image": scene.image},
            {"image": scene.image, "labels": wrong},
        ]
    )
    refiner = Refiner(sam, RefineConfig())
    (expected,) = refiner.refine([scene.image], [scene.labels])
    assert np.array_equal(answers[0].tensors["refined"].as_numpy(), expected.labels)
    (expected,) = refiner.refine([scene.image], [segmenter.predict(scene.image)])
    assert np.array_equal(answers[1].tensors["refined"].as_numpy(), expected.labels)
    assert "labels of" in answers[2].error().message()
    assert set(fake.calls) == {"clouds", "clouds_sam_encoder", "clouds_sam_decoder"}
    del fake.sessions["clouds_sam_encoder"]
    (answer,) = model.execute([{"image": scene.image, "labels": scene.labels}])
    assert "`clouds_sam_encoder` failed: not loaded" in answer.error().message()


def parameters(repository: Path) -> dict[str, Any]:
    """Read them as Triton hands them over: as JSON of the config."""
    text = (repository / "models" / "clouds_refine" / "config.pbtxt").read_text()
    lines = [line.strip() for line in text.splitlines()]
    keys = [json.loads(line[5:]) for line in lines if line.startswith("key: ")]
    values = [json.loads(line[14:]) for line in lines if line.startswith("string_value: ")]
    return {key: {"string_value": value} for key, value in zip(keys, values, strict=True)}


def test_the_client(small_bundle: Path, tmp_path: Path) -> None:
    """Triton's own client library against our server, which speaks the same protocol."""
    image = np.random.default_rng(0).integers(0, 256, (50, 90, 3)).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    client = [sys.executable, str(ROOT / "engines" / "triton" / "client.py"), str(tmp_path / "a.png")]
    with live(small_bundle, sam=False) as running:
        where = ["--url", running.address.removeprefix("http://"), "--model", "small"]
        done = subprocess.run(
            [*client, *where, "--out", str(tmp_path / "l.png")], capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    labels = np.asarray(Image.open(tmp_path / "l.png"))
    assert np.array_equal(labels, open_model(small_bundle).predict(image))


def test_compose_file_is_yaml() -> None:
    service = yaml.safe_load((ROOT / "engines" / "triton" / "compose.yaml").read_text())["services"]["triton"]
    assert (
        ROOT / "engines" / "triton" / service["build"]["context"] / service["build"]["dockerfile"]
    ).is_file()


def test_weights_beside_a_graph_come_along(
    tmp_path: Path, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph over 2 GB has a second file; the limit is lowered here."""
    import onnx_ir as ir

    from clouds_deploy.export import trace

    monkeypatch.setattr(trace, "LARGEST_FILE", 1000)
    bundle = tmp_path / "bundle"
    shutil.copytree(small_bundle, bundle)
    graph = bundle / "segmenter.onnx"
    model = ir.load(graph)
    ir.external_data.load_to_model(model)
    graph.unlink()
    trace.save(model, graph, {})
    write_manifest(bundle, "bundle")
    write_repository(bundle, tmp_path / "repository")
    place = tmp_path / "repository" / "models" / "clouds" / "1" / "model.onnx"
    assert {path.name for path in place.parent.iterdir()} == {"model.onnx", "segmenter.onnx.data"}
    images = np.zeros((1, 64, 128, 3), np.uint8)
    (labels, expected) = (open_graph(path, "onnxruntime").run({"image": images})["labels"] for path in
                          (place, small_bundle / "segmenter.onnx"))  # fmt: skip
    assert np.array_equal(labels, expected)
