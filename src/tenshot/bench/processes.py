"""A pool of processes on this machine: a fresh one for each job, so that its memory and its faults are its own."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from tenshot.bench.specs import Job
from tenshot.bench.work import Outcome, Places, carry_out

Work = Callable[[Job, Places, int], Outcome]


class Processes:
    """`workers` processes at once, each with as many threads of torch as said; see `spread.Pool`."""

    def __init__(self, places: Places, workers: int, threads: int = 1, work: Work = carry_out) -> None:
        """work: what a process does; a function that can be imported."""
        self.places, self.workers, self.threads, self.work = places, workers, threads, work
        self._busy: dict[Connection, tuple[Job, BaseProcess]] = {}
        self._spawn = multiprocessing.get_context("spawn")

    def free(self) -> int:
        return self.workers - len(self._busy)

    def submit(self, job: Job) -> None:
        ours, theirs = self._spawn.Pipe(duplex=False)
        process = self._spawn.Process(target=_run, args=(theirs, self.work, job, self.places, self.threads))
        with _no_interrupts():
            process.start()
        theirs.close()  # so that the end of the process ends the pipe
        self._busy[ours] = job, process

    def finished(self, timeout: float) -> list[tuple[Job, Outcome]]:
        ended = []
        for pipe in wait(list(self._busy), timeout):
            assert isinstance(pipe, Connection)
            job, process = self._busy.pop(pipe)
            try:
                outcome = pipe.recv()
            except EOFError:
                process.join()
                outcome = Outcome("died", f"its process ended with exit code {process.exitcode}")
            process.join()
            pipe.close()
            ended.append((job, outcome))
        return ended

    def stop(self) -> None:
        for _, process in self._busy.values():
            process.terminate()  # SIGTERM, which carry_out takes as a wish
        try:
            for _, process in self._busy.values():
                process.join()
        except KeyboardInterrupt:
            for _, process in self._busy.values():
                process.kill()
        self._busy.clear()


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """A process begun here inherits it that Ctrl-C does nothing: until it leaves the terminal's group, in `_run`, it
    would end in the middle of its imports."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _run(pipe: Connection, work: Work, job: Job, places: Places, threads: int) -> None:
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C in a terminal is the parent's to handle, by `stop`
    threading.Thread(target=_end_with_parent, daemon=True).start()
    pipe.send(work(job, places, threads))
    pipe.close()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
