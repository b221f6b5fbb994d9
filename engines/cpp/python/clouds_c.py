"""The C API bound with ctypes: how any language can use the library, and what the tests and the bench call.

library = load("build/cpp/libclouds.so")
with Segmenter(library, "bundles/a") as segmenter:
labels = segmenter.segment(image)
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
OK, REFUSED, FULL, FAULT = range(4)
RGB, BGR, RGBA, BGRA = range(4)


class Options(ctypes.Structure):
    """`clouds_options`."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("backend", ctypes.c_char_p),
        ("device", ctypes.c_char_p),
        ("threads", ctypes.c_int),
        ("precision", ctypes.c_char_p),
        ("vocabulary", ctypes.c_char_p),
        ("verify", ctypes.c_int),
        ("requests", ctypes.c_size_t),
        ("workers", ctypes.c_size_t),
        ("queue", ctypes.c_size_t),
        ("batch", ctypes.c_int),
        ("cuda_stream", ctypes.c_void_p),
    )


class Image(ctypes.Structure):
    """`clouds_image`."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("height", ctypes.c_int),
        ("width", ctypes.c_int),
        ("row_stride", ctypes.c_ssize_t),
        ("format", ctypes.c_int),
    )


class Map(ctypes.Structure):
    """`clouds_map`."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("height", ctypes.c_int),
        ("width", ctypes.c_int),
        ("row_stride", ctypes.c_ssize_t),
    )


DONE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p)


class Refused(Exception):
    """A status other than `CLOUDS_OK`."""

    def __init__(self, status: int, message: str, hint: str) -> None:
        super().__init__(message)
        self.status, self.message, self.hint = status, message, hint


def load(path: Path | str) -> Any:
    """Load libclouds.so."""
    library = ctypes.CDLL(str(path))
    for name in ("version", "backends", "message", "hint", "segmenter_class", "segmenter_backend"):
        getattr(library, f"clouds_{name}").restype = ctypes.c_char_p
    library.clouds_segmenter_classes.restype = ctypes.c_size_t
    library.clouds_segmenter_class.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    for name in ("close", "size", "has_scores", "classes", "backend"):
        getattr(library, f"clouds_segmenter_{name}").argtypes = [ctypes.c_void_p] + 2 * (name == "size") * [
            ctypes.POINTER(ctypes.c_int)
        ]
    for name in ("clouds_submit", "clouds_try_submit"):
        getattr(library, name).argtypes = [
            *4 * [ctypes.c_void_p],
            DONE,
            ctypes.c_void_p,
        ]
    library.clouds_sam_size.argtypes = [ctypes.c_void_p, *2 * [ctypes.POINTER(ctypes.c_int)]]
    library.clouds_sam_embed.argtypes = 3 * [ctypes.c_void_p]
    library.clouds_sam_prompt.argtypes = [
        *4 * [ctypes.c_void_p],
        *2 * [ctypes.c_size_t],
        *2 * [ctypes.c_void_p],
    ]
    library.clouds_sam_mask.argtypes = 4 * [ctypes.c_void_p]
    for name in ("clouds_sam_close", "clouds_embedding_free"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    library.clouds_segment.argtypes = [*4 * [ctypes.c_void_p], ctypes.c_size_t]
    library.clouds_segment_on_device.argtypes = [
        *3 * [ctypes.c_void_p],
        ctypes.c_size_t,
        *2 * [ctypes.c_void_p],
    ]
    library.clouds_self_test.argtypes = [ctypes.c_void_p, *2 * [ctypes.POINTER(ctypes.c_double)]]
    return library


def image_of(array: Picture, form: int = RGB) -> Image:
    """View an array (H, W, 3) uint8 whose rows may lie apart."""
    return Image(array.ctypes.data, array.shape[0], array.shape[1], array.strides[0], form)


def map_of(array: Picture) -> Map:
    """View an array (H, W) uint8 whose rows may lie apart."""
    return Map(array.ctypes.data, array.shape[0], array.shape[1], array.strides[0])


def options_of(library: Any, options: dict[str, Any]) -> Options:
    """Give the defaults with some changed."""
    chosen = Options()
    library.clouds_options_default(ctypes.byref(chosen))
    for name, value in options.items():
        setattr(chosen, name, value.encode() if isinstance(value, str) else value)
    return chosen


def check(library: Any, status: int) -> None:
    """Raise what a call said was wrong."""
    if status != OK:
        raise Refused(status, library.clouds_message().decode(), library.clouds_hint().decode())


class Sam:
    """`clouds_sam`."""

    def __init__(self, library: Any, bundle: Path | str, **options: Any) -> None:
        self._library, self._handle = library, ctypes.c_void_p()
        chosen = options_of(library, options)
        path = str(bundle).encode()
        check(library, library.clouds_sam_open(path, ctypes.byref(chosen), ctypes.byref(self._handle)))
        size, low = ctypes.c_int(), ctypes.c_int()
        library.clouds_sam_size(self._handle, size, low)
        self.size, self.mask_size = size.value, low.value

    def embed(self, image: Picture) -> tuple[ctypes.c_void_p, tuple[int, int]]:
        """Encode an image; hand what comes to `free`."""
        seen = ctypes.c_void_p()
        status = self._library.clouds_sam_embed(
            self._handle, ctypes.byref(image_of(image)), ctypes.byref(seen)
        )
        check(self._library, status)
        return seen, (image.shape[0], image.shape[1])

    def prompt(
        self, seen: tuple[ctypes.c_void_p, tuple[int, int]], points: Any, labels: Any
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Propose masks for points (P, N, 2) and labels (P, N)."""
        points = np.ascontiguousarray(points, np.float64)
        labels = np.ascontiguousarray(labels, np.int32)
        logits = np.empty((len(points), 3, self.mask_size, self.mask_size), np.float32)
        iou = np.empty((len(points), 3), np.float32)
        arrays = (points.ctypes.data, labels.ctypes.data, *points.shape[:2])
        call = self._library.clouds_sam_prompt
        check(self._library, call(self._handle, seen[0], *arrays, logits.ctypes.data, iou.ctypes.data))
        return logits, iou

    def mask(self, seen: tuple[ctypes.c_void_p, tuple[int, int]], logits: Any) -> Picture:
        """Bring one proposal's logits to the image's size."""
        low, out = np.ascontiguousarray(logits, np.float32), np.empty(seen[1], np.uint8)
        view = map_of(out)
        check(
            self._library,
            self._library.clouds_sam_mask(self._handle, seen[0], low.ctypes.data, ctypes.byref(view)),
        )
        return out

    def free(self, seen: tuple[ctypes.c_void_p, tuple[int, int]]) -> None:
        """Let go of an embedding."""
        self._library.clouds_embedding_free(seen[0])

    def close(self) -> None:
        """Let go of both graphs."""
        self._library.clouds_sam_close(self._handle)


class Segmenter:
    """`clouds_segmenter`."""

    def __init__(self, library: Any, bundle: Path | str, **options: Any) -> None:
        self._library, self._handle = library, ctypes.c_void_p()
        chosen = options_of(library, options)
        path = str(bundle).encode()
        self._check(library.clouds_segmenter_open(path, ctypes.byref(chosen), ctypes.byref(self._handle)))
        height, width = ctypes.c_int(), ctypes.c_int()
        library.clouds_segmenter_size(self._handle, height, width)
        self.height, self.width = height.value, width.value
        count = library.clouds_segmenter_classes(self._handle)
        self.classes = [library.clouds_segmenter_class(self._handle, i).decode() for i in range(count)]
        self.backend = library.clouds_segmenter_backend(self._handle).decode()

    def _check(self, status: int) -> None:
        check(self._library, status)

    def segment(self, image: Picture, labels: Picture | None = None, trust: Picture | None = None) -> Picture:
        """Label one image."""
        out = np.empty(image.shape[:2], np.uint8) if labels is None else labels
        sure = None if trust is None else ctypes.byref(map_of(trust))
        self._check(
            self._library.clouds_segment(
                self._handle, ctypes.byref(image_of(image)), ctypes.byref(map_of(out)), sure, 1
            )
        )
        return out

    def segment_batch(self, images: Sequence[Picture]) -> list[Picture]:
        """Label images in one inference."""
        out = [np.empty(image.shape[:2], np.uint8) for image in images]
        views = (Image * len(images))(*map(image_of, images))
        maps = (Map * len(images))(*map(map_of, out))
        self._check(self._library.clouds_segment(self._handle, views, maps, None, len(images)))
        return out

    def submit(self, image: Picture, labels: Picture, done: Any, *, wait: bool = True) -> None:
        """Queue one image; `done` is a `DONE` that has to live until it is called, as the arrays have to."""
        call = self._library.clouds_submit if wait else self._library.clouds_try_submit
        view, out = image_of(image), map_of(labels)
        self._check(call(self._handle, ctypes.byref(view), ctypes.byref(out), None, done, None))

    def self_test(self) -> tuple[float, float]:
        """Give the agreement on the bundle's own images, and the limit."""
        agreement, limit = ctypes.c_double(), ctypes.c_double()
        self._check(self._library.clouds_self_test(self._handle, agreement, limit))
        return agreement.value, limit.value

    def close(self) -> None:
        """Wait for what was submitted, and let go."""
        self._library.clouds_segmenter_close(self._handle)
        self._handle = ctypes.c_void_p()

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
