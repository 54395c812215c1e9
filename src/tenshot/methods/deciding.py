"""What methods that decide the fates of filters have in common: what they measure by, and how a decision is told."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tenshot.filters import Fate, Fates, FilterGroup, sample_gates
from tenshot.fisher import Importance, gate_fisher
from tenshot.losses import discriminator_loss, generator_loss
from tenshot.methods.base import Context, Nets, Network, State


def fates_of(network: Network, groups: list[FilterGroup], state: State) -> Fates:
    """By group, as the state has them."""
    return {group.name: state[f"{network}/{group.name}/fate"] for group in groups}


def sample_loss(network: Network, nets: Nets, z: Tensor, noise: list[Tensor], real: Callable[[], Tensor]) -> Tensor:
    """What `weight_fisher` differentiates, of one sample through the averaged networks (arXiv:2210.16559).

    softplus(-D(G(z))) for G, softplus(-D(x)) + softplus(D(G(z))) for D, by D's parameters alone.
    z: `[1 d]`; noise: G's; real: draws the shot x, `[1 3 r r]`, and is called for D only.
    """
    generator, discriminator = nets.ema, nets.discriminator_ema
    assert discriminator is not None  # needs_discriminator_ema
    if network == "generator":
        return generator_loss(discriminator(generator(z, noise)))
    with torch.no_grad():
        fake = generator(z, noise)
    real_logits, fake_logits = discriminator(torch.cat([real(), fake]), minibatches=2).split(1)
    return discriminator_loss(real_logits, fake_logits)


def source_gate_fisher(
    nets: Nets, groups: list[FilterGroup], batches: int, batch: int, rng: torch.Generator
) -> Importance:
    """Of G's filters, by the gates of G's own loss, while both networks are still the source's: mean over `batches` of
    `batch` latents each."""
    generator = nets.generator
    sums: Importance = {}
    for _ in range(batches):
        gates = sample_gates(generator, groups, batch)
        z = torch.randn(batch, generator.spec.latent_size, generator=rng).to(generator.latent_avg.device)
        ws, noise = generator.spread(generator.map(z)), generator.draw_noise(batch, rng)
        loss = generator_loss(nets.discriminator(generator.synthesise(ws, noise, gates)))
        loss.backward(inputs=list(gates.values()))
        for name, values in gate_fisher(gates, batch).items():
            sums[name] = sums.get(name, 0.0) + values / batches
    return sums


def is_usable(fisher: Importance, network: Network, context: Context) -> bool:
    """Whether an estimate is finite. One that is not is to be passed over; it is recorded and counted."""
    is_finite = all(bool(torch.isfinite(values).all()) for values in fisher.values())
    context.measured(is_finite)
    if not is_finite:
        context.record({"step": context.clock.step + 1, "network": network, "skipped": "Fisher is not finite"})
    return is_finite


def layer_report(group: FilterGroup, fate: Tensor, importance: Tensor) -> dict[str, Any]:
    """One layer of a decision as JSON: the share of each fate, and every filter's importance, `[count]` each."""
    return {
        "resolution": group.resolution,
        "pruned": _share(fate, Fate.PRUNE),
        "preserved": _share(fate, Fate.PRESERVE),
        "importance": [float(f"{value:.3g}") for value in importance.tolist()],
    }


def _share(fates: Tensor, fate: Fate) -> float:
    return round((fates == fate).double().mean().item(), 4)


def decision_report(
    step: int, network: Network, groups: list[FilterGroup], state: State, reaches: dict[str, float]
) -> dict[str, Any]:
    """One decision as JSON: per layer the share of each fate, every filter's tracked importance, and G's reach."""
    layers = {}
    for group in groups:
        fate, importance = (state[f"{network}/{group.name}/{what}"] for what in ("fate", "importance"))
        layers[group.name] = layer_report(group, fate, importance)
        if network == "generator" and reaches:
            layers[group.name]["reach"] = round(reaches[group.name], 4)
    return {"step": step, "network": network, "layers": layers}
