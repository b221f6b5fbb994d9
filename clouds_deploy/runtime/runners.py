"""Who does units of work: this process, or a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from clouds_deploy.data.units import Unit
from clouds_deploy.errors import CloudsError, nearest
from clouds_deploy.runtime.results import Results, Work
from clouds_deploy.runtime.spread import Failed, Runner, do_unit, run_here


def load_runner(name: str) -> Runner:
    """Give a runner by its name.

    Raises:
        CloudsError: There is none of that name, or its package is missing.
    """
    runners: dict[str, Runner] = {"local": run_here, "ray": run_on_ray}
    if name not in runners:
        raise CloudsError(f"there is no runner `{name}`", nearest(name, runners))
    if name == "ray":
        _ray()
    return runners[name]


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise CloudsError("--runner ray needs Ray", 'pip install "clouds-deploy[ray]"') from error
    return ray


class Worker:
    """Does units in a process of its own; the model is loaded with the first one and stays.

    Args:
        work: What to do.
        results: Where the results go.
    """

    def __init__(self, work: Work, results: Results) -> None:
        self.work, self.results = work, results

    def do(self, unit: Unit) -> dict[str, Any] | Failed | CloudsError:
        """Do one; an error a user can act on comes back as a value, for Ray would wrap it."""
        try:
            return do_unit(self.work, unit, self.results)
        except CloudsError as error:
            return error


def run_on_ray(work: Work, units: Sequence[Unit], results: Results) -> Iterator[dict[str, Any] | Failed]:
    """Do units on the machines of a Ray cluster, one worker a GPU, or a CPU core where there are none.

    A worker that dies is started again, and does its unit again, to the same files. Inputs and outputs must
    be where every machine can reach them.

    Raises:
        CloudsError: Ray is missing; results cannot be written.
    """
    ray = _ray()
    if not units:
        return
    if not ray.is_initialized():
        ray.init(address=None, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    found = ray.cluster_resources()
    gpus, cores = int(found.get("GPU", 0)), int(found.get("CPU", 1))
    options: dict[str, Any] = {"num_gpus": 1} if gpus else {"num_cpus": 1}
    remote = ray.remote(max_restarts=-1, max_task_retries=-1, **options)(Worker)
    workers = [remote.remote(work, results) for _ in range(max(1, min(gpus or cores, len(units))))]
    left = list(units)
    running = {worker.do.remote(left.pop(0)): worker for worker in workers}
    try:
        while running:
            (ready, *_), _ = ray.wait(list(running), num_returns=1)
            worker = running.pop(ready)
            outcome = ray.get(ready)
            if isinstance(outcome, CloudsError):
                raise outcome
            if left:
                running[worker.do.remote(left.pop(0))] = worker
            yield outcome
    finally:
        for worker in workers:
            ray.kill(worker)
