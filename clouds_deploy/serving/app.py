"""The ASGI application: every endpoint, wired together."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from clouds_deploy.errors import CloudsError
from clouds_deploy.inference.sam import UnfitImageError
from clouds_deploy.serving.access import Access
from clouds_deploy.serving.gate import Gate
from clouds_deploy.serving.kserve import KServe
from clouds_deploy.serving.lifetime import Lifetime
from clouds_deploy.serving.limits import Limits, Refusal, told
from clouds_deploy.serving.metrics import CONTENT_TYPE, Metrics
from clouds_deploy.serving.model import ServedModel
from clouds_deploy.serving.openapi import openapi
from clouds_deploy.serving.pictures import Pictures
from clouds_deploy.serving.promptable import Promptable
from clouds_deploy.serving.uploads import Workshop

_LOG = logging.getLogger("uvicorn.error")
PAGE = Path(__file__).parent / "page"
_FILES = {"/": "index.html", "/page.css": "page.css", "/page.js": "page.js", "/icon.svg": "icon.svg"}
_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob:"
_HINTS = {
    404: "GET /openapi.json lists what is served",
    405: "GET /openapi.json lists each path's methods",
}


def make_app(
    model: ServedModel,
    sam: Promptable | None,
    limits: Limits,
    metrics: Metrics,
    access: Access | None = None,
) -> Gate:
    """The application with all its endpoints.

    Args:
        model: The segmenter.
        sam: Answers clicks and refines labels, or None.
        limits: The bounds of the server.
        metrics: Shared by all.
        access: Who may ask.

    Returns:
        The ASGI application. Its lifespan warms the engines up before it opens, and finishes what is in
        their queues before it ends.
    """
    workshop = Workshop(limits)
    kserve = KServe(model, workshop)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        start = Lifetime(math.inf)
        await workshop.run(start, model.warm_up)
        if sam is not None:
            await workshop.run(start, sam.warm_up)
        gate.open = True
        metrics.ready.set(1)
        yield
        gate.open = False
        metrics.ready.set(0)
        model.close()
        if sam is not None:
            sam.close()
        workshop.close()

    async def render_metrics(_: Request) -> Response:
        return Response(metrics.render(), media_type=CONTENT_TYPE)

    description = JSONResponse(openapi(model, sam is not None, limits)).body

    async def describe(_: Request) -> Response:
        return Response(description, media_type="application/json")

    async def page(request: Request) -> Response:
        headers = {
            "Content-Security-Policy": _POLICY,
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-cache",
        }
        return FileResponse(PAGE / _FILES[request.url.path], headers=headers)

    app = Starlette(
        routes=[
            *(Route(path, page, methods=["GET"]) for path in _FILES),
            Route("/health", kserve.live, methods=["GET"]),
            Route("/ready", kserve.ready, methods=["GET"]),
            Route("/openapi.json", describe, methods=["GET"]),
            Route("/metrics", render_metrics, methods=["GET"]),
            *kserve.routes(),
            *Pictures(model, sam, workshop).routes(),
        ],
        lifespan=lifespan,
        exception_handlers={CloudsError: _refused, HTTPException: _http, Exception: _failed},
    )
    gate = Gate(app, limits, metrics, access, public=tuple(_FILES))
    kserve.gate = gate
    return gate


async def _refused(_: Request, error: Exception) -> Response:
    """The answer to a request that is not served; other errors are the image's fault, or the machine's."""
    assert isinstance(error, CloudsError)
    if not isinstance(error, Refusal):
        status = 422 if isinstance(error, UnfitImageError) else 503
        if status == 503:
            _LOG.error("a model failed", exc_info=error)
        error = Refusal(status, error.message, error.hint)
    return JSONResponse(error.body, error.status, error.headers)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    hint = _HINTS.get(error.status_code, "GET /openapi.json lists what is served")
    message = f"{request.method} {request.url.path[:200]}: {error.detail}"
    return JSONResponse(told(message, hint), error.status_code, error.headers)


async def _failed(_: Request, __: Exception) -> Response:
    """An answer to a fault of the server, without detail; Starlette raises it again, and the gate logs it."""
    return JSONResponse(told("the server failed on this request", "its log says why"), 500)
