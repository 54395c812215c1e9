"""The training step: tenshot against the weight-modulating grouped-convolution formulation, in turns.

    python -m benchmarks.speed.step [--resolution 256 --rounds 3] [--batch N] [--cycles N]

Plain fine-tuning, nothing augmented. Ways: ours, ours in bfloat16, `plain` (the reference twin's formulation) and
`public` (with D's convolutions computed twice, as in the code of AdAM and RICK); see baseline.py. Parts: D, R1, G, path
length, each with the batch of shots and the update of the average that a step has; and, on the most threads, whole
cycles of 16 steps, the ways taking turns step by step. 64 px is `faces64`; 128 and 256 px are untrained networks of the
published width (channel multiplier 2).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from benchmarks.speed.baseline import PHASES, Baseline
from benchmarks.speed.measure import machine, on_threads, parser, publish, ratios, read, spread, take_turns
from tenshot.adaptation import Adaptation, begin
from tenshot.config import RunConfig
from tenshot.methods import Method
from tenshot.models import load_model
from tenshot.step import run_step

CYCLE = 16
DUE = {"d": 1, "r1": 16, "g": 1, "path": 4}
"""Steps between two of a part."""
WIDE = {128: "scratch-128-32768-512", 256: "scratch-256-32768-512"}
BATCHES = {16: 4, 64: 4, 128: 2, 256: 1}


@dataclass(frozen=True)
class Only(Method):
    """Fine-tuning that leaves out all phases but some."""

    name: ClassVar[str] = "only"
    paper: ClassVar[str] = "-"
    phase: str = ""
    """'' = all."""

    def skips(self, phase, clock) -> bool:
        return self.phase not in ("", phase)


class Ours:
    """A run of tenshot whose phases can be taken alone."""

    def __init__(self, config: RunConfig, source, shots: Tensor) -> None:
        self.run: Adaptation = begin(config, source, shots)

    def step(self, step: int, phases: Sequence[str] = PHASES) -> dict[str, float]:
        phase = phases[0] if len(phases) == 1 else ""
        self.run.config = replace(self.run.config, method=Only(phase))
        return run_step(self.run, step)


def settings(batch: int, **more: Any) -> RunConfig:
    """What both sides know: the public code's schedule; so many steps that learning rates stay."""
    return RunConfig(
        shots="-", method=Only(), batch=batch, steps=10**6, augment="none", ema_half_life=1250, lr=0.002, **more
    )


def random_shots(resolution: int, count: int = 10) -> Tensor:
    return torch.randint(
        0, 256, (count, 3, resolution, resolution), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def ways_of(source_name: str, batch: int) -> dict[str, Ours | Baseline]:
    source = load_model(source_name)
    shots = random_shots(source.resolution)
    config = settings(batch)
    return {
        "ours": Ours(config, source, shots),
        "bfloat16": Ours(replace(config, precision="bfloat16"), source, shots),
        "plain": Baseline(source, shots, config),
        "public": Baseline(source, shots, config, twice=True),
    }


def part_times(ways: dict[str, Ours | Baseline], phase: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of one phase, by way."""
    counts = dict.fromkeys(ways, 0)

    def turn(name: str) -> None:
        ways[name].step(CYCLE * counts[name], [phase])  # every phase is due at step 0, 16, 32, ...
        counts[name] += 1

    return take_turns({name: lambda name=name: turn(name) for name in ways}, rounds)


def summed(parts: dict[str, dict[str, list[float]]]) -> dict[str, list[float]]:
    """Seconds of a mean step, from those of its parts of the same round."""
    ways, rounds = parts["d"], range(len(parts["d"]["ours"]))
    return {name: [sum(parts[p][name][k] / DUE[p] for p in PHASES) for k in rounds] for name in ways}


def cycle_times(ways: dict[str, Ours | Baseline], cycles: int, length: int = CYCLE) -> dict[str, list[float]]:
    """Seconds of a mean step of whole cycles, by way."""
    counts = dict.fromkeys(ways, -1)  # the uncounted round is the step before the first

    def turn(name: str) -> None:
        ways[name].step(max(0, counts[name]))
        counts[name] += 1

    taken = take_turns({name: lambda name=name: turn(name) for name in ways}, cycles * length)
    return {
        name: [sum(times[k : k + length]) / length for k in range(0, len(times), length)]
        for name, times in taken.items()
    }


def row(threads: int, part: str, times: dict[str, list[float]]) -> dict[str, Any]:
    """Milliseconds of every way, and ours over the baselines, round by round."""
    return {
        "threads": threads,
        "part": part,
        "ms": {name: spread(values, 1000) for name, values in times.items()},
        "ours over plain": ratios(times["ours"], times["plain"]),
        "ours over public": ratios(times["ours"], times["public"]),
        "bfloat16 over plain": ratios(times["bfloat16"], times["plain"]),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    made = parser(__doc__ or "", rounds=4)
    made.set_defaults(threads=None)
    made.add_argument("--resolution", type=int, choices=[64, 128, 256], default=64)
    made.add_argument("--batch", type=int, help="images a step; 4 at 64 px, 2 at 128, 1 at 256")
    made.add_argument("--cycles", type=int, help="whole cycles of 16 steps, on the most threads; 1 at 64 px, 0 above")
    flags = read(made, arguments)
    if flags.resolution in WIDE and not flags.quick:
        flags.source = WIDE[flags.resolution]
    flags.batch = flags.batch or BATCHES[flags.resolution]
    flags.cycles = (flags.resolution == 64) if flags.cycles is None else flags.cycles
    flags.threads = flags.threads or ([1, 2] if flags.resolution == 64 else [torch.get_num_threads()])
    before, rows = machine(), []
    for threads in flags.threads:
        with on_threads(threads):
            ways = ways_of(flags.source, flags.batch)
            parts = {phase: part_times(ways, phase, flags.rounds) for phase in PHASES}
            rows += [row(threads, part, times) for part, times in {**parts, "sum": summed(parts)}.items()]
            if flags.cycles and threads == max(flags.threads):
                rows.append(row(threads, "step", cycle_times(ways, flags.cycles, 2 if flags.quick else CYCLE)))
    publish(
        f"step-{flags.resolution}", flags, rows, batch=flags.batch, cycles=int(flags.cycles), machine=before
    )  # fmt: skip


if __name__ == "__main__":
    main()
