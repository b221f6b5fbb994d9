"""Builds one engine, in a process of its own: `python worker.py JOB RESULT`.

A builder that runs out of memory or crashes takes its process with it and nothing else. This file imports
nothing of the project, so that it starts fast and serves any file that says what to do. Networks are parsed,
configured and built by polygraphy, NVIDIA's toolkit: its logs and timing caches are what others know too.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def build(job: Mapping[str, Any]) -> dict[str, Any]:
    """Builds an engine.

    Args:
        job: module, graph, out, profiles (by input its smallest, most likely and largest shape), sms,
            timing_cache (a file, or null), and the builder's knobs, see `config.export.EngineKnobs`.

    Returns:
        version, seconds, bytes, tf32 (as the builder was told), layers (the number of products and
        convolutions by their output's type) and listing (name, kind and type of every layer: TensorRT's
        inspector's, where the engine can be loaded here, else the parsed network's); or error and heard,
        the engine's messages.
    """
    rtx = job["module"] == "tensorrt_rtx"
    os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = str(int(rtx))  # read when polygraphy is imported
    from polygraphy.backend.trt import (
        CreateConfig,
        PostprocessConfig,
        Profile,
        engine_bytes_from_network,
        network_from_onnx_path,
        util,
    )
    from polygraphy.exception import PolygraphyException

    trt: Any = importlib.import_module(job["module"])
    heard: list[str] = []
    util.TRT_LOGGER = _log(trt, heard)  # what all of polygraphy's calls log to
    begun = time.perf_counter()
    try:
        builder, network, parser = network_from_onnx_path(job["graph"], strongly_typed=True)
    except PolygraphyException:
        return {"error": f"its parser refuses the graph: {_refusal(heard)}", "heard": []}
    profile = Profile()
    for name, shapes in job["profiles"].items():
        profile.add(name, *(tuple(shape) for shape in shapes))
    pools = {}
    if job["workspace_mib"]:
        pools[trt.MemoryPoolType.WORKSPACE] = job["workspace_mib"] << 20
    common: dict[str, Any] = {
        "profiles": [profile],
        "memory_pool_limits": pools or None,
        "max_aux_streams": job["max_aux_streams"],
        "weight_streaming": job["weight_streaming"],
    }
    if rtx:
        from polygraphy.backend.tensorrt_rtx import CreateConfigRTX

        sms = [(int(sm[:-1]), int(sm[-1])) for sm in job["sms"]]
        config: Any = CreateConfigRTX(compute_capabilities=sms, **common)
    else:
        level = trt.HardwareCompatibilityLevel.AMPERE_PLUS if job["hardware_compatible"] else None
        cache = job["timing_cache"]
        config = CreateConfig(
            tf32=job["tf32"],
            version_compatible=job["version_compatible"],
            hardware_compatibility_level=level,
            builder_optimization_level=job["optimization_level"],
            load_timing_cache=cache if cache and Path(cache).is_file() else None,
            **common,
        )
    flags: dict[str, bool] = {}

    def last(_builder: Any, _network: Any, made: Any) -> None:
        if not job["tf32"]:
            made.clear_flag(trt.BuilderFlag.TF32)  # set where nothing clears it
        flags["tf32"] = bool(made.get_flag(trt.BuilderFlag.TF32))

    config = PostprocessConfig(config, last)
    listing = [
        [one.name, str(one.type).rsplit(".", 1)[-1], _kind(one.get_output(0)) if one.num_outputs else ""]
        for one in network
    ]
    layers = _products(trt, network)
    try:
        plan = engine_bytes_from_network(
            (builder, network, parser), config, save_timing_cache=job["timing_cache"]
        )
    except PolygraphyException:
        return {"error": "the build failed", "heard": heard}
    data = bytes(plan)
    Path(job["out"]).write_bytes(data)
    return {
        "version": trt.__version__,
        "seconds": time.perf_counter() - begun,
        "bytes": len(data),
        "layers": layers,
        **flags,
        "listing": _inspected(trt, util, data, job) or listing,
        "heard": heard,
    }


def _refusal(heard: list[str]) -> str:
    """The nodes that the parser's messages name, and its last word on them."""
    text = "\n".join(heard)
    nodes = dict.fromkeys(re.findall(r"Node name: (\S+)", text))
    reasons = [line for line in heard if "ERROR" in line] or heard or ["it gave no reason"]
    return f"{', '.join(nodes) or 'the graph'}: {' '.join(reasons[-1].split())}"


def _log(trt: Any, heard: list[str]) -> Any:
    """A logger that keeps warnings and errors."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def log(self, severity: Any, text: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR, trt.ILogger.WARNING):
                heard.append(text.strip())

    return Log()


def _inspected(trt: Any, util: Any, data: bytes, job: Mapping[str, Any]) -> list[list[str]] | None:
    """The engine's layers by TensorRT's inspector; None where the engine cannot be loaded here."""
    runtime = trt.Runtime(util.get_trt_logger())
    if runtime is None:
        return None
    if job["version_compatible"]:
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        return None
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    out = []
    for layer in json.loads(text).get("Layers", []):
        if isinstance(layer, str):  # without details
            out.append([layer, "", ""])
            continue
        outputs = layer.get("Outputs") or [{}]
        out.append([layer.get("Name", ""), layer.get("LayerType", ""), outputs[0].get("Format/Datatype", "")])
    return out


def _kind(tensor: Any) -> str:
    """Name of a tensor's type, such as `half`."""
    return str(tensor.dtype).rsplit(".", 1)[-1].lower()


def _products(trt: Any, network: Any) -> dict[str, int]:
    """Numbers of products and convolutions by their output's type, as the parser understood the graph.

    Those whose first operand was INT8 until right before them are `int8`: engines compute them so.
    """
    kinds = {trt.LayerType.CONVOLUTION, trt.LayerType.DECONVOLUTION, trt.LayerType.MATRIX_MULTIPLY}
    counted: dict[str, int] = {}
    restored = {layer.get_output(0).name for layer in network if layer.type == trt.LayerType.DEQUANTIZE}
    for layer in network:
        if layer.type in kinds:
            kind = "int8" if layer.get_input(0).name in restored else _kind(layer.get_output(0))
            counted[kind] = counted.get(kind, 0) + 1
    return counted


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(build(json.loads(Path(sys.argv[1]).read_text()))))
