"""`/v2`: the KServe inference protocol, for clients that send tensors."""

from __future__ import annotations

import json
import math
from importlib.metadata import version
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from clouds_deploy.bundles.tensors import TensorSpec
from clouds_deploy.serving.gate import Gate
from clouds_deploy.serving.lifetime import lifetime
from clouds_deploy.serving.limits import Refusal
from clouds_deploy.serving.model import ServedModel
from clouds_deploy.serving.tensors import (
    DATATYPES,
    HEADER_LENGTH,
    Inference,
    answer_bytes,
    json_bytes,
    metadata,
    parse,
    render,
)
from clouds_deploy.serving.uploads import Workshop, read_body

VERSION = "1"
EXTENSIONS = ["binary_tensor_data", "model_configuration", "parameters", "statistics"]
PLATFORMS = {
    "onnxruntime": "onnxruntime_onnx",
    "openvino": "openvino_onnx",
    "torch": "pytorch_eager",
}


class KServe:
    """The endpoints of `/v2`.

    Args:
        model: The one model that is served.
        workshop: Where requests are parsed.
    """

    def __init__(self, model: ServedModel, workshop: Workshop) -> None:
        self.model, self.workshop = model, workshop
        self.gate: Gate | None = None

    def routes(self) -> list[Route]:
        """The routes; every path with a model also exists with its version."""
        routes = [
            Route("/v2", self.server, methods=["GET"]),
            Route("/v2/models", self.models, methods=["GET"]),
            Route("/v2/models/stats", self.statistics, methods=["GET"]),
            Route("/v2/repository/index", self.index, methods=["GET", "POST"]),
            Route("/v2/health/live", self.live, methods=["GET"]),
            Route("/v2/health/ready", self.ready, methods=["GET"]),
        ]
        for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            routes += [
                Route(model, self.about, methods=["GET"]),
                Route(f"{model}/ready", self.ready, methods=["GET"]),
                Route(f"{model}/config", self.config, methods=["GET"]),
                Route(f"{model}/stats", self.statistics, methods=["GET"]),
                Route(f"{model}/infer", self.infer, methods=["POST"]),
            ]
        return routes

    async def server(self, _: Request) -> Response:
        """Server metadata."""
        return JSONResponse(
            {
                "name": "clouds_deploy",
                "version": version("clouds-deploy"),
                "extensions": EXTENSIONS,
            }
        )

    async def live(self, _: Request) -> Response:
        """Liveness: the process answers."""
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        """Readiness: requests are taken, after the warm-up and until the server is told to stop."""
        if "model" in request.path_params:
            self._check(request)
        ready = self.gate is not None and self.gate.open
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    async def about(self, request: Request) -> Response:
        """Model metadata."""
        self._check(request)
        return JSONResponse(
            {
                "name": self.model.name,
                "versions": [VERSION],
                "platform": self._platform(),
                "inputs": [metadata(self.model.image)],
                "outputs": [metadata(spec) for spec in self.model.outputs],
            }
        )

    async def models(self, _: Request) -> Response:
        """Names of the models; there is one."""
        return JSONResponse({"models": [self.model.name]})

    async def index(self, request: Request) -> Response:
        """Models of the repository; the body `{"ready": true}` asks for those that are ready."""
        wanted: Any = {}
        if body := await read_body(request):
            try:
                wanted = json.loads(body)
            except (ValueError, RecursionError):
                wanted = None
        if not isinstance(wanted, dict) or not isinstance(wanted.get("ready", False), bool):
            raise Refusal(400, "the request is no JSON object", 'send {"ready": true}, or nothing')
        ready = self.gate is not None and self.gate.open
        about = {"name": self.model.name, "version": VERSION, "reason": ""}
        state = "READY" if ready else "UNAVAILABLE"
        return JSONResponse([{**about, "state": state}] if ready or not wanted.get("ready") else [])

    async def config(self, request: Request) -> Response:
        """Model configuration, as Triton describes models."""
        self._check(request)
        queue, limits = self.model.queue, self.workshop.limits
        image = math.prod(size or 1 for size in self.model.image.shape)
        return JSONResponse(
            {
                "name": self.model.name,
                "platform": self._platform(),
                "max_batch_size": max(1, min(self.model.most, limits.body_bytes // image)),
                "input": [_config(self.model.image)],
                "output": [_config(spec) for spec in self.model.outputs],
                "version_policy": {"latest": {"num_versions": 1}},
                "dynamic_batching": {
                    "preferred_batch_size": [queue.largest],
                    "max_queue_delay_microseconds": round(queue.delay * 1e6),
                },
                "parameters": {
                    key: {"string_value": json.dumps(self.model.bundle.facts[key])}
                    for key in ("classes", "palette")
                },
            }
        )

    async def statistics(self, request: Request) -> Response:
        """Counts and times of the model's requests since the start."""
        if "model" in request.path_params:
            self._check(request)
        return JSONResponse({"model_stats": [self.model.statistics.to_json(self.model.name, VERSION)]})

    async def infer(self, request: Request) -> Response:
        """Inference on tensors; the images of a request may go through different calls."""
        self._check(request)
        body = await read_body(request)
        length = request.headers.get(HEADER_LENGTH)
        life, limits = lifetime(request), self.workshop.limits
        async with self.workshop.parsing(json_bytes(body, length)):
            inference: Inference = await self.workshop.run(
                life, lambda: parse(body, length, [self.model.image], self.model.outputs)
            )
        images = list(inference.inputs[self.model.image.name])
        if (size := answer_bytes(inference, self.model.outputs, len(images))) > limits.answer_bytes:
            raise Refusal(
                413,
                f"the answer would have about {size} bytes, {limits.answer_bytes} at most",
                "send fewer images at once, ask for fewer outputs, or for binary data",
            )
        await self.workshop.answering(life, size)
        rows = await self.model.answer(images, {wanted.name for wanted in inference.outputs})

        def answer() -> tuple[bytes, dict[str, str]]:
            arrays: dict[str, Any] = {
                wanted.name: np.stack([row.result[wanted.name] for row in rows])
                for wanted in inference.outputs
            }
            return render(self.model.name, VERSION, inference, arrays)

        data, headers = await self.workshop.run(life, answer)
        return Response(data, headers=headers)

    def _platform(self) -> str:
        return PLATFORMS.get(self.model.session.backend, self.model.session.backend)

    def _check(self, request: Request) -> None:
        name, wanted = request.path_params["model"], request.path_params.get("version", VERSION)
        if name != self.model.name:
            raise Refusal(404, f"there is no model `{name[:100]}`", f"the model is `{self.model.name}`")
        if wanted != VERSION:
            raise Refusal(404, f"`{name}` has no version {wanted[:20]}", f"the version is {VERSION}")


def _config(spec: TensorSpec) -> dict[str, Any]:
    """A tensor in Triton's model configuration, without the batch axis."""
    dims = [-1 if size is None else size for size in spec.shape[1:]]
    return {"name": spec.name, "data_type": f"TYPE_{DATATYPES[spec.dtype]}", "dims": dims}
