"""What a step of each method costs, relative to a step of `finetune` under the same settings."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from tenshot.adaptation import begin
from tenshot.methods import METHODS
from tenshot.models import load_model
from tenshot.presets import preset_config
from tenshot.randomness import generator_for
from tenshot.step import run_step

KEPT = Path(__file__).with_name("costs.json")
"""Figures that ship with the package."""
_BLOCKS, _BLOCK = 5, 10
_FIRST = 600  # of the default 1,000: past every warm-up; 50 steps hold an estimate of the methods that make one


@dataclass(frozen=True)
class Costs:
    """Figures and where they were measured."""

    where: str
    relative: dict[str, float]
    """By method: the time of a step over that of a step of `finetune`."""


def kept() -> Costs:
    """The figures that ship with the package."""
    return Costs(**json.loads(KEPT.read_text(encoding="utf-8")))


def measure() -> Costs:
    """Measure on the embedded source with the default settings: 50 steps of every method, in turns of ten."""
    source = load_model("faces64")
    size = (10, 3, source.resolution, source.resolution)
    shots = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator_for(0, "costs"))
    runs = {}
    for name in METHODS:
        runs[name] = begin(preset_config("", name, device="cpu"), source, shots)
        run_step(runs[name], _FIRST - 1)
    seconds = dict.fromkeys(METHODS, 0.0)
    for first in range(_FIRST, _FIRST + _BLOCKS * _BLOCK, _BLOCK):
        for name, run in runs.items():
            started = time.perf_counter()
            for step in range(first, first + _BLOCK):
                run_step(run, step)
            seconds[name] += time.perf_counter() - started
    threads = torch.get_num_threads()
    where = f"measured at {source.resolution} px, batch 4, on {threads} CPU thread{'s' * (threads != 1)}"
    return Costs(where, {name: round(total / seconds["finetune"], 2) for name, total in seconds.items()})


def save(costs: Costs) -> None:
    """Replace the figures that ship with the package."""
    KEPT.write_text(json.dumps(asdict(costs), indent=2) + "\n", encoding="utf-8")
