"""Stand-ins for TensorRT and CUDA's runtime, a few lines of our own: what they show is that the session calls
them in the right order with the right addresses and shapes, and no more. Nothing here computes on a GPU.

"Device" memory is memory of this process that only the stub's calls may touch; streams keep their work until
somebody waits, so that a read before a wait would see old bytes.
"""

from __future__ import annotations

import ctypes
import sys
import types
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import numpy as np
import pytest


class Runtime(types.ModuleType):
    """`cuda.bindings.runtime` of a machine with some GPUs."""

    class cudaMemcpyKind(IntEnum):
        cudaMemcpyHostToDevice = 1
        cudaMemcpyDeviceToHost = 2

    cudaStreamNonBlocking = 1

    def __init__(self, gpus: int = 2) -> None:
        super().__init__("cuda.bindings.runtime")
        self.gpus, self.current = gpus, -1
        self.memory: dict[int, tuple[Any, int]] = {}
        self.queues: dict[int, list[Callable[[], None]]] = {}

    def cudaGetDeviceCount(self) -> tuple[int, int]:
        return 0, self.gpus

    def cudaSetDevice(self, index: int) -> tuple[int]:
        self.current = index
        return (0 if index < self.gpus else 101,)

    def cudaGetErrorString(self, status: int) -> tuple[int, bytes]:
        return 0, f"error {status}".encode()

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, int]:
        assert flags == self.cudaStreamNonBlocking
        stream = 1000 + len(self.queues)
        self.queues[stream] = []
        return 0, stream

    def cudaMalloc(self, size: int) -> tuple[int, int]:
        buffer = ctypes.create_string_buffer(size)
        address = ctypes.addressof(buffer)
        self.memory[address] = (buffer, self.current)
        return 0, address

    def cudaFree(self, address: int) -> tuple[int]:
        del self.memory[address]
        return (0,)

    def cudaMemcpyAsync(self, to: int, of: int, size: int, kind: int, stream: int) -> tuple[int]:
        device = to if kind == self.cudaMemcpyKind.cudaMemcpyHostToDevice else of
        assert device in self.memory, "no memory of the device"
        self.queues[stream].append(lambda: ctypes.memmove(to, of, size) and None)
        return (0,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        while self.queues[stream]:
            self.queues[stream].pop(0)()
        return (0,)

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:
        del self.queues[stream]
        return (0,)


def tensorrt(runtime: Runtime, most: int = 4) -> types.ModuleType:
    """A `tensorrt` whose one engine labels each pixel with its brightest channel; up to `most` images."""
    trt = types.ModuleType("tensorrt")

    class Mode(IntEnum):
        INPUT = 1
        OUTPUT = 2

    class Context:
        def __init__(self) -> None:
            self.shape: tuple[int, ...] = ()
            self.addresses: dict[str, int] = {}

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            assert name == "image"
            self.shape = shape
            return shape[0] <= most

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return self.shape if name == "image" else self.shape[:3]

        def set_tensor_address(self, name: str, address: int) -> bool:
            assert runtime.memory[address][1] == runtime.current, "another GPU's memory"
            self.addresses[name] = address
            return True

        def execute_async_v3(self, stream: int) -> bool:
            shape, addresses = self.shape, dict(self.addresses)

            def work() -> None:
                pixels = np.prod(shape)
                source = (ctypes.c_uint8 * int(pixels)).from_address(addresses["image"])
                labels = np.frombuffer(source, np.uint8).reshape(shape).argmax(-1).astype(np.uint8)
                ctypes.memmove(addresses["labels"], labels.ctypes.data, labels.nbytes)

            runtime.queues[stream].append(work)
            return True

    class Engine:
        num_io_tensors = 2

        def get_tensor_name(self, index: int) -> str:
            return ("image", "labels")[index]

        def get_tensor_mode(self, name: str) -> Mode:
            return Mode.INPUT if name == "image" else Mode.OUTPUT

        def get_tensor_dtype(self, name: str) -> str:
            return "uint8"

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return (-1, 4, 6, 3) if name == "image" else (-1, 4, 6)

        def create_execution_context(self) -> Context:
            return Context()

    class TheirRuntime:
        def __init__(self, log: object) -> None:
            self.engine_host_code_allowed = False

        def deserialize_cuda_engine(self, data: bytes) -> Engine | None:
            if data == b"with host code":
                return Engine() if self.engine_host_code_allowed else None
            return Engine() if data == b"an engine" else None

    class Logger:
        ERROR = 1

        def __init__(self, severity: int) -> None:
            assert severity == self.ERROR

    trt.Runtime, trt.Logger, trt.TensorIOMode = TheirRuntime, Logger, Mode  # type: ignore[attr-defined]
    trt.nptype = np.dtype  # type: ignore[attr-defined]
    return trt


def install(patch: pytest.MonkeyPatch, gpus: int = 2) -> Runtime:
    """Puts both in the place of the packages."""
    runtime = Runtime(gpus)
    bindings = types.ModuleType("cuda.bindings")
    bindings.runtime = runtime  # type: ignore[attr-defined]
    patch.setitem(sys.modules, "cuda", types.ModuleType("cuda"))
    patch.setitem(sys.modules, "cuda.bindings", bindings)
    patch.setitem(sys.modules, "cuda.bindings.runtime", runtime)
    patch.setitem(sys.modules, "tensorrt", tensorrt(runtime))
    return runtime
