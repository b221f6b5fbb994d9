"""Segmenter and SAM in float16 on an NVIDIA GPU: PyTorch eager, compiled, ahead of time, and ONNX's engines.

    python benchmarks/gpu/bench_gpu.py --out benchmarks/results/gpu
    python benchmarks/gpu/bench_gpu.py --device cpu --case sam_tiny --rounds 2 --seconds 0.5   # a dry run

Everything is fed tensors that lie on the device already and timed until the device has finished: transfers
and files are left out. Candidates are interleaved (`bench.timing`); ratios are against the official
formulation in PyTorch eager float16, medians over rounds with 95 % intervals. Beside each time stand the
error against the official formulation in eager float32 and the share of what a large float16 product reaches
here, by the operations that PyTorch counts for the official formulation. Ours keep the weights of products in
float16, so that autocast has none to convert; "replayed" is the same work recorded in a CUDA graph, which
leaves out what Python and the launches cost. Weights are random: time does not depend on them, masks mean
nothing. ONNX Runtime on CUDA and TensorRT is timed where onnxruntime-gpu is installed, from float16 graphs
exported here; what is not installed is listed in the result, <date>_<GPU>.json in --out.

Compiling takes most of the time. With --earlier, a result of this script, only the form that was fastest in
eager mode there is compiled. PyTorch keeps what it compiled (TORCHINDUCTOR_CACHE_DIR): with --prepare things
are compiled and not timed, so that the GPU may do something else meanwhile.

Runs from a checkout with PYTHONPATH set to it; needs torch, timm, open_clip, segment_anything and what the
package imports.
"""

from __future__ import annotations

import argparse
import datetime
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cases import MAKERS, SEGMENTER, Case, half
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from clouds_deploy.artifacts import environment, read_json, write_json
from clouds_deploy.bench.timing import measure, ratio
from clouds_deploy.models.libraries import library

OFFICIAL = "official, eager"
CASES = ("sam_tiny", "vit_b", "vit_l", "vit_h", "decoder", "segmenter")
GOALS = {"vit_h encoder": 11.0, "vit_b encoder": 2.0, SEGMENTER: 7.0}
"""Milliseconds at batch 1 in float16 that were asked for."""


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--case", action="append", choices=CASES)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each candidate")
    parser.add_argument("--compile", action="append", choices=CASES, help="compile these; default all")
    parser.add_argument(
        "--ahead", action="append", choices=CASES, help="and these ahead of time; default all"
    )
    parser.add_argument("--eager", action="store_true", help="compile nothing")
    parser.add_argument("--earlier", type=Path, help="a result that says which form to compile")
    parser.add_argument("--prepare", action="store_true", help="compile, time nothing")
    given = parser.parse_args()
    library("timm")
    device = torch.device(given.device)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    result: dict[str, Any] = {"environment": environment(), "date": today, "gpu": gpu, "weights": "random"}
    result["float16_peak_tflops"] = 0.0 if given.prepare else peak(device)
    result["goals_ms"] = GOALS
    result["cases"] = {}
    file = given.out / f"{today}_{gpu.replace(' ', '_')}.json" if given.out else None
    for name in given.case or CASES[1:]:
        for case in MAKERS[name](device):
            compiling = [
                build
                for build, wanted in ((_compiled, given.compile), (_ahead, given.ahead))
                if not given.eager and (wanted is None or name in wanted)
            ]
            found = run(case, device, result["float16_peak_tflops"], compiling, given)
            if given.prepare:
                print(case.name, found["missing"], flush=True)
                continue
            result["cases"][case.name] = found
            print(case.name, *(f"\n  {k}: {v}" for k, v in found["candidates"].items()), flush=True)
            if file is not None:  # after every case: a borrowed machine may be taken back
                file.parent.mkdir(parents=True, exist_ok=True)
                write_json(file, result)


def waiter(device: torch.device) -> Callable[[], None] | None:
    """Give what waits for the device."""
    return torch.cuda.synchronize if device.type == "cuda" else None


def peak(device: torch.device) -> float:
    """Times a large product in float16 (bfloat16 on a CPU); TFLOP/s of the fastest call."""
    side = 8192 if device.type == "cuda" else 1024
    kind = torch.float16 if device.type == "cuda" else torch.bfloat16
    a, b = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
    timing = measure({"": lambda: a @ b}, rounds=1, seconds=1.0, synchronize=waiter(device))[""]
    return 2 * side**3 / timing.minimum / 1e9


def run(
    case: Case, device: torch.device, most: float, compiling: list[Any], given: argparse.Namespace
) -> dict[str, Any]:
    """Time a case's candidates against each other."""
    with torch.inference_mode():
        right = _flat(case.official(*case.inputs))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:  # it cannot count in inference mode
        case.official(*case.inputs)
    operations = counter.get_total_flops()
    candidates: dict[str, Callable[[], Any]] = {OFFICIAL: _call(case.official, case.inputs, device)}
    missing: dict[str, str] = {}
    best = fastest(case, given.earlier)
    for name, module in case.ours.items():
        builds = [_as_it_is] if name != "flex" else []
        for build in [*builds, *(compiling if name in best else [])]:
            label = f"ours {name}, {_LABELS[build]}"
            try:
                call = _call(build(module, case.inputs, device), case.inputs, device)
                with torch.inference_mode():
                    call()
                candidates[label] = call
            except Exception as error:
                missing[label] = _line(error)
                continue
            if device.type == "cuda" and not given.prepare and name in best:
                try:
                    candidates[f"{label}, replayed"] = _replayed(call)
                except Exception as error:
                    missing[f"{label}, replayed"] = _line(error)
    if given.prepare:
        return {"missing": missing}
    if case.graph is not None:
        for provider in ("CUDAExecutionProvider", "TensorrtExecutionProvider"):
            try:
                candidates[f"onnxruntime {provider}"] = _onnx(case, provider)
            except Exception as error:
                missing[f"onnxruntime {provider}"] = _line(error)
    with torch.inference_mode():
        errors = {name: _error(_flat(call()), right) for name, call in candidates.items()}
        timings = measure(candidates, rounds=given.rounds, seconds=given.seconds, synchronize=waiter(device))
    lines = {}
    for name, timing in timings.items():
        found = ratio(timings[OFFICIAL], timing)
        lines[name] = {
            **timing.to_json(),
            "times_official": found.value,
            "times_official_low": found.low,
            "times_official_high": found.high,
            "relative_l2_error": errors[name],
            "passed": errors[name] <= 0.02,
            "share_of_peak": operations / timing.percentile(50) / 1e9 / most,
        }
    kernels = profile(candidates[min(timings, key=lambda name: timings[name].percentile(50))], device)
    memory = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
    facts = {"missing": missing, "peak_mib": memory, "kernels": kernels}
    return {"gflop": operations / 1e9, "candidates": lines, **facts}


def _call(function: Callable[..., Any], inputs: tuple[torch.Tensor, ...], device: torch.device) -> Any:
    def call() -> Any:
        with torch.inference_mode(), half(device):
            return function(*inputs)

    return call


def profile(call: Callable[[], Any], device: torch.device) -> dict[str, float]:
    """Milliseconds that the fastest candidate's slowest kernels take in a call."""
    if device.type != "cuda":
        return {}
    turns = 5
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as found:
        for _ in range(turns):
            call()
        torch.cuda.synchronize()
    spent: Counter[str] = Counter()
    for event in found.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            spent[event.name[:120]] += event.device_time / 1e3 / turns
    return dict(spent.most_common(20))


def fastest(case: Case, earlier: Path | None) -> set[str]:
    """The form of ours that an earlier result has as the fastest in eager mode; all without one."""
    if earlier is None:
        return set(case.ours)
    found = read_json(earlier)["cases"].get(case.name, {"candidates": {}})["candidates"]
    eager = {name: found.get(f"ours {name}, eager", {"p50_ms": float("inf")})["p50_ms"] for name in case.ours}
    return {min(eager, key=eager.__getitem__), "flex"}


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _replayed(call: Callable[[], Any]) -> Callable[[], Any]:
    """Record the call's work in a CUDA graph and give what plays it again; its results are written over."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()

    def replay() -> Any:
        graph.replay()
        return result

    return replay


def _as_it_is(module: nn.Module, inputs: Any, device: torch.device) -> Any:
    return module


def _compiled(module: nn.Module, inputs: Any, device: torch.device) -> Any:
    torch.compiler.reset()
    return torch.compile(module)


def _ahead(module: nn.Module, inputs: tuple[torch.Tensor, ...], device: torch.device) -> Any:
    """Compile into a package with AOTInductor; autocast is recorded only inside of the module."""
    with torch.no_grad():
        program = torch.export.export(_InHalf(module, device), inputs)
    package = torch._inductor.aoti_compile_and_package(
        program, package_path=str(Path(tempfile.mkdtemp()) / "model.pt2")
    )
    return torch._inductor.aoti_load_package(package)


class _InHalf(nn.Module):
    def __init__(self, module: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.module, self.device = module, device

    def forward(self, *inputs: torch.Tensor) -> Any:
        with half(self.device):
            return self.module(*inputs)


_LABELS: dict[Any, str] = {_as_it_is: "eager", _compiled: "compiled", _ahead: "ahead of time"}


def _onnx(case: Case, provider: str) -> Callable[[], Any]:
    """Binds device tensors to an ONNX Runtime session that really runs on the provider."""
    from clouds_deploy.telemetry import load_onnxruntime

    onnxruntime = load_onnxruntime()

    if provider not in onnxruntime.get_available_providers():
        raise RuntimeError(f"{provider} is not in this onnxruntime")
    assert case.graph is not None
    graph, names = case.graph(Path(tempfile.mkdtemp()))
    session = onnxruntime.InferenceSession(str(graph), providers=[provider])
    if session.get_providers()[0] != provider:
        raise RuntimeError(f"asked for {provider}, runs on {session.get_providers()[0]}")
    kinds = {torch.uint8: np.uint8, torch.int32: np.int32, torch.int64: np.int64, torch.float32: np.float32}
    binding = session.io_binding()
    for name, tensor in zip(names, case.inputs, strict=True):
        binding.bind_input(
            name, "cuda", 0, kinds[tensor.dtype], tuple(tensor.shape), tensor.contiguous().data_ptr()
        )
    for output in session.get_outputs():
        binding.bind_output(output.name, "cuda")

    def call() -> Any:
        session.run_with_iobinding(binding)
        return [torch.from_numpy(value.numpy()) for value in binding.get_outputs()] if first else None

    first = True
    call()
    first = False
    return call


def _flat(found: Any) -> torch.Tensor:
    first = found[0] if isinstance(found, (tuple, list)) else found
    return torch.zeros(0) if first is None else first.detach().float().cpu().flatten()


def _error(found: torch.Tensor, right: torch.Tensor) -> float:
    """Give the relative L2 norm of the difference; 0 where a candidate keeps its results to itself."""
    if not len(found):
        return 0.0
    if len(found) != len(right):
        return float("inf")
    return float((found - right).norm() / right.norm().clamp_min(1e-12))


if __name__ == "__main__":
    main()
