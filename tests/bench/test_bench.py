from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from clouds_deploy.artifacts import read_manifest
from clouds_deploy.bench import machine, report, suites
from clouds_deploy.bench.entries import gather, judge
from clouds_deploy.bench.machine import peak_memory
from clouds_deploy.bench.plan import common_device
from clouds_deploy.bench.suites import bench
from clouds_deploy.bench.timing import Timing
from clouds_deploy.config.bench import BenchOptions
from clouds_deploy.errors import CloudsError


@pytest.fixture(scope="module")
def benched(tmp_path_factory: pytest.TempPathFactory, small_bundle: Path) -> Path:
    out = tmp_path_factory.mktemp("bench") / "out"
    bench([small_bundle], out=out, seconds=0.2, rounds=2, memory=False)
    return out


def test_results_hold_every_backend_with_its_agreement(benched: Path) -> None:
    read_manifest(benched, "bench")
    results = json.loads((benched / "results.json").read_text())
    assert results["machine"]["cores"] >= 1
    entries = results["bundles"][0]["results"]
    assert [entry["backend"] for entry in entries] == ["torch", "onnxruntime", "openvino"]
    for entry in entries:
        assert 0 < entry["min_ms"] <= entry["p50_ms"] <= entry["p90_ms"] <= entry["p99_ms"]
        assert entry["passed"]
        assert entry["agreement"] >= entry["agreement_limit"]
        assert entry["speedup_low"] <= entry["speedup"] <= entry["speedup_high"]
    assert entries[0]["speedup"] == 1.0


def test_leaves_pages_for_people_and_the_command_to_repeat_it(benched: Path) -> None:
    assert "| onnxruntime |" in (benched / "summary.md").read_text()
    assert "<svg" in (benched / "report.html").read_text()
    script = benched / "reproduce.sh"
    assert "clouds-deploy bench" in script.read_text()
    assert script.stat().st_mode & 0o100


def test_a_wrong_answer_is_printed_beside_the_speed_it_spoils(benched: Path) -> None:
    results = json.loads((benched / "results.json").read_text())
    entry = results["bundles"][0]["results"][1]
    entry |= {"passed": False, "agreement_shown": "12.0000 % FAILED", "speedup_shown": "9 RESULTS DIFFER"}
    for text in (report.markdown(results), report.html(results)):
        assert "12.0000 % FAILED" in text
        assert "RESULTS DIFFER" in text
        assert "its speed is void" in text


def test_wrong_weights_fail_the_agreement(small_bundle: Path) -> None:
    import numpy as np

    from clouds_deploy.bench.entries import judge
    from clouds_deploy.inference.agreement import label_agreement

    labels = np.zeros((2, 4, 4), np.uint8)
    found = judge(label_agreement(labels + 1, labels), 0.99, "openvino", True)
    assert not found["passed"]
    assert "FAILED" in found["agreement_shown"]


def test_unknown_backend(tmp_path: Path, small_bundle: Path) -> None:
    with pytest.raises(CloudsError, match="did you mean `openvino`"):
        bench([small_bundle], out=tmp_path / "b", backends=("opnvino",))
    assert not (tmp_path / "b").exists()


def test_without_torch_the_suites_other_backends_are_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (machine, suites):
        monkeypatch.setattr(module, "installed", lambda name: name != "torch")
    assert suites._check_backends(BenchOptions()).backends == ("onnxruntime", "openvino")
    assert "without torch" in capsys.readouterr().err
    assert suites._check_backends(BenchOptions(backends=("torch",))).backends == ("torch",)
    assert machine.matmul_peak(0.01).keys() == {"float32"}
    assert machine.threads() >= 1


def test_memory_is_the_childs_own(small_bundle: Path) -> None:
    found = peak_memory(small_bundle, "onnxruntime", 1)
    assert found is None or 30 < found < 400
    assert peak_memory(small_bundle, "no such backend", 1) is None


def test_growth_and_an_earlier_run_are_in_the_report(
    benched: Path, small_bundle: Path, tmp_path: Path
) -> None:
    found = bench(
        [small_bundle], out=tmp_path / "b", backends=("onnxruntime", "torch"), seconds=0.2, rounds=2,
        memory=False, scaling=(1, 2), against=benched / "results.json",
    )  # fmt: skip
    scaling = found["bundles"][0]["scaling"]
    assert scaling["what"] == "batch"
    assert all(len(taken) == 2 for taken in scaling["p50_ms"].values())
    assert {row["backend"] for row in found["against"]["rows"]} == {"onnxruntime"}
    assert found["against"]["missing"] == [f"{small_bundle.name} {found['bundles'][0]['shape']} openvino"]
    page = (tmp_path / "b" / "report.html").read_text()
    assert "How cost grows with batch" in page
    assert "Against an earlier run" in page
    entry = found["bundles"][0]["results"][0]
    assert 0 < entry["peak_share"] < 1.5


def test_a_sam_is_timed_against_segment_anything(sam_bundle: Path, tmp_path: Path) -> None:
    """The encoder and the decoder, PyTorch being the official modules with the same weights."""
    found = bench(
        [sam_bundle], out=tmp_path / "b", backends=("torch", "onnxruntime"), seconds=0.1, rounds=2,
        prompts=(1, 3), scaling=(1, 2),
    )  # fmt: skip
    assert [b["shape"] for b in found["bundles"]] == ["1x256x256", "1 prompts", "3 prompts"]
    for bundle in found["bundles"]:
        assert [entry["backend"] for entry in bundle["results"]] == ["torch", "onnxruntime"]
        assert all(entry["passed"] and entry["agreement"] > 0.999 for entry in bundle["results"])
        assert bundle["results"][0]["gflops"] > 0
    assert found["bundles"][-1]["scaling"]["what"] == "prompts"
    assert "mask IoU" in (tmp_path / "b" / "summary.md").read_text()


def test_one_device_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clouds_deploy.bench.plan.resolve_device", _two_gpus)
    assert common_device("auto", ("torch", "onnxruntime")) == "cuda:0"
    assert common_device("auto", ("torch", "openvino", "openvino-bf16")) == "cpu"
    with pytest.raises(CloudsError, match="share no device: torch on cuda:0, openvino on cpu, tensorrt"):
        common_device("auto", ("torch", "openvino", "tensorrt"))


def _two_gpus(device: str, backend: str) -> str:
    assert device == "auto"
    return "cpu" if backend == "openvino" else "cuda:0"


def test_there_is_no_speedup_between_devices() -> None:
    timing = Timing(np.array([2.0, 2.0]), np.array([2.0, 2.0]))
    devices = {"torch": "cuda:0", "openvino": "cpu", "onnxruntime": "cuda:0"}
    agreements = {name: judge(1.0, 0.9, name, True) for name in devices}
    lines = gather(dict.fromkeys(devices, timing), agreements, devices, 1, None, {})
    assert [line["speedup"] for line in lines] == [1.0, None, 1.0]
