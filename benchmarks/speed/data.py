"""What images cost a step: taking the batch of shots, and augmenting what D sees; and preparing the shots, once.

    python -m benchmarks.speed.data

Steps of fine-tuning with each kind of augmentation in turns; diffaug changes half of the images, ada makes each of its
changes to half of them. `batch` is the step's batch of shots, from indices to mirrored float images.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from benchmarks.speed.measure import ROOT, machine, on_threads, parser, publish, ratios, read, spread, take_turns
from benchmarks.speed.step import settings
from tenshot.adaptation import begin
from tenshot.augment import flip
from tenshot.data import batch_indices, load_images
from tenshot.models import Model, load_model
from tenshot.randomness import generator_for
from tenshot.sampling import to_unit
from tenshot.step import run_step

KINDS = ("none", "flip", "diffaug", "ada")
SHOTS = ROOT / "examples" / "robots"


def step_times(source: Model, shots: torch.Tensor, rounds: int) -> dict[str, list[float]]:
    """Seconds of a step by kind of augmentation, and of taking its batch."""
    config = settings(4)
    runs = {kind: begin(replace(config, augment=kind, augment_p=0.5, ada_every=10**6), source, shots) for kind in KINDS}
    steps = dict.fromkeys([*runs, "batch"], 0)

    def turn(kind: str) -> None:
        step = steps[kind]
        steps[kind] += 1
        if kind == "batch":
            indices = batch_indices(len(shots), config.batch, step, config.seed)
            flip(to_unit(shots[indices]), generator_for(config.seed, "step", step))
        else:
            run_step(runs[kind], step)

    return take_turns({kind: lambda kind=kind: turn(kind) for kind in steps}, rounds)


def main(arguments: Sequence[str] | None = None) -> None:
    flags = read(parser(__doc__ or "", rounds=32, threads=(2,)), arguments)
    before, rows, source = machine(), [], load_model(flags.source)
    shots = load_images(SHOTS, source.resolution).images
    for threads in flags.threads:
        with on_threads(threads):
            taken = step_times(source, shots, flags.rounds)
            once = take_turns({"intake": lambda: load_images(SHOTS, source.resolution)}, min(5, flags.rounds))
        rows += [
            {"threads": threads, "way": kind, "ms": spread(times, 1000), "over none": ratios(times, taken["none"])}
            for kind, times in taken.items()
        ]
        rows.append({"threads": threads, "way": "intake, once", "ms": spread(once["intake"], 1000)})
    publish("data", flags, rows, shots="examples/robots", machine=before)


if __name__ == "__main__":
    main()
