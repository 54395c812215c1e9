"""What tracking every filter's Fisher information costs a training step, in turns with the step without.

    python -m benchmarks.speed.fisher

Ways: fine-tuning (no tracking); DAP with the gate estimator at every step; DAP with the weight estimator at every step
(by default it estimates at every 20th, so its cost there is a 20th). DAP decides nothing here; it tracks both networks.
"""

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.speed.measure import machine, on_threads, parser, publish, ratios, read, spread, take_turns
from benchmarks.speed.step import random_shots
from tenshot.adaptation import begin
from tenshot.config import RunConfig
from tenshot.methods import Dap, Finetune
from tenshot.models import Model, load_model
from tenshot.step import run_step

METHODS = {
    "without": Finetune(),
    "gate": Dap(),
    "weight": Dap(estimator="weight", every=1),
}


def times_of(source: Model, rounds: int) -> dict[str, list[float]]:
    """Seconds of a step by way; all take the same step in the same round."""
    shots = random_shots(source.resolution)
    config = RunConfig(shots="-", steps=10**6)  # long before the first decision
    runs = {name: begin(replace(config, method=method), source, shots) for name, method in METHODS.items()}
    steps = dict.fromkeys(runs, 0)

    def turn(name: str) -> None:
        run_step(runs[name], steps[name])
        steps[name] += 1

    return take_turns({name: lambda name=name: turn(name) for name in runs}, rounds)


def main(arguments: Sequence[str] | None = None) -> None:
    flags = read(parser(__doc__ or "", rounds=48, threads=(2,)), arguments)
    before, rows, source = machine(), [], load_model(flags.source)
    for threads in flags.threads:
        with on_threads(threads):
            taken = times_of(source, flags.rounds)
        rows += [
            {
                "threads": threads,
                "way": name,
                "ms": spread(times, 1000),
                "over without": ratios(times, taken["without"]),
                "total over without": round(sum(times) / sum(taken["without"]), 4),
            }
            for name, times in taken.items()
        ]
    publish("fisher", flags, rows, machine=before)


if __name__ == "__main__":
    main()
