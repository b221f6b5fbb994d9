"""Suites, the parts of a call, what a GPU's energy counter says, and what grows."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import clouds_deploy
from clouds_deploy.bench.growth import SAM, SEGMENTER, draw_folder
from clouds_deploy.bench.plan import Plan
from clouds_deploy.bench.stages import joules_of, time_stages
from clouds_deploy.bundles.bundle import open_bundle
from clouds_deploy.bundles.tensors import TensorSpec
from clouds_deploy.config.bench import SUITES, BenchOptions, Suite
from clouds_deploy.errors import CloudsError

PEAK = {"float32": 1.0, "bfloat16": 1.0}
PLAN = Plan(Suite(backends=("torch",), seconds=0.05, rounds=2), 1, PEAK)


def test_a_suite_stands_in_for_what_was_not_chosen() -> None:
    found = BenchOptions(suite="smoke", rounds=7).chosen()
    assert found.rounds == 7
    assert found.seconds == SUITES["smoke"].seconds
    with pytest.raises(CloudsError, match="did you mean `smoke`"):
        BenchOptions(suite="smok").chosen()
    known = {*SEGMENTER, *SAM}
    assert all(set(suite.growth) <= known for suite in SUITES.values())


def test_a_suite_refuses_the_other_kind_of_model(small_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(CloudsError, match="takes no bundle of a segmenter"):
        clouds_deploy.bench([small_bundle], out=tmp_path / "b", suite="refine")


class Still:
    """A session whose results are its inputs."""

    backend = device = "cpu"
    inputs = (TensorSpec("image", "uint8", (None, 8, 8, 3)),)
    outputs = (TensorSpec("labels", "uint8", (None, 8, 8)),)

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"labels": feeds["image"][..., 0]}

    def stage(self, feeds: dict[str, np.ndarray]) -> object:
        return lambda: None

    def close(self) -> None:
        pass


def test_the_parts_of_a_call_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from clouds_deploy.bench import stages
    from clouds_deploy.bench.timing import Timing

    takes = {"device": (2.0, 2.0, 4.0), "call": (5.0, 6.0, 7.0), "end": (9.0, 10.0, 10.0)}
    results = {}

    def measure(candidates: dict[str, Callable[[], object]], **_: object) -> dict[str, Timing]:
        results.update({name: call() for name, call in candidates.items()})
        rounds = {name: np.array(takes[name.split()[1]]) for name in candidates}
        return {name: Timing(taken, taken) for name, taken in rounds.items()}

    monkeypatch.setattr(stages, "measure", measure)
    images = np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3)
    found = time_stages({"still": Still()}, {"image": images}, PLAN, "labels")["still"]  # type: ignore[dict-item]
    assert found == {
        "device_ms": 2.0, "transfer_ms": 3.0, "files_ms": 4.0, "end_to_end_ms": 10.0, "joules": None,
    }  # fmt: skip
    made = results["still end"]  # PNG to PNG
    for file, image in zip(made, images, strict=True):  # type: ignore[call-overload]
        assert (np.asarray(Image.open(io.BytesIO(file))) == image[..., 0]).all()


def test_energy_is_the_difference_of_the_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = iter((5_000, 45_000))
    nvml = SimpleNamespace(
        NVMLError=OSError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetTotalEnergyConsumption=lambda _: next(counter),
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    calls: list[int] = []
    assert joules_of(lambda: calls.append(0), "cuda:1") == pytest.approx(40 / len(calls))
    assert joules_of(lambda: None, "cpu") is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert joules_of(lambda: None, "CUDAExecutionProvider") is None


@pytest.mark.parametrize("what", sorted(SEGMENTER))
def test_a_segmenters_growth(small_bundle: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from clouds_deploy.bench import growth as bench_growth

    monkeypatch.setattr(bench_growth, "SIDES", (0.5, 1.0))
    monkeypatch.setattr(bench_growth, "STEP_BATCHES", (1, 2))
    found = SEGMENTER[what](open_bundle(small_bundle), PLAN)
    assert len(found["sizes"]) == len(found["p50_ms"]["torch"]) == 2
    assert np.isfinite(found["exponent"]["torch"])


@pytest.mark.parametrize("what", sorted(SAM))
def test_refinements_growth(sam_bundle: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from clouds_deploy.bench import growth as bench_growth

    monkeypatch.setattr(bench_growth, "IMAGES", (1, 2))
    plan = Plan(Suite(backends=("torch", "onnxruntime"), seconds=0.05, rounds=2), 1, PEAK)
    found = SAM[what](open_bundle(sam_bundle), plan)
    assert list(found["p50_ms"]) == ["onnxruntime"]  # PyTorch's SAM is no backend of a bundle
    assert all(ms > 0 for ms in found["p50_ms"]["onnxruntime"])


def test_a_drawn_folder_has_a_label_map_for_every_image(tmp_path: Path) -> None:
    draw_folder(tmp_path, 2, (64, 128))
    names = [sorted(p.name for p in (tmp_path / kind).iterdir()) for kind in ("images", "labels")]
    assert names[0] == names[1] == ["0000.png", "0001.png"]


@pytest.mark.slow
def test_stages_and_growth_are_in_the_report(small_bundle: Path, tmp_path: Path) -> None:
    """The suite `segmenter`, hurried."""
    clouds_deploy.bench(
        [small_bundle], out=tmp_path / "b", suite="segmenter", backends=("torch", "onnxruntime"), seconds=0.1,
        rounds=2, scaling=(1, 2),
    )  # fmt: skip
    results = json.loads((tmp_path / "b" / "results.json").read_text())
    bundle = results["bundles"][0]
    assert [growth["what"] for growth in bundle["growth"]] == ["pixels", "images of a training step"]
    for entry in bundle["results"]:
        assert min(entry["device_ms"], entry["end_to_end_ms"]) > 0  # too hurried to say which is more
    page = (tmp_path / "b" / "report.html").read_text()
    for text in ("Where a call", "Throughput against batch", "How cost grows with pixels", ", exponent "):
        assert text in page
    assert "PNG to PNG, ms" in (tmp_path / "b" / "summary.md").read_text()
