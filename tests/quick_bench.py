"""What workers do in the tests of `tenshot bench`: the real thing, but coarse colours for a network's features.

Worker processes import it, so what it changes is changed there too.
"""

import contextlib
import os
import sys
import time
from pathlib import Path
from unittest import mock

import torch

from tenshot.bench.work import Outcome, carry_out
from tenshot.metrics import METRICS, table
from tenshot.metrics.extractor import ExtractorDefaults, Features


class Colours(ExtractorDefaults):
    """Coarse pictures as features."""

    name, weights_sha256, resize = "colours", "none", "none"

    def __call__(self, images, stages=False):
        small = torch.nn.functional.adaptive_avg_pool2d(images.float(), 2)
        return Features(small.flatten(1), (small,) if stages else ())


@contextlib.contextmanager
def coarse():
    """Twenty fakes, ten reals, coarse features."""
    kept, load = dict(METRICS), table.EXTRACTORS["efflite"]
    METRICS.update({name: m._replace(n=20, n_real=min(m.n_real, 10)) for name, m in METRICS.items()})
    table.EXTRACTORS["efflite"] = lambda place: Colours()
    try:
        yield
    finally:
        METRICS.update(kept)
        table.EXTRACTORS["efflite"] = load


def quick(job, places, threads) -> Outcome:
    """`carry_out`, and a line in `work/began` for each time a process took a job up."""
    with coarse():
        outcome = carry_out(job, places, threads)
    with (places.work / "began").open("a") as file:
        file.write(f"{places.name(job)} {outcome.state}\n")
    return outcome


def slow(job, places, threads) -> Outcome:
    """As `quick`, but each step takes a while, so that others come in between."""
    from tenshot import loop

    step = loop.run_step

    def dragged(*arguments):
        time.sleep(0.05)
        return step(*arguments)

    with mock.patch.object(loop, "run_step", dragged):
        return quick(job, places, threads)


def mortal(job, places, threads) -> Outcome:
    """As `quick`, but the process dies at its sixth step, without a word, the first time it has a job."""
    from tenshot import loop

    step, mark = loop.run_step, places.work / f"{places.name(job).replace('/', '-')}.died"

    def deadly(adaptation, number):
        if number == 5 and not mark.exists():
            mark.touch()
            os._exit(9)
        return step(adaptation, number)

    loop.run_step = deadly
    return quick(job, places, threads)


def mortal_keeping_two(job, places, threads) -> Outcome:
    """As `mortal`, and runs keep no more than two shots."""
    from tenshot import loop

    loop.KEPT_SHOTS = 2
    return mortal(job, places, threads)


class Inline:
    """A pool of one worker that is this process."""

    def __init__(self, places, work=quick):
        self.places, self.work, self.ended = places, work, []

    def free(self):
        return 1 - len(self.ended)

    def submit(self, job):
        self.ended.append((job, self.work(job, self.places, torch.get_num_threads())))

    def finished(self, timeout):
        ended, self.ended = self.ended, []
        return ended

    def stop(self):
        pass


def main(folder: Path) -> None:
    """A process of its own that runs the matrix in a folder, slowly."""
    from tenshot.bench.specs import read_spec
    from tenshot.bench.spread import spread
    from tenshot.bench.work import Places

    places = Places(folder / "data", folder / "work", folder / "results")
    state = spread(read_spec(folder / "spec.json").jobs, places, Inline(places, slow))
    print(len(state.done), len(state.failed))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
