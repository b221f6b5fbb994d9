"""A bundle's references, replayed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from clouds_deploy.artifacts import write_manifest
from clouds_deploy.bundles.bundle import KIND, REFERENCE
from clouds_deploy.errors import CloudsError
from clouds_deploy.export.export import save_arrays
from clouds_deploy.inference.selftest import selftest


def test_a_bundle_agrees_with_itself(small_bundle: Path) -> None:
    result = selftest(small_bundle)
    assert result["passed"]
    assert {check["backend"] for check in result["checks"]} == {"onnxruntime", "openvino"}
    assert result["images"] > 0


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
