"""The ASGI application: every endpoint, wired together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from clouds_deploy.serving.gate import Gate
from clouds_deploy.serving.kserve import KServe
from clouds_deploy.serving.limits import Limits, Refusal
from clouds_deploy.serving.metrics import CONTENT_TYPE, Metrics
from clouds_deploy.serving.model import ServedModel
from clouds_deploy.serving.pictures import Pictures
from clouds_deploy.serving.promptable import Promptable
from clouds_deploy.serving.uploads import Workshop

PAGE = Path(__file__).parent / "page"
_FILES = {"/": "index.html", "/page.css": "page.css", "/page.js": "page.js", "/icon.svg": "icon.svg"}
_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob:"
_HINTS = {
    404: "see docs/guides/serve.md for what there is",
    405: "use the method that docs/guides/serve.md names",
}


def make_app(model: ServedModel, sam: Promptable | None, limits: Limits, metrics: Metrics) -> Gate:
    """The application with all its endpoints.

    Args:
        model: The segmenter.
        sam: Answers clicks and refines labels, or None.
        limits: The bounds of the server.
        metrics: Shared by all.

    Returns:
        The ASGI application. Its lifespan warms the engines up before it opens, and finishes what is in
        their queues before it ends.
    """
    workshop = Workshop(limits)
    kserve = KServe(model, workshop)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await workshop.run(model.warm_up)
        if sam is not None:
            await workshop.run(sam.warm_up)
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
            Route("/metrics", render_metrics, methods=["GET"]),
            *kserve.routes(),
            *Pictures(model, sam, workshop).routes(),
        ],
        lifespan=lifespan,
        exception_handlers={Refusal: _refused, HTTPException: _http, Exception: _failed},
    )
    gate = Gate(app, limits, metrics)
    kserve.gate = gate
    return gate


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return JSONResponse(error.body, error.status, error.headers)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    hint = _HINTS.get(error.status_code, "see docs/guides/serve.md")
    told = f"{request.method} {request.url.path[:200]}: {error.detail}"
    return JSONResponse({"error": told, "hint": hint}, error.status_code, error.headers)


async def _failed(_: Request, __: Exception) -> Response:
    """An answer to a fault of the server, without detail; Starlette raises it again, and the gate logs it."""
    return JSONResponse({"error": "the server failed on this request", "hint": "its log says why"}, 500)
