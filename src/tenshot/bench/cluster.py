"""A pool of Ray workers on any number of machines (extra `cluster`).

Every node needs tenshot and the folder of data. With a folder of work on a disk that all share, a job whose node dies
goes on from its newest checkpoint on another node; without one it begins again. Ray itself hands the job out anew.
Where the cluster has GPUs, each job has one to itself.
"""

import importlib
from typing import Any

from tenshot.bench.processes import Work
from tenshot.bench.specs import Job
from tenshot.bench.spread import TRIES
from tenshot.bench.work import Outcome, Places, carry_out
from tenshot.errors import TenshotError


class Cluster:
    """As many jobs at once as the cluster has processors, and GPUs, for; see `spread.Pool`."""

    def __init__(self, address: str, places: Places, threads: int = 1, work: Work = carry_out) -> None:
        """address: of a running cluster, for `ray.init`. Raises TenshotError if Ray or the cluster is missing."""
        self._ray = ray = _ray()
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", configure_logging=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise TenshotError(f"no Ray cluster answers at {address}: {error}") from error
        self.places, self.threads = places, threads
        self._needs = {"CPU": threads, "GPU": 1} if self._there("GPU") else {"CPU": threads}
        # A fresh process for each job. Ray takes a node that died and a job that kills its worker alike, so its tries
        # have an end, as `spread`'s have. Without num_gpus no GPU would be seen.
        gpus = self._needs.get("GPU", 0)
        self._work = ray.remote(num_cpus=threads, num_gpus=gpus, max_calls=1, max_retries=TRIES)(work)
        self._busy: dict[Any, Job] = {}

    def free(self) -> int:
        return min(self._there(what) // count for what, count in self._needs.items()) - len(self._busy)

    def _there(self, what: str) -> int:
        """Of a resource, in the whole cluster."""
        return int(self._ray.cluster_resources().get(what, 0))

    def submit(self, job: Job) -> None:
        self._busy[self._work.remote(job, self.places, self.threads)] = job

    def finished(self, timeout: float) -> list[tuple[Job, Outcome]]:
        if not self._busy:
            return []
        ready, _ = self._ray.wait(list(self._busy), num_returns=1, timeout=timeout)
        ended = []
        for reference in ready:
            try:
                outcome = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                outcome = Outcome("died", str(error).strip().splitlines()[0])
            ended.append((self._busy.pop(reference), outcome))
        return ended

    def stop(self) -> None:
        for reference in self._busy:
            self._ray.cancel(reference)
        self._ray.wait(list(self._busy), num_returns=len(self._busy), timeout=60) if self._busy else None
        self._busy.clear()
        self._ray.shutdown()


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise TenshotError(f'Ray could not be imported ({error}): pip install "tenshot[cluster]"') from error
