"""Who does units of work: this process, or a Ray cluster."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from clouds_deploy.errors import CloudsError, nearest
from clouds_deploy.jobs.results import Results, Work
from clouds_deploy.jobs.run import Failed, Runner, do_unit, run_here
from clouds_deploy.jobs.units import Unit

_DEATHS = 4
"""Workers that may die of the same unit."""


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

    def ready(self) -> None:
        """Answer, once there is a machine for it."""

    def do(self, unit: Unit) -> dict[str, Any] | Failed | CloudsError:
        """Do one; an error a user can act on comes back as a value, for Ray would wrap it."""
        try:
            return do_unit(self.work, unit, self.results)
        except CloudsError as error:
            return error


def _share(nodes: Sequence[Mapping[str, Any]], gpu: bool) -> tuple[int, dict[str, Any]]:
    """Say how many workers there are to be, and what each takes of the cluster.

    A worker has a GPU, where the work can use one. Otherwise it has a whole machine, as a local run has: the
    runtimes use all its cores, and every further worker would hold one more model in memory. Of machines that
    differ, larger ones get as many as the smallest fits in.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = sum(int(resources.get("GPU", 0)) for resources in alive)
    if gpu and gpus:
        return gpus, {"num_gpus": 1}
    cores = [int(resources["CPU"]) for resources in alive if resources.get("CPU", 0) >= 1]
    least = min(cores, default=1)
    return max(1, sum(own // least for own in cores)), {"num_cpus": least}


def run_on_ray(work: Work, units: Sequence[Unit], results: Results) -> Iterator[dict[str, Any] | Failed]:
    """Do units on the machines of a Ray cluster, one worker a GPU or a machine; see `_share`.

    The cluster is the one that `RAY_ADDRESS` names, or this machine. What a worker that died was at is given
    to another, and becomes the same files; a new worker takes its place when there is a machine for it, and
    nobody waits for that. Inputs and outputs must be where every machine can reach them.

    Raises:
        CloudsError: Ray is missing; results cannot be written; a unit was the end of several workers.
    """
    ray = _ray()
    if not units:
        return
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level="ERROR")
    count, options = _share(ray.nodes(), work.gpu)
    remote = ray.remote(**options)(Worker)
    left, deaths = deque(units), Counter[str]()
    running: dict[Any, tuple[Any, Unit | None]] = {}

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
                            f"{unit.told()} was the end of {_DEATHS} workers",
                            "look into their logs; for want of memory, lower --batch or make smaller shards",
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
