"""What the figures here share: ways that take turns, their spread, what the machine is, and one JSON file a figure."""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tenshot.bench.machine import facts
from tenshot.files import make_folder, write_atomically

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results"
FORMAT = 1
QUICK = "scratch-16-128-16-16-2"
"""Untrained networks of 16 px that show that a script runs, and nothing else."""

Way = Callable[[], object]


def parser(doc: str, *, rounds: int, source: str = "faces64", threads: Sequence[int] = (1,)) -> argparse.ArgumentParser:
    """The flags that all figures have. doc: the script's; its first line is the help text."""
    made = argparse.ArgumentParser(description=doc.splitlines()[0])
    made.add_argument("--source", default=source, help="networks: an embedded source, a model file, scratch-64, ...")
    made.add_argument("--threads", type=int, nargs="+", default=list(threads))
    made.add_argument("--rounds", "--repeats", type=int, default=rounds, help="how often every way has its turn")
    made.add_argument("--quick", action="store_true", help="networks of 16 px, one round: only whether it runs")
    made.add_argument("--out", type=Path, help="folder of the JSON; results/ beside this file, none with --quick")
    return made


def read(made: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The flags as given, with all that --quick stands for."""
    flags = made.parse_args(arguments)
    if flags.quick:
        flags.source, flags.threads, flags.rounds = QUICK, [1], 1
    elif flags.out is None:
        flags.out = RESULTS
    return flags


def take_turns(
    ways: Mapping[str, Way], rounds: int, *, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of every way in every round, what else the machine does falling on all of them alike.

    A round before the first is not counted: it prepares kernels and memory. Every second round goes backwards, so that
    no way always follows the same one.
    """
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for k in range(rounds):
        for name in list(ways)[:: -1 if k % 2 else 1]:
            start = clock()
            ways[name]()
            taken[name].append(clock() - start)
    return taken


def spread(values: Sequence[float], scale: float = 1.0) -> dict[str, float]:
    """Median, quartiles and number, four digits each. Raises ValueError for no values."""
    if not len(values):
        raise ValueError("no values, no median")
    low, median, high = np.quantile(np.asarray(values, dtype=np.float64) * scale, [0.25, 0.5, 0.75])
    return {**{k: _digits(v) for k, v in {"median": median, "q1": low, "q3": high}.items()}, "n": len(values)}


def ratios(values: Sequence[float], base: Sequence[float]) -> dict[str, float]:
    """Spread of a way's seconds over another's of the same round."""
    return spread([a / b for a, b in zip(values, base, strict=True)])


def _digits(value: float) -> float:
    return float(f"{value:.4g}")


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """torch computes on so many threads, and then on as many as before."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def machine() -> dict[str, Any]:
    """What figures depend on: versions, processor, cores, its vector units, how busy it was, the commit."""
    import torch

    told = facts()
    told["machine"] |= {
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "bfloat16": _has("torch.ops.mkldnn._is_mkldnn_bf16_supported", torch.ops.mkldnn),
        "amx": _has("torch.cpu._is_amx_tile_supported", torch.cpu),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    }
    return told


def _has(name: str, home: Any) -> bool | None:
    """What a question without a public name says; None where this torch does not know it."""
    try:
        return bool(getattr(home, name.rpartition(".")[2])())
    except (AttributeError, RuntimeError):
        return None


def publish(name: str, flags: argparse.Namespace, rows: Sequence[Mapping[str, Any]], **settings: Any) -> dict[str, Any]:
    """Print a figure as a JSON line, and write it to its file. Rows are what its table shows, one line each.

    machine: as before the measurement, where the script has asked then; else now.
    """
    before = settings.pop("machine", None) or machine()
    shared = {"threads": flags.threads, "rounds": flags.rounds, "source": Path(flags.source).name}
    figure = {"format": FORMAT, "figure": name, "settings": {**shared, **settings}, "rows": list(rows), **before}
    print(json.dumps(figure))
    if flags.out is not None:
        make_folder(flags.out)
        write_atomically(flags.out / f"{name}.json", (json.dumps(figure, indent=1) + "\n").encode())
    return figure
