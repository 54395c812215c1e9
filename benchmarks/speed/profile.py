"""Where the time of a step goes: torch.profiler's table of a cycle of 16 steps, by operation.

python -m benchmarks.speed.profile [--precision bfloat16] [--top 15]
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from benchmarks.speed.measure import machine, on_threads, parser, publish, read
from benchmarks.speed.step import CYCLE, Ours, random_shots, settings
from tenshot.models import load_model


def main(arguments: Sequence[str] | None = None) -> None:
    made = parser(__doc__ or "", rounds=1)
    made.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    made.add_argument("--top", type=int, default=15)
    made.add_argument("--batch", type=int, default=4)
    flags = read(made, arguments)
    before, model = machine(), load_model(flags.source)
    steps = 1 if flags.quick else CYCLE
    flags.threads = flags.threads[:1]
    with on_threads(flags.threads[0]):
        config = replace(settings(flags.batch), precision=flags.precision)
        ours = Ours(config, model, random_shots(model.resolution))
        ours.step(0)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            for step in range(steps):
                ours.step(step)
    events = sorted(profiler.key_averages(), key=lambda e: e.self_cpu_time_total, reverse=True)
    whole = sum(e.self_cpu_time_total for e in events)
    rows = [
        {
            "operation": e.key,
            "share": round(e.self_cpu_time_total / whole, 4),
            "ms a step": round(e.self_cpu_time_total / 1000 / steps, 2),
            "calls a step": round(e.count / steps, 1),
        }
        for e in events[: flags.top]
    ]
    name = "profile" if flags.precision == "float32" else f"profile-{flags.precision}"
    publish(name, flags, rows, batch=flags.batch, precision=flags.precision, steps=steps, machine=before)


if __name__ == "__main__":
    main()
