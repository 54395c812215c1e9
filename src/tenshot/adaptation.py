"""A run in memory: networks, optimisers, the method's state, and how it begins.

`Adaptation` is everything that changes from step to step; `checkpoint` turns it into tensors and back.
"""

import copy
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tenshot.config import RunConfig
from tenshot.devices import find_device
from tenshot.errors import TenshotError
from tenshot.methods import Method
from tenshot.methods.base import Clock, Context, Nets, State
from tenshot.models import Model
from tenshot.nets.pieces import in_pieces
from tenshot.randomness import generator_for
from tenshot.recovery import Health, half, is_out_of_memory
from tenshot.sampling import to_unit


@dataclass
class Adaptation:
    """A run in memory: what it started from, where it stands."""

    config: RunConfig
    shots: Tensor
    """uint8 `[k 3 r r]`."""
    nets: Nets
    state: State
    """The method's."""
    path_mean: Tensor
    """Running mean of the path length, a scalar; NaN before the first measurement."""
    ada: Tensor
    """`[3]`: the probability with which images are augmented; of the shots judged since it was last adjusted, how many
    more D took for real than for generated, and how many there were."""
    health: Health = field(default_factory=Health)
    """What has gone wrong so far, and what was changed because of it."""
    record: Callable[[dict[str, Any]], None] = lambda entry: None
    """Receives each decision of the method."""

    @property
    def method(self) -> Method:
        return self.config.method


def begin(config: RunConfig, source: Model, shots: Tensor) -> Adaptation:
    """Networks, optimisers and the method's state before the first step. Raises TenshotError."""
    if source.generator.spec.kept:
        raise TenshotError(
            f"{config.source} is compact: its pruned channels are cut out for good, so it cannot be adapted; "
            "adapt the run or model that it was made from"
        )
    if source.discriminator is None:
        raise TenshotError(
            f"{config.source} has no discriminator: adaptation needs the one it was trained with; "
            + _way_to_a_discriminator(config.source, source.card)
        )
    device = find_device(config.device)
    origin = copy.deepcopy(source.generator).to(device)
    origin.spec = replace(origin.spec, mosaic=1, gamut=())  # another domain's shots say nothing of these
    generator = copy.deepcopy(origin)
    discriminator = copy.deepcopy(source.discriminator).to(device)
    method = config.method
    method.prepare(generator, discriminator)
    for key, parameter in generator.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and method.trains("generator", key))
    for key, parameter in discriminator.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and method.trains("discriminator", key))
    heads = method.heads(discriminator, generator_for(config.seed, "heads"))
    nets = Nets(
        source=origin.requires_grad_(False),
        generator=generator,
        discriminator=discriminator,
        ema=copy.deepcopy(generator).requires_grad_(False),
        discriminator_ema=copy.deepcopy(discriminator).requires_grad_(False)
        if method.needs_discriminator_ema()
        else None,
        heads=heads,
        optimiser_g=_adam([generator], config, config.lr, config.path_every),
        optimiser_d=_adam([discriminator, heads], config, config.lr * config.lr_ratio, config.r1_every),
    )
    if config.precision == "bfloat16":
        for network in (nets.source, generator, discriminator):
            network.compute = torch.bfloat16
    ada = torch.tensor([config.augment_p, 0.0, 0.0], dtype=torch.float64)
    health = Health(micro_batch=config.micro_batch)
    adaptation = Adaptation(config, shots, nets, {}, generator.latent_avg.new_tensor(float("nan")), ada, health)
    adaptation.state = _set_up(adaptation)
    return adaptation


def _set_up(run: Adaptation) -> State:
    """The method's state. Fewer images at once if memory ends; what it draws is drawn anew then, and the same."""
    nets = run.nets
    while True:
        try:
            with in_pieces((nets.source, nets.generator, nets.discriminator), run.health.micro_batch):
                return run.method.setup(context_of(run, 0))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            take_fewer(run, 0, error)


def _way_to_a_discriminator(name: str, card: dict[str, Any]) -> str:
    """What to type instead of adapting an adapted model: its own source has one."""
    origin = card.get("source")
    if not isinstance(origin, dict) or not origin.get("name"):
        return "give the source that it was made from"
    longer = f", for a longer run with --config {Path(name, 'config.json')} --steps N" if os.path.isdir(name) else ""
    return f"it was adapted from {origin['name']}, so give --source {origin['name']}{longer}"


def take_fewer(run: Adaptation, step: int, error: Exception) -> None:
    """From now on half as many images at once. Raises TenshotError if that is none."""
    fewer = half(run.health.micro_batch, 2 * run.config.batch)
    if not fewer:
        raise TenshotError(
            f"there is not enough memory for step {step + 1}, not even with one image at a time: give a --batch below "
            f"{run.config.batch}, --precision bfloat16, or a smaller source"
        ) from error
    warnings.warn(f"not enough memory at step {step + 1}: from now on {fewer} images at once, slower", stacklevel=2)
    run.health = replace(run.health, micro_batch=fewer)


def _adam(modules: list[torch.nn.Module | None], config: RunConfig, lr: float, every: int) -> torch.optim.Adam:
    """Adam corrected for lazy regularisation: as many more steps as there are penalties (StyleGAN2, appendix B)."""
    ratio = every / (every + 1) if every else 1.0
    parameters = [parameter for module in modules if module is not None for parameter in module.parameters()]
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    betas = (config.beta1**ratio, 0.99**ratio)
    group = {"params": trained, "initial_lr": lr * ratio}
    return torch.optim.Adam([group], lr=lr * ratio, betas=betas, eps=1e-8, fused=True)


def context_of(run: Adaptation, step: int, faults: dict[str, str] | None = None) -> Context:
    """What hooks may look at. An estimate that a method tells of joins the faults; a bad one outweighs a good one."""
    config = run.config

    def reals(n: int, rng: torch.Generator) -> Tensor:
        chosen = torch.randint(len(run.shots), (n,), generator=rng)
        return to_unit(run.shots[chosen]).to(run.nets.generator.latent_avg.device)

    def measured(is_finite: bool) -> None:
        if faults is not None:
            faults["fisher"] = faults.get("fisher", "") if is_finite else "the Fisher information is not finite"

    clock = Clock(step, config.steps, config.batch, config.seed)
    return Context(run.nets, clock, reals, run.shots, lambda entry: run.record(entry), measured)
