"""One step of adaptation: D, its penalty when due, G, its penalty when due, the moving averages."""

import math

import torch
from torch import Tensor

from tenshot.adaptation import Adaptation, context_of, take_fewer
from tenshot.methods.base import Context, Phase
from tenshot.nets.pieces import in_pieces
from tenshot.phases import PHASES, reals_of
from tenshot.randomness import generator_for
from tenshot.recovery import PATIENCE, NotFinite, is_out_of_memory

Stats = dict[str, float]


def lr_factor(step: int, steps: int, decay: float) -> float:
    """1, then falling linearly to 0 over the last `decay` of the run; above 0 at every step."""
    return min(1.0, max(0.0, (steps - step) / (decay * steps))) if decay else 1.0


def run_step(run: Adaptation, step: int) -> Stats:
    """One step: D, its penalty when due, G, its penalty when due, the moving averages. Returns losses.

    A phase whose numbers are not finite changes nothing; how many there were is returned as `skipped`. Raises NotFinite
    when one was left out `PATIENCE` times in a row.
    """
    config, nets = run.config, run.nets
    rng = generator_for(config.seed, "step", step, *run.health.names)
    faults: dict[str, str] = {}
    context = context_of(run, step, faults)
    reals = reals_of(run, step, rng)
    for group in nets.optimiser_g.param_groups + nets.optimiser_d.param_groups:
        group["lr"] = group["initial_lr"] * lr_factor(step, config.steps, config.lr_decay) * run.health.lr_scale

    stats: Stats = {}
    for phase in PHASES:
        every = {"r1": config.r1_every, "path": config.path_every}.get(phase, 1)
        if every and step % every == 0 and not run.method.skips(phase, context.clock):
            numbers, faults[phase] = _train(phase, run, context, reals, rng)
            stats |= numbers

    decay = 0.5 ** (config.batch / config.ema_half_life) if config.ema_half_life else 0.0
    if not (faults.get("g") or faults.get("path")):  # what trains badly is not worth averaging
        average_(nets.ema, nets.generator, decay)
    if nets.discriminator_ema is not None and not (faults.get("d") or faults.get("r1")):
        average_(nets.discriminator_ema, nets.discriminator, decay)
    run.method.after_step(context, run.state)
    _take_stock(run, step, faults)
    skipped = sum(map(bool, faults.values()))
    return stats | {"skipped": skipped} if skipped else stats


def _take_stock(run: Adaptation, step: int, faults: dict[str, str]) -> None:
    """Count what was left out; raises NotFinite if that happens again and again."""
    run.health = run.health.after(step, faults)
    site, row = run.health.longest()
    if row.count >= PATIENCE:
        raise NotFinite(f"{faults[site]} at step {step + 1}, the {PATIENCE}th time in a row", row.since)


def _train(phase: Phase, run: Adaptation, context: Context, reals: Tensor, rng: torch.Generator) -> tuple[Stats, str]:
    """One optimiser step: the phase's loss, its gradients, what the method makes of them, Adam.

    Returns the losses and ""; or none and what is not finite, and then the run is as it was.
    """
    network, optimiser = run.nets.of(phase)
    trained = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    other = run.nets.discriminator if network is run.nets.generator else run.nets.generator
    frozen = [parameter for parameter in other.parameters() if parameter.requires_grad]
    before = run.path_mean, run.ada
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        losses, gates = _differentiate(phase, run, context, reals, rng, trained)
        inputs = [*trained, *(gates or {}).values()]
        stats = {name: value.item() for name, value in losses.items()}
        # Also where gradients are finite and their squares are not: Adam's second moment would never recover.
        norm = torch.nn.utils.get_total_norm([x.grad for x in inputs if x.grad is not None]).item()
        told = {**stats, f"the gradient of {phase}": norm}
        if fault := next((name for name, value in told.items() if not math.isfinite(value)), None):
            run.path_mean, run.ada = before
            return {}, f"{fault} is not finite"
        if inputs:
            run.method.after_backward(phase, context, run.state, gates)
            optimiser.step()
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
    return stats, ""


def _differentiate(
    phase: Phase, run: Adaptation, context: Context, reals: Tensor, rng: torch.Generator, trained: list[Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
    """Leaves a phase's gradients in the parameters; returns losses and gates. Fewer images at once if memory ends."""
    nets, (_, optimiser) = run.nets, run.nets.of(phase)
    drawn, before = rng.get_state(), (run.path_mean, run.ada)
    while True:
        try:
            with in_pieces((nets.source, nets.generator, nets.discriminator), run.health.micro_batch):
                loss, losses, gates = PHASES[phase](run, context, reals, rng)
                optimiser.zero_grad(set_to_none=True)
                if inputs := trained + list((gates or {}).values()):
                    loss.backward(inputs=inputs)
            return {name: value.detach() for name, value in losses.items()}, gates
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            take_fewer(run, context.clock.step, error)
        loss = losses = gates = None  # their memory is needed
        optimiser.zero_grad(set_to_none=True)
        rng.set_state(drawn)
        run.path_mean, run.ada = before


@torch.no_grad()
def average_(average: torch.nn.Module, network: torch.nn.Module, decay: float) -> None:
    """Parameters of `average` move towards `network`'s; equal ones stay equal to the bit."""
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1.0 - decay)
