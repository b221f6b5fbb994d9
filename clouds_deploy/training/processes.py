"""Training in several processes that share every batch: gradients are averaged by accelerate (DDP).

Without a launcher there is one process, and accelerate is not needed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from clouds_deploy.backends.device import resolve_device
from clouds_deploy.console import console
from clouds_deploy.errors import CloudsError

T = TypeVar("T")


class Processes:
    """The processes of one training. All of them compute; the first one writes.

    Attributes:
        count: Number of processes.
        rank: Number of this process, from 0.
        device: Device of this process.

    Args:
        device: Device of this process.
        accelerator: accelerate's `Accelerator`; None with one process.
    """

    def __init__(self, device: torch.device, accelerator: Any = None) -> None:
        self.device = device
        self.count = 1 if accelerator is None else int(accelerator.num_processes)
        self.rank = 0 if accelerator is None else int(accelerator.process_index)
        self._accelerator = accelerator

    @property
    def first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """Wraps a module in DDP, which averages its gradients over the processes."""
        return module if self._accelerator is None else self._accelerator.prepare(module)

    def alone(self, module: nn.Module) -> AbstractContextManager[Any]:
        """Context in which gradients of a wrapped module are not exchanged yet."""
        return nullcontext() if self._accelerator is None else self._accelerator.no_sync(module)

    def total(self, values: Tensor) -> Tensor:
        """Sum of a tensor, on any device, over the processes."""
        if self._accelerator is None:
            return values
        summed: Tensor = self._accelerator.reduce(values.to(self.device), reduction="sum")
        return summed.to(values.device)

    def gather(self, values: Tensor) -> Tensor:
        """Tensors of all processes, each (N, ...), in order of rank: (count * N, ...)."""
        if self._accelerator is None:
            return values
        together: Tensor = self._accelerator.gather(values)
        return together

    def wait(self) -> None:
        """Waits until all processes are here."""
        if self._accelerator is not None:
            self._accelerator.wait_for_everyone()

    def in_turn(self, do: Callable[[], T]) -> T:
        """Calls a function in all processes, in the first one before all others, and returns its result."""
        if not self.first:
            self.wait()
        done = do()
        if self.first:
            self.wait()
        return done

    def share(self, batch_size: int, accumulate: int) -> slice:
        """Images of a batch that this process computes.

        Raises:
            CloudsError: The batch cannot be cut into equal parts.
        """
        if batch_size % (self.count * accumulate):
            raise CloudsError(
                f"{batch_size} images do not divide among {self.count} processes x {accumulate} parts",
                "set train.batch_size to a multiple, or change train.accumulate",
            )
        size = batch_size // self.count
        return slice(self.rank * size, (self.rank + 1) * size)

    @contextmanager
    def one_voice(self) -> Iterator[None]:
        """Only the first process writes to the console meanwhile."""
        before = console().quiet
        console().quiet = before or not self.first
        try:
            yield
        finally:
            console().quiet = before


def open_processes(device: str = "auto", *, whole_model: bool) -> Processes:
    """Joins the processes that a launcher (`accelerate launch`, `torchrun`) started, if it did.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        whole_model: Whether more than the head is trained: a backbone may have parameters that no loss
            reaches, and DDP must look for them.

    Raises:
        CloudsError: There is no such device; accelerate is missing, or is told to do what this loop does not:
            FSDP, DeepSpeed.
    """
    own = torch.device(own_device(device))
    if _world_size() == 1:
        return Processes(own)
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs
    except ImportError as error:
        raise CloudsError(
            "training in several processes needs accelerate", "pip install 'clouds-deploy[distributed]'"
        ) from error
    options = DistributedDataParallelKwargs(find_unused_parameters=whole_model)
    accelerator = Accelerator(cpu=own.type == "cpu", mixed_precision="no", kwargs_handlers=[options])
    kind = accelerator.distributed_type.value
    if kind not in ("MULTI_GPU", "MULTI_CPU"):
        raise CloudsError(
            f"accelerate is set to {kind}, and this training knows DDP only",
            "launch with --multi_gpu, or with torchrun",
        )
    return Processes(accelerator.device, accelerator)


def own_device(device: str = "auto") -> str:
    """Device of this process, `cpu` or `cuda:N`; of several that a launcher started, each has its own GPU.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        CloudsError: There is no such device, or several processes are told to use one GPU.
    """
    chosen = resolve_device(device, "torch")
    if chosen == "cpu" or _world_size() == 1:
        return chosen
    if ":" in device:
        raise CloudsError(f"several processes cannot all train on {device}", "use --device cuda")
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def device_name(device: torch.device) -> str:
    """Name of a device for manifests: the GPU's product name, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))
