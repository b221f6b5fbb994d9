"""Builds one engine, in a process of its own: `python -m clouds_deploy.backends.tensorrt.worker JOB RESULT`.

A builder that runs out of memory or crashes takes its process with it and nothing else. This file imports
nothing of the project, so that it starts fast and serves any file that says what to do.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any


def build(job: dict[str, Any]) -> dict[str, Any]:
    """Builds an engine.

    Args:
        job: module, graph, out, profiles (by input its smallest, most likely and largest shape), sms,
            workspace_mib, version_compatible, hardware_compatible.

    Returns:
        version, seconds, bytes and layers (the number of products and convolutions by their output's type);
        or error and heard, the engine's messages.
    """
    trt: Any = importlib.import_module(job["module"])
    heard: list[str] = []

    class Log(trt.ILogger):  # type: ignore[misc]
        def log(self, severity: Any, text: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR, trt.ILogger.WARNING):
                heard.append(text.strip())

    begun, log = time.perf_counter(), Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(job["graph"]):
        faults = [parser.get_error(i) for i in range(parser.num_errors)]
        said = "; ".join(f"{fault.node_name() or 'the graph'}: {fault.desc()}" for fault in faults)
        return {"error": f"its parser refuses the graph: {said}", "heard": heard}
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for name, shapes in job["profiles"].items():
        profile.set_shape(name, *(tuple(shape) for shape in shapes))
    config.add_optimization_profile(profile)
    if job["workspace_mib"]:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job["workspace_mib"] << 20)
    if job["version_compatible"]:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if job["hardware_compatible"]:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if job["sms"]:
        config.num_compute_capabilities = len(job["sms"])
        for number, sm in enumerate(job["sms"]):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{sm}"), number)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        return {"error": "the build failed", "heard": heard}
    data = bytes(plan)
    Path(job["out"]).write_bytes(data)
    return {
        "version": trt.__version__,
        "seconds": time.perf_counter() - begun,
        "bytes": len(data),
        "layers": _products(trt, network),
        "heard": heard,
    }


def _products(trt: Any, network: Any) -> dict[str, int]:
    """Numbers of products and convolutions by their output's type, as the parser understood the graph.

    Those whose first operand was INT8 until right before them are `int8`: engines compute them so.
    """
    kinds = {trt.LayerType.CONVOLUTION, trt.LayerType.DECONVOLUTION, trt.LayerType.MATRIX_MULTIPLY}
    counted: dict[str, int] = {}
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    restored = {layer.get_output(0).name for layer in layers if layer.type == trt.LayerType.DEQUANTIZE}
    for layer in layers:
        if layer.type in kinds and layer.get_input(0).name in restored:
            counted["int8"] = counted.get("int8", 0) + 1
        elif layer.type in kinds:
            kind = str(layer.get_output(0).dtype).rsplit(".", 1)[-1].lower()
            counted[kind] = counted.get(kind, 0) + 1
    return counted


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(build(json.loads(Path(sys.argv[1]).read_text()))))
