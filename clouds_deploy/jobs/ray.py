"""Runners of a job by name: this process, or a Ray cluster."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from clouds_deploy.errors import CloudsError, install, nearest
from clouds_deploy.jobs.results import Failed, Record, Results, Work
from clouds_deploy.jobs.run import Runner, do_unit, run_here
from clouds_deploy.telemetry import load_ray

_DEATHS = 4
"""Workers that may die on the same unit."""


def load_runner(name: str) -> Runner:
    """Finds a runner by its name.

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
        return load_ray()
    except ImportError as error:
        raise CloudsError("--runner ray needs Ray", install("ray")) from error


class Worker:
    """Processes units in a process of its own; the model is loaded with the first one and stays.

    Args:
        work: What to do with each.
        results: Where the results go.
    """

    def __init__(self, work: Work, results: Results) -> None:
        self.work, self.results = work, results

    def ready(self) -> None:
        """Returns as soon as there is a machine for it."""

    def do(self, unit: Any) -> Record | Failed | CloudsError:
        """Processes one; an error that a user can act on is returned, as Ray would wrap a raised one."""
        try:
            return do_unit(self.work, unit, self.results)
        except CloudsError as error:
            return error


def _share(nodes: Sequence[Mapping[str, Any]], gpu: bool) -> tuple[int, dict[str, Any]]:
    """Number of workers, and what each takes of the cluster.

    A worker has a GPU, where the work can use one. Otherwise it has a whole machine, as a local run has: the
    backends use all its cores, and every further worker would hold one more model in memory. Of machines of
    different size, larger ones get as many workers as the smallest fits into them.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = sum(int(resources.get("GPU", 0)) for resources in alive)
    if gpu and gpus:
        return gpus, {"num_gpus": 1}
    cores = [int(resources["CPU"]) for resources in alive if resources.get("CPU", 0) >= 1]
    least = min(cores, default=1)
    return max(1, sum(own // least for own in cores)), {"num_cpus": least}


def run_on_ray(work: Work, units: Sequence[Any], results: Results) -> Iterator[Record | Failed | str]:
    """Processes units on the machines of a Ray cluster, one worker per GPU or machine; see `_share`.

    The cluster is the one that `RAY_ADDRESS` names, or this machine. The unit of a worker that died is given
    to another one and gives the same files; a new worker takes its place as soon as there is a machine for
    it. Inputs and outputs must be where every machine can reach them.

    Raises:
        CloudsError: Ray is missing; results cannot be written; several workers died on the same unit.
    """
    ray = _ray()
    if not units:
        return
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level="ERROR")
    count, options = _share(ray.nodes(), work.gpu)
    remote = ray.remote(**options)(Worker)
    left, deaths = deque(units), Counter[str]()
    running: dict[Any, tuple[Any, Any]] = {}

    def start() -> None:
        worker = remote.remote(work, results)
        running[worker.ready.remote()] = (worker, None)

    try:
        for _ in range(min(count, len(units))):
            start()
        while left or any(unit is not None for _, unit in running.values()):
            (ready, *_), _ = ray.wait(list(running), num_returns=1)
            worker, unit = running.pop(ready)
            try:
                outcome = ray.get(ready)
            except ray.exceptions.RayActorError as error:
                ray.kill(worker)  # it may only be out of reach
                if unit is not None:
                    left.appendleft(unit)
                    deaths[unit.name] += 1
                    if deaths[unit.name] >= _DEATHS:
                        raise CloudsError(
                            f"{_DEATHS} workers died on {unit.told()}",
                            "see their logs; if they ran out of memory, lower --batch or make smaller shards",
                        ) from error
                start()
                continue
            if isinstance(outcome, CloudsError):
                raise outcome
            if left:
                following = left.popleft()
                running[worker.do.remote(following)] = (worker, following)
            else:
                ray.kill(worker)
            if outcome is not None:
                yield outcome
    finally:
        for worker, _ in running.values():
            ray.kill(worker)
