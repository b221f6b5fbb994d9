"""`/v2`: the KServe inference protocol, for clients that send tensors."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from typing import Any

import numpy as np
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from clouds_deploy.serving.gate import Gate
from clouds_deploy.serving.limits import Refusal
from clouds_deploy.serving.model import ServedModel
from clouds_deploy.serving.tensors import HEADER_LENGTH, Inference, metadata, parse, render
from clouds_deploy.serving.uploads import Workshop

VERSION = "1"
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
            Route("/v2/health/live", self.live, methods=["GET"]),
            Route("/v2/health/ready", self.ready, methods=["GET"]),
        ]
        for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            routes += [
                Route(model, self.about, methods=["GET"]),
                Route(f"{model}/ready", self.ready, methods=["GET"]),
                Route(f"{model}/infer", self.infer, methods=["POST"]),
            ]
        return routes

    async def server(self, _: Request) -> Response:
        """Server metadata."""
        return JSONResponse(
            {
                "name": "clouds_deploy",
                "version": version("clouds-deploy"),
                "extensions": ["binary_tensor_data"],
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
                "platform": PLATFORMS.get(self.model.session.backend, self.model.session.backend),
                "inputs": [metadata(self.model.image)],
                "outputs": [metadata(spec) for spec in self.model.outputs],
            }
        )

    async def infer(self, request: Request) -> Response:
        """Inference on tensors; the images of a request may go through different calls."""
        self._check(request)
        try:
            body = await request.body()
        except ClientDisconnect as error:
            raise Refusal(400, "the request was cut off", "send it whole") from error
        length = request.headers.get(HEADER_LENGTH)
        inference: Inference = await self.workshop.run(
            lambda: parse(body, length, [self.model.image], self.model.outputs)
        )
        futures = self.model.submit(list(inference.inputs[self.model.image.name]))
        rows = await asyncio.gather(*map(asyncio.wrap_future, futures))

        def answer() -> tuple[bytes, dict[str, str]]:
            arrays: dict[str, Any] = {
                wanted.name: np.stack([row.result[wanted.name] for row in rows])
                for wanted in inference.outputs
            }
            return render(self.model.name, VERSION, inference, arrays)

        data, headers = await self.workshop.run(answer)
        return Response(data, headers=headers)

    def _check(self, request: Request) -> None:
        name, wanted = request.path_params["model"], request.path_params.get("version", VERSION)
        if name != self.model.name:
            raise Refusal(404, f"there is no model `{name[:100]}`", f"the model is `{self.model.name}`")
        if wanted != VERSION:
            raise Refusal(404, f"`{name}` has no version {wanted[:20]}", f"the version is {VERSION}")
