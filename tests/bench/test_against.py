"""What an earlier run says of this one."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clouds_deploy.artifacts import write_json
from clouds_deploy.bench.against import compare, read_results
from clouds_deploy.bench.entries import gather, judge
from clouds_deploy.bench.scaling import fit_exponent
from clouds_deploy.bench.timing import Timing
from clouds_deploy.errors import CloudsError


def results(**milliseconds: list[float]) -> dict[str, Any]:
    timings = {name: Timing(np.array(ms), np.array(ms)) for name, ms in milliseconds.items()}
    entries = gather(
        timings,
        {name: judge(1.0, 0.9, name, True) for name in timings},
        dict.fromkeys(timings, "cpu"),
        1,
        1e9,
        {"float32": 100.0, "bfloat16": 400.0},
    )
    return {"bundles": [{"name": "a", "shape": "1x2x2", "results": entries}]}


def test_a_slower_machine_is_no_slower_backend() -> None:
    """All three took twice as long; but one of them took three times as long."""
    before = results(torch=[10.0, 10.1, 9.9], onnxruntime=[5.0, 5.1, 4.9], openvino=[4.0, 4.1, 3.9])
    after = results(torch=[20.0, 20.1, 19.9], onnxruntime=[10.0, 10.1, 9.9], openvino=[12.0, 12.1, 11.9])
    found = {row["backend"]: row for row in compare(before, after)["rows"]}
    assert found.keys() == {"onnxruntime", "openvino"}
    assert found["onnxruntime"]["verdict"] == "no significant change"
    assert found["openvino"]["verdict"] == "slower"
    assert found["openvino"]["change"] == pytest.approx(2 / 3, rel=0.02)
    assert compare(before, after)["slower"] == 1
    assert compare(after, before)["rows"][1]["verdict"] == "faster"


def test_noise_is_no_change() -> None:
    before = results(torch=[10.0, 14.0, 9.0, 12.0], openvino=[5.0, 5.0, 5.0, 5.0])
    after = results(torch=[9.0, 13.0, 10.0, 8.0], openvino=[5.0, 5.0, 5.0, 5.0])
    assert compare(before, after)["slower"] == 0


def test_without_pytorch_the_medians_count_and_missing_ones_are_told() -> None:
    before, after = results(openvino=[5.0, 5.1]), results(openvino=[8.0, 8.1], onnxruntime=[4.0, 4.0])
    found = compare(before, after)
    assert found["rows"][0]["measure"] == "ms"
    assert found["slower"] == 1
    assert found["missing"] == ["a 1x2x2 onnxruntime"]


def test_share_of_peak() -> None:
    entry = results(torch=[20.0])["bundles"][0]["results"][0]
    assert entry["gflops"] == pytest.approx(50.0)
    assert entry["peak_share"] == pytest.approx(0.5)


def test_exponent() -> None:
    sizes = [1, 2, 4, 8]
    assert fit_exponent(sizes, [3.0 * s**1.5 for s in sizes]) == pytest.approx(1.5)
    assert fit_exponent([4], [1.0]) is None


def test_faults_of_an_earlier_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(CloudsError, match="there are no results"):
        read_results(tmp_path)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(CloudsError, match="is not valid JSON"):
        read_results(tmp_path)
    write_json(tmp_path / "results.json", {"bundles": 3})
    with pytest.raises(CloudsError, match="holds no results"):
        read_results(tmp_path)
    write_json(tmp_path / "results.json", copy.deepcopy(results(torch=[1.0])))
    assert read_results(tmp_path)["bundles"]
