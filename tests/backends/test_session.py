from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from clouds_deploy.backends.backends import open_graph, open_session
from clouds_deploy.backends.session import check_feeds
from clouds_deploy.bundles.bundle import open_bundle
from clouds_deploy.bundles.tensors import TensorSpec
from clouds_deploy.errors import CloudsError

SPEC = TensorSpec("image", "uint8", (None, 64, 128, 3))

HERE = (
    "torch",
    "onnxruntime",
    "openvino",
    pytest.param("torch-compile", marks=pytest.mark.slow),
    pytest.param("torch-aot", marks=pytest.mark.slow),
)
"""What runs on any CPU; compiling takes a minute."""


@pytest.mark.parametrize("backend", HERE)
@pytest.mark.parametrize("batch", [1, 3])
def test_every_backend_gives_the_packed_labels_at_any_batch(
    small_bundle: Path, backend: str, batch: int
) -> None:
    expected = open_bundle(small_bundle).reference()
    images = expected["image"]
    session = open_session(small_bundle, backend)
    assert session.backend == backend
    assert session.inputs == (SPEC,)
    assert session.outputs == (TensorSpec("labels", "uint8", (None, 64, 128)),)
    labels = session.run({"image": images[:batch]})["labels"]
    assert labels.dtype == np.uint8
    assert (labels == expected["labels"][:batch]).mean() >= 0.9995
    again = session.run({"image": images[-batch:]})["labels"]
    assert not np.shares_memory(labels, again)
    session.close()


@pytest.mark.parametrize("backend", HERE)
def test_every_backend_refuses_another_size(small_bundle: Path, backend: str) -> None:
    session = open_session(small_bundle, backend)
    with pytest.raises(CloudsError, match=r"shape \[1, 32, 128, 3\]"):
        session.run({"image": np.zeros((1, 32, 128, 3), np.uint8)})


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "input `image` is missing"),
        ({"imge": np.zeros((1, 64, 128, 3), np.uint8)}, "did you mean `image`"),
        ({"image": np.zeros((1, 64, 128, 3), np.float32)}, "is float32, not uint8"),
        ({"image": [[1]]}, "is list, not uint8"),
        ({"image": np.zeros((64, 128, 3), np.uint8)}, r"shape \[64, 128, 3\]"),
        ({"image": np.zeros((0, 64, 128, 3), np.uint8)}, r"shape \[0, 64, 128, 3\]"),
    ],
)
def test_wrong_feeds(feeds: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(CloudsError, match=message):
        check_feeds((SPEC,), feeds)


def test_unknown_backend_names_its_neighbour(small_bundle: Path) -> None:
    with pytest.raises(CloudsError, match="did you mean `onnxruntime`"):
        open_session(small_bundle, "onxruntime")
    with pytest.raises(CloudsError, match="no backend `torch` reads ONNX"):
        open_graph(small_bundle / "segmenter.onnx", "torch")


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_missing_package_says_what_to_install(
    small_bundle: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, backend, None)
    with pytest.raises(CloudsError, match=f"{backend} is not installed") as caught:
        open_session(small_bundle, backend)
    assert caught.value.hint == 'pip install "clouds-deploy[cpu]"'


@pytest.mark.parametrize(
    ("backend", "options", "message"),
    [
        ("onnxruntime", {"device": "cuda"}, "cannot compute on cuda here: it can use none"),
        ("onnxruntime", {"device": "cpux"}, "there is no device `cpux`"),
        ("onnxruntime", {"precision": "bf16"}, "use the openvino backend"),
        ("openvino", {"device": "NPU"}, "openvino has no device `NPU`"),
        ("openvino", {"device": "cuda"}, "cannot compute on cuda here"),
        ("tensorrt", {"device": "cpu"}, "run on NVIDIA GPUs only"),
        ("torch", {"precision": "bf16"}, "float32 reference"),
        ("torch", {"device": "tpu"}, "there is no device `tpu`"),
    ],
)
def test_no_silent_fallback(small_bundle: Path, backend: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(CloudsError) as caught:
        open_session(small_bundle, backend, **options)
    assert message in str(caught.value)


def test_openvino_is_float32_unless_asked(small_bundle: Path) -> None:
    assert open_session(small_bundle, "openvino").precision == "fp32"
    assert open_session(small_bundle, "openvino", precision="bf16", threads=1).precision == "bf16"


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_file_that_is_no_graph(tmp_path: Path, backend: str) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(CloudsError, match=f"{backend} refuses"):
        open_graph(path, backend)


HERE = ("torch", "onnxruntime", "openvino", pytest.param("torch-compile", marks=pytest.mark.slow))
"""What runs on any CPU; compiling takes a minute."""


def test_torch_needs_the_source(tmp_path: Path, small_bundle: Path) -> None:
    from clouds_deploy.artifacts import write_manifest

    copy = tmp_path / "bundle"
    shutil.copytree(small_bundle, copy, ignore=shutil.ignore_patterns("source", "manifest.json"))
    write_manifest(copy, "bundle")
    with pytest.raises(CloudsError, match="holds no weights for PyTorch"):
        open_session(copy, "torch")


def test_bfloat16_has_a_name_among_backends_to_compare(small_bundle: Path) -> None:
    session = open_session(small_bundle, "openvino-bf16", threads=1)
    assert (session.backend, session.device, session.precision) == ("openvino", "cpu", "bf16")
    expected = open_bundle(small_bundle).reference()
    images = expected["image"]
    labels = session.run({session.inputs[0].name: images[:1]})["labels"]
    assert (labels == expected["labels"][:1]).mean() > 0.8  # random weights decide by a hair
