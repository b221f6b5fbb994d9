"""A SAM's bundle: proven against segment_anything's own modules, refused when something is off, and run."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from clouds_deploy.artifacts import CACHE_VARIABLE
from clouds_deploy.bundles.bundle import DECODER, ENCODER, open_bundle
from clouds_deploy.bundles.packed import packing
from clouds_deploy.config.export import ExportOptions, SamExportConfig
from clouds_deploy.config.sam import SamTinyConfig
from clouds_deploy.errors import CloudsError
from clouds_deploy.export import sam as subject
from clouds_deploy.export.export import make_bundle
from clouds_deploy.export.half import BF16, rounded, to_half
from clouds_deploy.export.lint import lint
from clouds_deploy.export.sam import FREE, SamSubject, decoder_to_onnx, encoder_to_onnx
from clouds_deploy.export.trace import save
from clouds_deploy.inference.agreement import mask_overlaps
from clouds_deploy.inference.sam import open_sam, torch_sam
from clouds_deploy.inference.selftest import selftest
from clouds_deploy.models.sam.tiny import build_sam_tiny
from tests.models.sam_cases import model, pictures


@pytest.fixture(scope="module", autouse=True)
def traced_once() -> Iterator[None]:
    """Tracing takes most of an export; every test gets copies of the same graphs."""
    sam = model("vit_b").sam
    made = {"encoder": encoder_to_onnx(sam), "decoder": decoder_to_onnx(sam)}
    with pytest.MonkeyPatch.context() as patch:
        for part, exported in made.items():

            def copied(*_: Any, exported: Any = exported, **__: Any) -> Any:
                return replace(exported, model=exported.model.clone())

            patch.setattr(subject, f"{part}_to_onnx", copied)
        yield


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sam")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(folder / "cache"))
        built: dict[str, Any] = {}
        if _has_rtx():
            engines = "onnxruntime", "openvino", "tensorrt-rtx"
            built = {"engines": engines, "sms": ("89",), "batch": (1, 1, 2)}
        export(folder / "bundle", fp16=True, **built)
    return folder / "bundle"


def export(out: Path, **options: Any) -> None:
    """Exports a small ViT-B."""
    with packing(out) as folder:
        make_bundle(SamSubject(model("vit_b"), ExportOptions(**options), "cpu"), folder, out)


def _has_rtx() -> bool:
    return importlib.util.find_spec("tensorrt_rtx") is not None


def test_gates_of_both_precisions_are_kept(half: Path) -> None:
    gates = open_bundle(half).gates()
    assert all(gate["passed"] for gate in gates)
    names = {(gate["engine"], gate["name"]) for gate in gates}
    for engine in ("onnxruntime", "openvino", "onnxruntime fp16", "openvino fp16", "rounded fp16"):
        assert (engine, "mask IoU") in names
        assert (engine, "largest mask error") in names
    share = {gate["engine"]: gate["value"] for gate in gates if gate["name"] == "FLOPs in float16"}
    assert share.keys() == {"encoder fp16", "decoder fp16"}
    assert min(share.values()) > 0.95
    exact = [g["value"] for g in gates if g["engine"] == "openvino" and g["name"] == "largest mask error"]
    assert exact[0] < 1e-5


def test_graphs_are_clean_and_hold_no_free_reshape(half: Path) -> None:
    for name in (f"{ENCODER}.onnx", f"{DECODER}.onnx"):
        assert lint(onnx.load(half / name), FREE) == []
    facts = json.loads((half / "bundle.json").read_text())
    assert [spec["name"] for spec in facts["graphs"]["decoder"]["inputs"]] == [
        "image_embeddings", "image_index", "point_coords", "point_labels",
    ]  # fmt: skip


@pytest.mark.skipif(not _has_rtx(), reason="tensorrt-rtx is not installed")
def test_both_engines_are_built_in_half_precision(half: Path) -> None:
    facts = json.loads((half / "bundle.json").read_text())
    files = [engine["file"] for engine in facts["engines"]]
    assert len(files) == 2
    assert all(
        (half / file).stat().st_size == e["bytes"] for file, e in zip(files, facts["engines"], strict=True)
    )
    for engine in facts["engines"]:
        assert engine["layers"]["half"] > 0.9 * sum(engine["layers"].values())


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_bundle_gives_the_masks_of_the_model(half: Path, backend: str) -> None:
    """Images of two shapes, prompts of both: through the float16 graphs and through PyTorch."""
    found, right = open_sam(half, backend=backend), torch_sam(model("vit_b"))
    images = pictures((100, 220), (160, 90))
    index = np.array([0, 1, 1, 0])
    points = np.array([[[30, 40], [9, 9]], [[50, 90], [20, 30]], [[7, 5], [80, 100]], [[200, 80], [3, 3]]])
    labels = np.array([[1, -1], [1, 0], [2, 3], [1, 1]])
    given = [sam.prompt(sam.embed(images), index, points, labels) for sam in (found, right)]
    _, overlaps, _ = mask_overlaps(given[0][0], given[1][0], given[1][1])
    assert overlaps.min() > 0.97
    assert np.abs(given[0][1] - given[1][1]).max() < 0.02
    assert found.describe()["precision"] == "fp16"


def test_a_broken_weight_does_not_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows of one weight exchanged, as a converter might."""

    decoder = subject.decoder_to_onnx

    def swapped(sam: Any) -> Any:
        exported = decoder(sam)
        weights = exported.model.graph.initializers
        name = "decoder.output_hypernetworks_mlps.1.layers.0.weight"
        array = weights[name].const_value.numpy().copy()
        array[[0, 1]] = array[[1, 0]]
        weights[name].const_value = ir.Tensor(array, name=name)
        return exported

    monkeypatch.setattr(subject, "decoder_to_onnx", swapped)
    with pytest.raises(CloudsError, match="largest mask error") as error:
        export(tmp_path / "bundle", engines=("onnxruntime",))
    assert error.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_float32_passed_off_as_float16_does_not_pass(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("islands: ['MatMul|Gemm|Conv']\n")
    with pytest.raises(CloudsError, match="FLOPs in float16"):
        export(tmp_path / "b", engines=("onnxruntime",), fp16=True, recipe=tmp_path / "mine.yaml")


def test_bfloat16_tells_places_less_than_two_pixels_apart(tmp_path: Path) -> None:
    """From 256 on bfloat16 knows every other number: what places a point stays in float32."""
    sam = build_sam_tiny(SamTinyConfig(image_size=512, prompt_width=32, decoder_feedforward=32))
    exported = decoder_to_onnx(sam)
    random = np.random.default_rng(0)
    given = {
        "image_embeddings": random.standard_normal((1, 32, 128, 128), np.float32),
        "image_index": np.zeros(2, np.int64),
        "point_coords": np.array([[[402, 90], [0, 0]], [[402.9, 90], [0, 0]]], np.float32),
        "point_labels": np.array([[1, -1], [1, -1]], np.float32),
    }
    islands = SamExportConfig().islands
    for kept, same in ((islands, False), (islands[:-1], True)):
        path = tmp_path / f"{same}.onnx"
        save(rounded(to_half(exported.model, kept, (), BF16).model), path, {})
        masks, _ = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, given)
        assert np.array_equal(masks[0], masks[1]) == same


def test_one_flipped_byte_is_refused(half: Path, tmp_path: Path) -> None:
    broken = tmp_path / "bundle"
    shutil.copytree(half, broken)
    data = bytearray((broken / f"{DECODER}.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (broken / f"{DECODER}.onnx").write_bytes(data)
    with pytest.raises(CloudsError, match=r"decoder\.onnx is not the file"):
        open_sam(broken)


def test_faults_are_named(half: Path, tmp_path: Path) -> None:
    with pytest.raises(CloudsError, match="no engine `tensorflow`"):
        export(tmp_path / "b", engines=("tensorflow",))
    with pytest.raises(CloudsError, match="--height, --int8: for segmenters only"):
        export(tmp_path / "b", height=64, int8=True)
    with pytest.raises(CloudsError, match="no backend `torch`"):
        open_sam(half, backend="torch")
    with pytest.raises(CloudsError, match="only a bundle runs on other backends"):
        open_sam("sam_tiny", backend="openvino")
    with pytest.raises(CloudsError, match="it has its weights"):
        open_sam(half, weights="random")
    with pytest.raises(CloudsError, match="no images"):
        export(tmp_path / "b", images=())


def test_the_references_are_replayed(half: Path) -> None:
    result = selftest(half)
    assert result["passed"]
    assert result["precision"] == "fp16"
    assert {check["name"] for check in result["checks"]} == {"mask IoU", "mask IoU, worst"}
