"""A bundle's references, replayed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clouds_deploy.artifacts import write_manifest
from clouds_deploy.bundles.bundle import KIND, REFERENCE, SAM_KIND, open_bundle
from clouds_deploy.errors import CloudsError
from clouds_deploy.export.export import save_arrays
from clouds_deploy.inference.selftest import selftest


def test_a_bundle_agrees_with_itself(small_bundle: Path) -> None:
    result = selftest(small_bundle)
    assert result["passed"]
    assert {check["backend"] for check in result["checks"]} == {"onnxruntime", "openvino"}
    assert result["images"] > 0


def test_each_precision_has_its_own_limit(small_bundle: Path) -> None:
    """A float32 graph that is computed in bfloat16 is judged as a bfloat16 graph."""
    (labels, _) = selftest(small_bundle, backends=("openvino",), precision="bf16")["checks"]
    assert labels["limit"] == 0.98
    bundle = open_bundle(small_bundle)
    assert bundle.limit("label_agreement") == 0.9999
    int8 = replace(bundle, facts={**bundle.facts, "precision": "int8", "label_agreement": 0.97})
    assert (int8.limit("label_agreement"), int8.limit("label_agreement", "bf16")) == (0.97, 0.97)
    masks = {"fp32": {"mask_iou": 0.999}, "fp16": {"mask_iou": 0.99}, "bf16": {"mask_iou": 0.98}}
    sam = replace(bundle, kind=SAM_KIND, facts={"limits": masks})
    assert [sam.limit("mask_iou", name) for name in ("fp32", "bf16")] == [0.999, 0.98]
    half = replace(sam, facts={"limits": {**masks, "bf16": {"mask_iou": 0.995}}, "precision": "fp16"})
    assert [half.limit("mask_iou", name) for name in ("fp32", "bf16")] == [0.99, 0.99]


def test_other_labels_are_told(small_bundle: Path, tmp_path: Path) -> None:
    """References that another model made, sealed as if they belonged there."""
    other = tmp_path / "bundle"
    shutil.copytree(small_bundle, other)
    with np.load(other / REFERENCE) as arrays:
        kept = {name: arrays[name] for name in arrays.files}
    kept["labels"] = (kept["labels"] + 1) % 19
    (other / REFERENCE).unlink()
    save_arrays(other / REFERENCE, kept)
    write_manifest(other, KIND)
    result = selftest(other, backends=("onnxruntime",))
    assert not result["passed"]
    assert result["checks"][0]["value"] < 0.1
    json.dumps(result)


def test_one_flipped_byte_is_refused(small_bundle: Path, tmp_path: Path) -> None:
    other = tmp_path / "bundle"
    shutil.copytree(small_bundle, other)
    data = bytearray((other / "segmenter.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (other / "segmenter.onnx").write_bytes(data)
    with pytest.raises(CloudsError, match=r"segmenter\.onnx is not the file"):
        selftest(other)


def test_what_is_no_bundle_is_named(tmp_path: Path) -> None:
    write_manifest(tmp_path, "run")
    with pytest.raises(CloudsError, match="is a run, not a bundle"):
        selftest(tmp_path)
    with pytest.raises(CloudsError, match="there is no directory"):
        selftest(tmp_path / "nothing")
