"""Uploads: forms with images in them, from clients that are not trusted."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from clouds_deploy.bundles.tensors import Array
from clouds_deploy.data.images import decode_image, decode_label_ids, measure_image
from clouds_deploy.errors import CloudsError
from clouds_deploy.inference.sam import Picture
from clouds_deploy.labels import IGNORE
from clouds_deploy.serving.budget import Budget
from clouds_deploy.serving.lifetime import Lifetime
from clouds_deploy.serving.limits import Limits, Refusal

T = TypeVar("T")
_FIELDS = 8
_LONG_TEXT = 2**20
"""Bytes of JSON above which a request counts as large."""


@dataclass(frozen=True)
class Upload:
    """An image that was sent; only its header was read.

    Attributes:
        data: The file's bytes.
        height: What its header says.
        width: What its header says.
    """

    data: bytes
    height: int
    width: int


class Workshop:
    """Decodes and encodes images in a few threads, within a bounded number of pixels.

    Large images wait for each other, and leave a thread to the others.

    Args:
        limits: The bounds.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._pixels, self._large = Budget(limits.held_pixels), Budget(limits.large_at_once)
        self._bytes = Budget(limits.answer_bytes)
        self._threads = ThreadPoolExecutor(limits.workers, thread_name_prefix="pictures")

    async def run(self, life: Lifetime, work: Callable[[], T]) -> T:
        """Runs CPU work for a request off the event loop."""
        result: T = await life.result(self._threads.submit(work))
        return result

    async def room(self, life: Lifetime, *uploads: Upload) -> None:
        """Waits until there is memory for decoded images; it is held until the request's end."""
        pixels = sum(one.height * one.width for one in uploads)
        large = pixels > self.limits.large_pixels
        await life.hold(self._large.take(1) if large else self._pixels.take(pixels))

    @asynccontextmanager
    async def parsing(self, size: int) -> AsyncIterator[None]:
        """Holds the memory of parsed JSON of a size in bytes, which may be several times the text's.

        Long texts wait for each other, and for large images, not before short ones.
        """
        large = size > _LONG_TEXT
        async with self._large.take(1) if large else self._bytes.take(size):
            yield

    async def answering(self, life: Lifetime, size: int) -> None:
        """Waits until there is memory for an answer of a size in bytes; it is held until it is sent."""
        await life.hold(self._bytes.take(size))

    def image(self, upload: Upload) -> Picture:
        """An upload as (H, W, 3) uint8 RGB; to be called through `run`.

        Raises:
            Refusal: 422, the image is damaged.
        """
        return _told(lambda: decode_image(upload.data, "`image`"))

    def train_ids(self, upload: Upload, classes: int) -> Picture:
        """An upload as (H, W) uint8 train ids; to be called through `run`.

        Args:
            upload: The label map.
            classes: Number of classes.

        Raises:
            Refusal: 422, it is damaged, or no map of train ids.
        """
        ids = _told(lambda: decode_label_ids(upload.data, "`labels`"))
        strange = [int(i) for i in np.unique(ids) if i >= classes and i != IGNORE]
        if strange:
            raise Refusal(
                422,
                f"`labels` holds {', '.join(map(str, strange[:5]))}, which are no train ids",
                f"send train ids 0..{classes - 1}, and {IGNORE} where there is none",
            )
        return ids

    def close(self) -> None:
        """Ends the threads."""
        self._threads.shutdown()


async def read_body(request: Request) -> bytes:
    """A request's body; its length is the gate's business.

    Raises:
        Refusal: 400, it was cut off.
    """
    try:
        return await request.body()
    except ClientDisconnect as error:
        raise Refusal(400, "the request was cut off", "send it whole") from error


@asynccontextmanager
async def read_form(request: Request) -> AsyncIterator[FormData]:
    """A multipart form; its length is the gate's business.

    Raises:
        Refusal: 415, it is no form; 400, it is a broken one.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise Refusal(415, f"the request is {kind[:80] or 'of no type'}", "send multipart/form-data")
    try:
        form = await request.form(max_files=_FIELDS, max_fields=_FIELDS, max_part_size=2**16)
    except HTTPException as error:
        raise Refusal(400, f"the form cannot be read: {error.detail}", "send multipart/form-data") from error
    except ClientDisconnect as error:
        raise Refusal(400, "the request was cut off", "send it whole") from error
    try:
        yield form
    finally:
        await form.close()


async def read_upload(form: FormData, name: str, limits: Limits) -> Upload:
    """An image of a form, with the size that its header states.

    Raises:
        Refusal: 422, it is not there or no image; 413, it has too many pixels.
    """
    value = form.get(name)
    if not isinstance(value, UploadFile):
        raise Refusal(422, f"the form has no file `{name}`", f"send an image as `{name}`")
    data = await value.read()
    height, width = _told(lambda: measure_image(data, f"`{name}`"))
    if height * width > limits.pixels:
        raise Refusal(
            413, f"`{name}` has more than {limits.pixels} pixels", "send a smaller image; nothing was decoded"
        )
    return Upload(data, height, width)


def read_points(form: FormData, limits: Limits) -> tuple[Array, Array]:
    """Clicks of a form.

    Returns:
        (N, 2) float64 x and y in pixels, and (N,) labels: 1 on the object, 0 off it.

    Raises:
        Refusal: 422, they are not there, too many, or none is on the thing.
    """
    shape = "send `points` as JSON: [[x, y, 1], [x, y, 0]], in pixels, 1 on the thing and 0 off it"
    text = form.get("points")
    if not isinstance(text, str):
        raise Refusal(422, "the form has no field `points`", shape)
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refusal(422, "`points` is not JSON", shape) from error
    if not isinstance(given, list) or not all(_is_point(point) for point in given):
        raise Refusal(422, "`points` is no list of [x, y, label]", shape)
    if not 0 < len(given) <= limits.points:
        raise Refusal(422, f"`points` holds {len(given)}", f"send 1 to {limits.points}")
    values = np.array(given, np.float64)
    if not (values[:, 2] == 1).any():
        raise Refusal(422, "no point is on the thing", "send at least one with label 1")
    return values[:, :2], values[:, 2]


def _is_point(point: Any) -> bool:
    return (
        isinstance(point, list)
        and len(point) == 3
        and all(type(value) in (int, float) and abs(value) < 1e9 for value in point)
        and point[2] in (0, 1)
    )


def _told(work: Callable[[], T]) -> T:
    try:
        return work()
    except CloudsError as error:
        raise Refusal(422, error.message, error.hint) from error
    except MemoryError as error:
        raise Refusal(413, "the image needs more memory than there is", "send a smaller one") from error
