"""The C++ resizing and letterboxing against Pillow and the Python it was ported from: equal bytes."""

from __future__ import annotations

import ctypes
import hashlib
from typing import Any

import numpy as np
import PIL
import pytest
from PIL import Image

from clouds_deploy.inference.letterbox import fit

COLOR = (124, 116, 104)
PASSES_AS_13 = int(PIL.__version__.split(".")[0]) >= 13


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    return array.ctypes.data_as(ctypes.c_void_p)


def sizes(count: int, largest: int, seed: int) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(seed)
    drawn = [tuple(int(v) for v in np.exp(rng.uniform(0, np.log(largest), 4))) for _ in range(count)]
    for i in range(0, count, 5):  # one side as it was
        height, width, _, other = drawn[i]
        drawn[i] = (height, width, height, other)
    return drawn


def same_order(height: int, width: int, out_height: int, out_width: int) -> bool:
    """Whether this Pillow takes rows and columns in the order of 13."""
    lower, narrower = height - out_height, width - out_width
    return PASSES_AS_13 or not (lower > 0 and lower > 2 * narrower and narrower != 0)


@pytest.mark.parametrize("channels", [1, 3])
def test_bilinear_equals_pillow(internals: Any, channels: int) -> None:
    rng = np.random.default_rng(channels)
    compared = 0
    for height, width, out_height, out_width in sizes(500, 400, channels):
        if not same_order(height, width, out_height, out_width):
            continue
        shape = (height, width, 3) if channels == 3 else (height, width)
        image = rng.integers(0, 256, shape).astype(np.uint8)
        want = np.asarray(Image.fromarray(image).resize((out_width, out_height), Image.Resampling.BILINEAR))
        got = np.empty_like(want)
        internals.bilinear(pointer(image), height, width, channels, pointer(got), out_height, out_width)
        assert np.array_equal(want, got), (height, width, out_height, out_width)
        compared += 1
    assert compared > 350


def test_nearest_equals_pillow(internals: Any) -> None:
    rng = np.random.default_rng(3)
    for height, width, out_height, out_width in sizes(500, 1500, 3):
        labels = rng.integers(0, 256, (height, width)).astype(np.uint8)
        want = np.asarray(Image.fromarray(labels).resize((out_width, out_height), Image.Resampling.NEAREST))
        got = np.empty_like(want)
        internals.nearest(pointer(labels), height, width, pointer(got), out_height, out_width)
        assert np.array_equal(want, got), (height, width, out_height, out_width)


@pytest.mark.parametrize("graph", [(64, 128), (96, 96), (160, 64)])
def test_letterboxes_equal_those_of_python(internals: Any, graph: tuple[int, int]) -> None:
    rng = np.random.default_rng(4)
    shapes = [
        (1, 1),
        (1, 700),
        (700, 1),
        graph,
        (graph[0], 3),
        (3, graph[1]),
        (63, 127),
        (719, 1280),
        (300, 90),
    ]
    shapes += [tuple(int(v) for v in np.exp(rng.uniform(0, 6.5, 2))) for _ in range(60)]
    for height, width in shapes:
        image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        want, box = fit(image, *graph, COLOR)
        if not same_order(height, width, box.inner_height, box.inner_width):
            continue
        got, inner = np.empty_like(want), (ctypes.c_int * 2)()
        color = np.array(COLOR, np.uint8)
        internals.fit(pointer(image), height, width, pointer(color), pointer(got), *graph, inner)
        assert tuple(inner) == (box.inner_height, box.inner_width)
        assert np.array_equal(want, got), (height, width)
        labels = rng.integers(0, 19, graph).astype(np.uint8)
        restored = np.empty((height, width), np.uint8)
        internals.restore(pointer(labels), *graph, pointer(restored), height, width)
        assert np.array_equal(box.restore(labels), restored), (height, width)


@pytest.mark.parametrize("size", [0, 1, 55, 56, 63, 64, 65, 119, 120, 1000, 100_003])
def test_sha256_equals_hashlib(internals: Any, size: int) -> None:
    content = np.random.default_rng(size).bytes(size)
    for step in (1, 7, 64, 1000, 1 << 20):
        out = ctypes.create_string_buffer(65)
        internals.sha256(content, ctypes.c_size_t(size), ctypes.c_size_t(step), out)
        assert out.value.decode() == hashlib.sha256(content).hexdigest()
        if size > 5000:
            break
