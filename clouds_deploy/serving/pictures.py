"""`/v1`: images in, labels out."""

from __future__ import annotations

import base64
import hashlib
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
import numpy as np
from PIL import Image
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from clouds_deploy.data.overlay import overlay, shares
from clouds_deploy.inference.letterbox import Letterbox, fit
from clouds_deploy.inference.sam import Picture
from clouds_deploy.serving.batcher import Done
from clouds_deploy.serving.lifetime import lifetime
from clouds_deploy.serving.limits import Refusal
from clouds_deploy.serving.model import ServedModel
from clouds_deploy.serving.promptable import Found, Promptable
from clouds_deploy.serving.uploads import Upload, Workshop, read_form, read_points, read_upload

KINDS = {"labels": "image/png", "overlay": "image/jpeg", "json": "application/json"}
"""The values of `?as=`, and their media types."""
JPEG_SIDE = 65_500
"""Longest side of a JPEG, by its library."""


@dataclass
class Laps:
    """Where a request's time went, sent as the header `Server-Timing`, which browsers show.

    Attributes:
        milliseconds: By stage.
        batch: Images in the same call.
    """

    start: float = field(default_factory=time.perf_counter)
    milliseconds: dict[str, float] = field(default_factory=dict)
    batch: int = 1

    def add(self, stage: str, since: float) -> float:
        """Records a stage that ends now, and returns the time."""
        now = time.perf_counter()
        self.milliseconds[stage] = 1e3 * (now - since)
        return now

    def engine(self, done: Done[Any]) -> None:
        """Records a call of the backend."""
        self.milliseconds["queue"], self.milliseconds["engine"] = 1e3 * done.waited, 1e3 * done.ran
        self.batch = done.batch

    def headers(self) -> dict[str, str]:
        """The header."""
        self.add("total", self.start)
        told = [f"{name};dur={value:.2f}" for name, value in self.milliseconds.items()]
        return {"Server-Timing": ", ".join([*told, f"batch;dur={self.batch}"])}


class Pictures:
    """The endpoints of `/v1`.

    Args:
        model: The segmenter.
        sam: Answers clicks and refines labels; None serves neither.
        workshop: Where pictures are decoded and encoded.
    """

    def __init__(self, model: ServedModel, sam: Promptable | None, workshop: Workshop) -> None:
        self.model, self.sam, self.workshop = model, sam, workshop
        self._example: bytes | None = None
        self._once = anyio.Lock()

    def routes(self) -> list[Route]:
        """The routes."""
        return [
            Route("/v1/model", self.about, methods=["GET"]),
            Route("/v1/example", self.example, methods=["GET"]),
            Route("/v1/segment", self.segment, methods=["POST"]),
            Route("/v1/refine", self.refine, methods=["POST"]),
            Route("/v1/points", self.points, methods=["POST"]),
        ]

    async def about(self, _: Request) -> Response:
        """What is served: the page asks for it first."""
        model, limits = self.model, self.workshop.limits
        return JSONResponse(
            {
                "model": model.name,
                "backend": model.session.backend,
                "device": model.session.device,
                "precision": model.bundle.precision,
                "height": model.bundle.height,
                "width": model.bundle.width,
                "random_weights": bool(model.bundle.facts.get("random_weights")),
                "classes": model.classes(),
                "sam": self.sam.name if self.sam else None,
                "limits": {"bytes": limits.body_bytes, "pixels": limits.pixels, "seconds": limits.seconds},
            }
        )

    async def example(self, request: Request) -> Response:
        """The first image that is packed with the bundle."""
        life = lifetime(request)
        async with self._once:  # many who ask at once cost what one costs
            if self._example is None:
                name, bundle = self.model.image.name, self.model.bundle
                self._example = await self.workshop.run(life, lambda: encode(bundle.reference()[name][0]))
        return _png(self._example)

    async def segment(self, request: Request) -> Response:
        """Labels of an image."""
        kind, laps, life = wanted(request, "labels", tuple(KINDS)), Laps(), lifetime(request)
        async with read_form(request) as form:
            upload = await read_upload(form, "image", self.workshop.limits)
        if kind == "overlay" and max(upload.height, upload.width) > JPEG_SIDE:
            raise Refusal(
                422,
                f"an overlay of {upload.width} x {upload.height} pixels is too long for a JPEG",
                f"ask for `?as=labels`, or send an image of at most {JPEG_SIDE} pixels a side",
            )
        at = laps.add("receive", laps.start)
        await self.workshop.room(life, upload)
        image, fitted, box = await self.workshop.run(life, lambda: self._fit(upload, kind == "overlay"))
        laps.add("decode", at)
        labels, at = await self._label(fitted, laps)
        if kind == "json":
            shown = await self.workshop.run(life, lambda: self._shares(box.restore(labels)))
            body = {"model": self.model.name, "height": box.height, "width": box.width, "classes": shown}
            return JSONResponse(body, headers=laps.headers())
        if kind == "overlay" and image is not None:
            shot = image
            classes = self.model.bundle.label_set
            data = await self.workshop.run(
                life, lambda: encode(overlay(shot, box.restore(labels), classes=classes), "JPEG")
            )
            laps.add("encode", at)
            return Response(data, media_type=KINDS["overlay"], headers=laps.headers())
        data = await self.workshop.run(life, lambda: encode(box.restore(labels)))
        laps.add("encode", at)
        return _png(data, laps)

    async def refine(self, request: Request) -> Response:
        """A refined label map, the caller's or, where none is sent, the model's own."""
        sam, laps, life = self._sam(), Laps(), lifetime(request)
        async with read_form(request) as form:
            upload = await read_upload(form, "image", self.workshop.limits)
            own = "labels" not in form
            given = None if own else await read_upload(form, "labels", self.workshop.limits)
        if given and sorted((given.height, given.width)) != sorted((upload.height, upload.width)):
            raise _differ((upload.height, upload.width), (given.height, given.width))
        at = laps.add("receive", laps.start)
        await self.workshop.room(life, upload, *([given] if given else []))
        image, fitted, box = await self.workshop.run(life, lambda: self._fit(upload, True))
        assert image is not None
        at = laps.add("decode", at)
        if given:
            map_file, known = given, self.model.bundle.label_set.count
            labels = await self.workshop.run(life, lambda: self.workshop.train_ids(map_file, known))
        else:
            labels = box.restore((await self._label(fitted, laps))[0])
        if image.shape[:2] != labels.shape:  # only now: an EXIF orientation may turn the image
            raise _differ(image.shape, labels.shape)
        laps.add("label", at)
        done: Done[Picture] = await life.result(sam.refine(image, labels, life))
        laps.engine(done)
        at = time.perf_counter()
        data = await self.workshop.run(life, lambda: encode(done.result))
        laps.add("encode", at)
        return _png(data, laps)

    async def points(self, request: Request) -> Response:
        """The mask of the object that was clicked."""
        sam, kind, laps = self._sam(), wanted(request, "labels", ("labels", "json")), Laps()
        life = lifetime(request)
        async with read_form(request) as form:
            upload = await read_upload(form, "image", self.workshop.limits)
            points, labels = read_points(form, self.workshop.limits)
        at = laps.add("receive", laps.start)
        await self.workshop.room(life, upload)
        key = hashlib.sha256(upload.data).hexdigest()
        image = None
        if not sam.knows(key):
            image = await self.workshop.run(life, lambda: self.workshop.image(upload))
            laps.add("decode", at)

        def decoded() -> Picture:
            return self.workshop.image(upload) if image is None else image

        done: Done[Found] = await life.result(sam.points(key, decoded, points, labels, life))
        laps.engine(done)
        found = done.result
        at = time.perf_counter()
        data = await self.workshop.run(life, lambda: encode(np.where(found.mask, 255, 0).astype(np.uint8)))
        laps.add("encode", at)
        about = {"iou": round(found.iou, 4), "share": round(float(found.mask.mean()), 6)}
        if kind == "json":
            mask = base64.b64encode(data).decode()
            body = {"sam": sam.name, **about, "mask_png": mask}
            return JSONResponse(body, headers=laps.headers())
        response = _png(data, laps)
        response.headers["X-Mask"] = f"iou={about['iou']}, share={about['share']}"
        return response

    def _sam(self) -> Promptable:
        if self.sam is None:
            raise Refusal(404, "this server has no SAM", "start it with --sam sam_tiny")
        return self.sam

    def _fit(self, upload: Upload, keep: bool) -> tuple[Picture | None, Picture, Letterbox]:
        image = self.workshop.image(upload)
        bundle = self.model.bundle
        fitted, box = fit(image, bundle.height, bundle.width, bundle.mean_color)
        return image if keep else None, fitted, box

    async def _label(self, fitted: Picture, laps: Laps) -> tuple[Picture, float]:
        """Labels of the graph's size, and the time."""
        (done,) = await self.model.answer([fitted])
        laps.engine(done)
        return done.result[self.model.outputs[0].name], time.perf_counter()

    def _shares(self, labels: Picture) -> list[dict[str, Any]]:
        known = {one["id"]: one for one in self.model.classes()}
        return [{**known[i], "share": round(share, 6)} for i, share in shares(labels) if i in known]


def _differ(image: Sequence[int], labels: Sequence[int]) -> Refusal:
    sizes = " and ".join(f"{size[1]} x {size[0]}" for size in (image, labels))
    return Refusal(422, f"`image` and `labels` differ: {sizes} pixels", "send them of one size")


def wanted(request: Request, usual: str, kinds: tuple[str, ...]) -> str:
    """The kind of answer a client wants: `?as=` first, then the first of `Accept` that there is.

    Raises:
        Refusal: 406, there is no such thing.
    """
    asked = request.query_params.get("as")
    known = ", ".join(f"?as={kind}" for kind in kinds)
    if asked is not None:
        if asked not in kinds:
            raise Refusal(406, f"there is no `as={asked[:40]}`", f"known: {known}")
        return asked
    types = [part.partition(";")[0].strip() for part in request.headers.get("accept", "*/*").split(",")]
    for name in types:
        for kind in kinds:
            if name == KINDS[kind]:
                return kind
        if name in ("*/*", "image/*", ""):
            return usual
    raise Refusal(406, f"there is no answer of type {', '.join(types)[:80]}", f"ask for {known}")


def encode(pixels: Picture, form: str = "PNG") -> bytes:
    """An encoded image.

    Args:
        pixels: (H, W) or (H, W, 3) uint8.
        form: `PNG` or `JPEG`.
    """
    buffer = io.BytesIO()
    settings: dict[str, Any] = {"compress_level": 3} if form == "PNG" else {"quality": 90}
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, form, **settings)
    return buffer.getvalue()


def _png(data: bytes, laps: Laps | None = None) -> Response:
    return Response(data, media_type="image/png", headers=laps.headers() if laps else None)
