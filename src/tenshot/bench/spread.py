"""Many jobs over a pool of workers: what has no result yet is run, once, and what another process runs is awaited."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tenshot.bench.claims import is_claimed
from tenshot.bench.results import Results, write_result
from tenshot.bench.sources import source_sha256
from tenshot.bench.specs import Job
from tenshot.bench.work import Outcome, Places

TRIES = 3
"""How often a job whose worker died is begun; each time it goes on from its newest checkpoint."""
_LOOK_AGAIN = 5.0  # seconds between looks at what other processes are doing


class Pool(Protocol):
    """Workers that take one job each."""

    def free(self) -> int:
        """How many more jobs it would take now."""
        ...

    def submit(self, job: Job) -> None: ...

    def finished(self, timeout: float) -> list[tuple[Job, Outcome]]:
        """Jobs that have ended since the last call; waits for one, at most `timeout` seconds."""
        ...

    def stop(self) -> None:
        """Ask all workers to end at a checkpoint, and wait until they have."""
        ...


@dataclass
class State:
    """Where a matrix stands."""

    jobs: Sequence[Job]
    done: list[Job] = field(default_factory=list)
    running: list[Job] = field(default_factory=list)
    waiting: list[Job] = field(default_factory=list)
    """Also those that another process has claimed."""
    failed: dict[str, str] = field(default_factory=dict)
    """By the job's name, the reason."""


Watch = Callable[[State, Job | None, Outcome | None], None]
"""Called when a job begins (with it), ends (with its outcome), and now and then."""


def spread(jobs: Sequence[Job], places: Places, pool: Pool, watch: Watch = lambda *_: None) -> State:
    """Run all jobs that have no result, in order, as many at once as the pool takes; returns when none is left.

    A job that another process has claimed is left to it, and taken up if that process ends without a result. A job
    that fails is reported and does not hold up the others. KeyboardInterrupt stops the workers at checkpoints first.
    Raises TenshotError where results or sources cannot be read.
    """
    results = Results(places.results)
    tries: dict[str, int] = {}
    state = State(jobs)
    for job in jobs:
        has_result = results.find(job, source_sha256(job, places.data)) is not None
        (state.done if has_result else state.waiting).append(job)
    due = time.monotonic()
    try:
        while state.waiting or state.running:
            if state.waiting and time.monotonic() >= due:
                due = time.monotonic() + _LOOK_AGAIN
                _fill(state, places, pool, watch)
            watch(state, None, None)
            if not state.running:
                time.sleep(0.2)
            for job, outcome in pool.finished(1.0) if state.running else ():
                due = time.monotonic()
                state.running.remove(job)
                _note(state, job, outcome, places, tries)
                watch(state, job, outcome)
    except BaseException:
        pool.stop()
        raise
    return state


def _fill(state: State, places: Places, pool: Pool, watch: Watch) -> None:
    """Hand out what nobody has claimed; what another process has finished is done."""
    for job in list(state.waiting):
        if places.result(job).exists():
            state.waiting.remove(job)
            state.done.append(job)
            watch(state, job, Outcome("done"))
        elif pool.free() > 0 and not is_claimed(places.claim(job)):
            state.waiting.remove(job)
            state.running.append(job)
            pool.submit(job)
            watch(state, job, None)


def _note(state: State, job: Job, outcome: Outcome, places: Places, tries: dict[str, int]) -> None:
    name = places.name(job)
    tries[name] = tries.get(name, 0) + (outcome.state == "died")
    if outcome.state == "done":
        if outcome.result is not None:  # written already, unless the worker has a disk of its own
            write_result(places.result(job), {k: v for k, v in outcome.result.items() if k != "format"})
        state.done.append(job)
    elif outcome.state == "claimed" or (outcome.state == "died" and tries[name] < TRIES):
        state.waiting.append(job)
    else:
        state.failed[name] = outcome.reason or outcome.state
