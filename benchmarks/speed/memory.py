"""The most memory that an adaptation holds, in processes of their own.

    python -m benchmarks.speed.memory

`loaded`: torch and the source, nothing else. `ours`, `bfloat16`, `plain`, `public`: steps alone, as in step.py.
`report`: all of `tenshot adapt` by its defaults, ten images to report, for as many steps, with sheets and checkpoints.
"""

import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

from benchmarks.speed.measure import QUICK, ROOT, machine, parser, publish, read, spread
from tenshot.bench.machine import peak_mb

WAYS = ("loaded", "ours", "bfloat16", "plain", "public", "report")


def held(way: str, source: str, steps: int, threads: int) -> int:
    """MB that this process has held at most when a way is done."""
    import torch

    from benchmarks.speed.baseline import Baseline
    from benchmarks.speed.step import BATCHES, Ours, random_shots, settings
    from tenshot.models import load_model

    torch.set_num_threads(threads)
    model = load_model(source)
    config = settings(BATCHES[model.resolution], source=source)
    shots = random_shots(model.resolution)
    if way == "report":
        _to_report(source, steps)
    elif way != "loaded":
        if way in ("plain", "public"):
            run = Baseline(model, shots, config, twice=way == "public")
        else:
            run = Ours(settings(config.batch, precision="float32" if way == "ours" else way), model, shots)
        for step in range(steps):
            run.step(step)
    return peak_mb()


def _to_report(source: str, steps: int) -> None:
    from tenshot.loop import adapt

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapt(ROOT / "examples" / "robots", out=Path(folder) / "run", source=source, steps=steps)


def child(way: str, source: str, steps: int, threads: int) -> int:
    """`held` in a process of its own. Raises CalledProcessError."""
    asked = json.dumps([way, source, steps, threads])
    command = [sys.executable, "-m", "benchmarks.speed.memory", "--child", asked]
    return int(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1])


def main(arguments: Sequence[str] | None = None) -> None:
    made = parser(__doc__ or "", rounds=3, threads=(2,))
    made.add_argument("--steps", type=int, default=17)
    made.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    made.add_argument("--child", help="internal: what to do in a process of its own")
    flags = read(made, arguments)
    if flags.child:
        print(held(*json.loads(flags.child)))
        return
    if flags.quick:
        flags.steps, flags.source = 1, QUICK
    before, rows = machine(), []
    for threads in flags.threads:
        found: dict[str, list[int]] = {way: [] for way in flags.ways}
        for _ in range(flags.rounds):
            for way, values in found.items():
                values.append(child(way, flags.source, flags.steps, threads))
        rows += [{"threads": threads, "way": way, "MB": spread(values)} for way, values in found.items()]
    publish("memory", flags, rows, steps=flags.steps, machine=before)


if __name__ == "__main__":
    main()
