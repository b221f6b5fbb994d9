"""Buffers and a stream on one GPU, through NVIDIA's own bindings of the CUDA runtime; no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from clouds_deploy.bundles.tensors import Array
from clouds_deploy.errors import CloudsError, install


@dataclass
class Buffer:
    """Memory on a GPU.

    Attributes:
        address: Where it begins.
        shape: Of the array that it holds.
        dtype: Of the array that it holds, by NumPy's name.
    """

    address: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Bytes; at least one, for CUDA gives no address for none."""
        return max(1, int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize)


class Gpu:
    """One GPU: allocates, copies and waits on a stream of its own.

    Args:
        device: `cuda:N`, as CUDA counts.

    Raises:
        CloudsError: The bindings are not installed; there is no such device.
    """

    def __init__(self, device: str) -> None:
        try:
            from cuda.bindings import runtime
        except ImportError as error:
            raise CloudsError("TensorRT's engines need `cuda-bindings`", install("engines")) from error
        self._cuda: Any = runtime
        self._index = int(device.partition(":")[2] or 0)
        (count,) = self._done(runtime.cudaGetDeviceCount(), "count its devices")
        if self._index >= count:
            raise CloudsError(
                f"there is no device {device}: CUDA sees {count}",
                "choose another, or change CUDA_VISIBLE_DEVICES",
            )
        self.use()
        (self._stream,) = self._done(
            runtime.cudaStreamCreateWithFlags(runtime.cudaStreamNonBlocking), "make a stream"
        )

    def use(self) -> None:
        """Makes it the calling thread's device: CUDA keeps one for every thread."""
        self._done(self._cuda.cudaSetDevice(self._index), f"use cuda:{self._index}")

    @property
    def stream(self) -> int:
        """Handle of its stream."""
        return int(self._stream)

    def empty(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        """A buffer for an array."""
        buffer = Buffer(0, shape, dtype)
        (address,) = self._done(self._cuda.cudaMalloc(buffer.size), f"allocate {buffer.size} bytes")
        buffer.address = int(address)
        return buffer

    def write(self, array: Array, buffer: Buffer) -> None:
        """Copies an array there, behind what the stream does already; the array must stay until `wait`."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._done(
            self._cuda.cudaMemcpyAsync(buffer.address, array.ctypes.data, array.nbytes, kind, self._stream),
            "copy to the GPU",
        )

    def read(self, buffer: Buffer) -> Array:
        """Copies a buffer's array here, when the stream has come to it, and waits for that."""
        out = np.empty(buffer.shape, buffer.dtype)
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._done(
            self._cuda.cudaMemcpyAsync(out.ctypes.data, buffer.address, out.nbytes, kind, self._stream),
            "copy from the GPU",
        )
        self.wait()
        return out

    def wait(self) -> None:
        """Waits until the stream has done all it was given."""
        self._done(self._cuda.cudaStreamSynchronize(self._stream), "finish")

    def free(self, buffer: Buffer) -> None:
        """Releases a buffer."""
        if buffer.address:
            self._done(self._cuda.cudaFree(buffer.address), "free memory")
            buffer.address = 0

    def close(self) -> None:
        """Releases the stream."""
        if self._stream is not None:
            self._done(self._cuda.cudaStreamDestroy(self._stream), "end a stream")
            self._stream = None

    def _done(self, answer: tuple[Any, ...], what: str) -> tuple[Any, ...]:
        """The values of a call's answer.

        Raises:
            CloudsError: CUDA reports an error.
        """
        status, *values = answer
        if int(status) != 0:
            _, text = self._cuda.cudaGetErrorString(status)
            said = text.decode() if isinstance(text, bytes) else str(text)
            raise CloudsError(f"CUDA cannot {what}: {said}", "check the GPU and its memory: nvidia-smi")
        return tuple(values)
