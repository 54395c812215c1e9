"""What a run would do: settings, what trains in every layer, time and memory. Nothing is written."""

import sys
import time
from collections.abc import Iterable, Iterator

import torch
from rich.console import Console

from tenshot.adaptation import Adaptation, begin
from tenshot.config import RunConfig
from tenshot.data import ImageSet
from tenshot.methods.base import Network
from tenshot.models import Model
from tenshot.nets import Discriminator, Generator
from tenshot.step import run_step
from tenshot.tables import Named

MEASURED_STEPS = 8


def show(console: Console, config: RunConfig, source: Model, intake: ImageSet) -> None:
    """Print the resolved settings, the layers, and an estimate from a few real steps on copies."""
    console.print_json(config.to_json())
    started = time.perf_counter()
    adaptation = begin(config, source, intake.images)
    beginning = time.perf_counter() - started  # some methods estimate Fisher information before the first step
    _layer_table(adaptation).print(console)
    seconds = _seconds_a_step(adaptation)
    total = beginning + seconds * config.steps
    time_needed = f"{total / 60:.1f} minutes" if total >= 60 else f"{total:.0f} seconds"
    measured = f"{config.steps} steps of {seconds:.2f} s, measured on {MEASURED_STEPS} steps here"
    console.print(f"about {time_needed}: {measured}", soft_wrap=True)
    if (peak := _peak_memory()) is not None:
        console.print(f"peak memory {peak:.1f} GiB")
    device = adaptation.nets.generator.latent_avg.device
    if device.type == "cuda":
        console.print(f"of the GPU {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB")


def _layer_table(adaptation: Adaptation) -> Named:
    numbers = ("parameters", "train", "filters the method may prune or preserve")
    rows = list(_layers(adaptation))
    return Named("what trains", names=("network", "layer"), facts=numbers, rows=rows, numbers=numbers)


def _layers(adaptation: Adaptation) -> Iterator[tuple[str, str, str, str, str]]:
    nets = adaptation.nets
    both: dict[Network, Generator | Discriminator] = {
        "generator": nets.generator,
        "discriminator": nets.discriminator,
    }
    for network, module in both.items():
        watched = [g for g in module.filter_groups() if adaptation.method.may_prune(network, g)]
        for name, layer in module.named_children():
            many = [(f"{name}.{key}", child) for key, child in layer.named_children()]
            for key, child in many if name in ("convs", "to_rgbs") else [(name, layer)]:
                parameters = list(child.parameters())
                count = sum(p.numel() for p in parameters)
                trained = sum(p.numel() for p in parameters if p.requires_grad)
                filters = sum(g.count for g in watched if g.name == key or g.name.startswith(f"{key}."))
                share = "all" if trained == count else "frozen" if trained == 0 else f"{trained:,}"
                yield network, key, f"{count:,}", share, str(filters) if filters else ""
    if nets.heads is not None:
        count = sum(p.numel() for p in nets.heads.parameters())
        yield "discriminator", "patch heads", f"{count:,}", "all", ""


def _seconds_a_step(adaptation: Adaptation) -> float:
    """Mean over a few steps, from the middle of the run, where no method is still warming up; where R1's penalty comes
    too seldom for whole rounds of it, the step with it counts as often as it comes."""
    every = max(1, adaptation.config.r1_every)
    first = every * (adaptation.config.steps // (2 * every))
    run_step(adaptation, first)  # takes memory that later ones have

    def timed(steps: Iterable[int]) -> float:
        started = time.perf_counter()
        for step in steps:
            run_step(adaptation, step)
        return time.perf_counter() - started

    if every <= MEASURED_STEPS:
        whole = MEASURED_STEPS // every * every
        return timed(range(first, first + whole)) / whole
    usual = timed(range(first + 1, first + 1 + MEASURED_STEPS)) / MEASURED_STEPS
    return usual + (timed([first]) - usual) / every


def _peak_memory() -> float | None:
    """The process's peak memory in GiB; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 2**30 if sys.platform == "darwin" else 2**20  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
