"""RICK: the source's most important filters are kept, the least important removed, by two fixed thresholds."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from tenshot.filters import Fate, Fates, FilterGroup, Kind, apply_fates_, gate_of, mask_gradients_
from tenshot.fisher import Importance, weight_fisher
from tenshot.methods.base import Clock, Context, Method, Nets, Network, Phase, State
from tenshot.methods.deciding import fates_of, is_usable, layer_report, sample_loss
from tenshot.nets import Discriminator, Generator
from tenshot.pruning import decide_pooled
from tenshot.randomness import generator_for
from tenshot.settings import check_types, require

_POOLS: dict[Network, tuple[tuple[Kind, ...], ...]] = {
    "generator": (("conv",), ("modulation",)),
    "discriminator": (("conv", "skip"),),
}
"""The filters that share thresholds: of all layers together."""


@dataclass(frozen=True)
class _Sample:
    """What one sample of an estimate is computed from."""

    z: Tensor
    noise: list[Tensor]
    real: Tensor


@dataclass(frozen=True)
class Rick(Method):
    """Remove incompatible knowledge: prune, tune or preserve filters by percentiles of Fisher information (2304.07574).

    In the warm-up only D's last layers train. Then, at every decision, the Fisher information of filters is measured
    afresh on the averaged networks and its percentiles over all layers together set the fates. Which filters are
    preserved and tuned changes from decision to decision; what is pruned stays pruned. G's mapping, constant input,
    4-px convolution and toRGB and D's fromRGB never train. docs/methods.md says where the public code differs.
    """

    name: ClassVar[str] = "rick"
    paper: ClassVar[str] = "Exploring incompatible knowledge transfer, CVPR 2023, arXiv:2304.07574"
    changes: ClassVar[str] = "filters of middle importance; D's last layers"

    fisher_quantile: float = 40.0
    """Percentile of the Fisher information above which filters are preserved. Published: 40 for faces to babies, 85
    for faces to cats. 100 = preserve nothing."""
    prune_quantile: float = 0.1
    """Percentile of the Fisher information up to which one decision prunes: 0.1 is one filter of a thousand.
    Published: 0.1 and 0.075. 0 = prune nothing."""
    fisher_samples: int = 5
    """Generated images, each with a shot, that one estimate is averaged over."""
    warmup: float = 0.143
    """Share of the run before the first decision, one step at least. Published: 250 of 1,750 steps."""
    decisions: int = 30
    """Decisions, spread evenly over the rest of the run. Published: one in 50 of 1,750 steps."""
    max_new_per_update: float = 0.01
    """Largest share of a pool of filters that one decision may prune when many tie, as dead filters do at 0."""
    mask_ema: bool = True
    """Prune the averaged networks too. The public code does not: there a pruned filter only fades."""
    prune_scope: Literal["filter", "weight"] = "filter"
    """What a fate holds of a convolution of G. filter: weights and bias, and a pruned one is silent. weight, as
    published: the weights alone; bias and noise of pruned and preserved filters stay, and train."""
    fresh_latents: bool = False
    """Draw new latents for every estimate. Published: the same ones all through the run."""

    def __post_init__(self) -> None:
        check_types(self, self.name)
        require(self, self.name, "fisher_samples", self.fisher_samples >= 1, "at least 1")
        require(self, self.name, "decisions", self.decisions >= 1, "at least 1")
        require(self, self.name, "warmup", 0 <= self.warmup < 1, "a share of the run, at least 0 and below 1")
        require(self, self.name, "fisher_quantile", 0 <= self.fisher_quantile <= 100, "between 0 and 100")
        top = self.fisher_quantile
        require(self, self.name, "prune_quantile", 0 <= self.prune_quantile <= top, f"from 0 to fisher_quantile, {top}")
        least = self.prune_quantile / 100
        is_room = least <= self.max_new_per_update <= 1
        require(self, self.name, "max_new_per_update", is_room, f"from {least:g}, which is prune_quantile, to 1")

    def needs_discriminator_ema(self) -> bool:
        return True

    def trains(self, network: Network, parameter: str) -> bool:
        if network == "generator":
            return parameter.startswith("convs.")
        return not parameter.startswith("convs.0.")

    def may_prune(self, network: Network, group: FilterGroup) -> bool:
        return _is_prunable(group)

    def setup(self, context: Context) -> State:
        state: State = {}
        for network in _POOLS:
            for group in self._groups(network, context.nets):
                fate = torch.full([group.count], int(Fate.TUNE))
                if group.gated:
                    fate[gate_of(getattr(context.nets, network), group).cpu() == 0] = int(Fate.PRUNE)
                state[f"{network}/{group.name}/fate"] = fate
        return state

    def skips(self, phase: Phase, clock: Clock) -> bool:
        return phase in ("g", "path") and self._is_warmup(clock)

    def after_backward(self, phase: Phase, context: Context, state: State, gates: dict[str, Tensor] | None) -> None:
        trained, _ = context.nets.of(phase)
        network: Network = "generator" if trained is context.nets.generator else "discriminator"
        if self._is_warmup(context.clock):
            for name, parameter in trained.named_parameters():
                if not name.startswith("final_"):
                    parameter.grad = None
        groups = self._groups(network, context.nets)
        mask_gradients_(fates_of(network, groups, state), groups, trained)

    def after_step(self, context: Context, state: State) -> None:
        clock, nets = context.clock, context.nets
        if clock.step + 1 not in self.decision_steps(clock.steps):
            return
        for network, fisher in _measure(nets, self._samples(context)).items():
            if is_usable(fisher, network, context):
                self._decide(network, fisher, context, state)

    def warmup_steps(self, steps: int) -> int:
        """Steps of the warm-up, at least one: the first decision comes before G's first step. Not all of them, or there
        would be no such step."""
        return max(1, min(round(self.warmup * steps), steps - 1))

    def decision_steps(self, steps: int) -> list[int]:
        """After how many steps of a run decisions are taken; never after the last, which would leave none to heal."""
        first = self.warmup_steps(steps)
        return sorted({first + k * (steps - first) // self.decisions for k in range(self.decisions)} - {steps})

    def _is_warmup(self, clock: Clock) -> bool:
        return clock.step < self.warmup_steps(clock.steps)

    def _groups(self, network: Network, nets: Nets) -> list[FilterGroup]:
        """What has fates, with the parameters that a fate holds."""
        groups = _prunable(getattr(nets, network))
        return _weights_alone(groups) if network == "generator" and self.prune_scope == "weight" else groups

    def _decide(self, network: Network, fisher: Importance, context: Context, state: State) -> None:
        nets, groups = context.nets, self._groups(network, context.nets)
        before = fates_of(network, groups, state)
        if self.mask_ema:  # what is erased from the average is out of the count
            fisher = {name: fisher[name].masked_fill(fate == Fate.PRUNE, 0.0) for name, fate in before.items()}
        after = self._fates_after(before, fisher, network, groups)
        averaged = nets.ema if network == "generator" else nets.discriminator_ema
        apply_fates_(
            before,
            after,
            groups,
            getattr(nets, network),
            copies=(averaged,) if averaged is not None and self.mask_ema else (),
            optimiser=nets.optimiser_g if network == "generator" else nets.optimiser_d,
            close=self.prune_scope == "filter",
        )
        state.update({f"{network}/{name}/fate": fate for name, fate in after.items()})
        context.record(_report(context.clock.step + 1, network, groups, fisher, after))

    def _fates_after(self, before: Fates, fisher: Importance, network: Network, groups: list[FilterGroup]) -> Fates:
        after: Fates = {}
        for kinds in _POOLS[network]:
            pool = [group for group in groups if group.kind in kinds]
            fates = torch.cat([before[group.name] for group in pool])
            fates = decide_pooled(
                torch.cat([fisher[group.name] for group in pool]),
                fates,
                prune_percent=self.prune_quantile,
                tune_percent=self.fisher_quantile,
                counted=(fates != Fate.PRUNE) | (not self.mask_ema),
                max_new=self.max_new_per_update,
            )
            parts = fates.split([group.count for group in pool])
            after |= {group.name: part.clone() for group, part in zip(pool, parts, strict=True)}
        return after

    def _samples(self, context: Context) -> list[_Sample]:
        clock, generator = context.clock, context.nets.ema
        rng = generator_for(clock.seed, "fisher", clock.step)
        fixed = rng if self.fresh_latents else generator_for(clock.seed, "fisher")
        shape = (self.fisher_samples, 1, generator.spec.latent_size)
        latents = torch.randn(shape, generator=fixed).to(generator.latent_avg)
        return [_Sample(z, generator.draw_noise(1, rng), context.reals(1, rng)) for z in latents]


def _measure(nets: Nets, samples: list[_Sample]) -> dict[Network, Importance]:
    """Fisher information of the filters of the averaged networks, one sample at a time, on the CPU.

    The mean squared derivative by a filter's weights; for modulation rows and D's convolutions, averaged with that by
    the bias.
    """
    generator, discriminator = nets.ema, nets.discriminator_ema
    assert discriminator is not None  # needs_discriminator_ema
    groups: dict[Network, list[FilterGroup]] = {
        "generator": _weights_alone(_prunable(generator)),
        "discriminator": _prunable(discriminator),
    }
    fisher: dict[Network, Importance] = {}
    for network, averaged in zip(_POOLS, (generator, discriminator), strict=True):
        losses = [partial(sample_loss, network, nets, s.z, s.noise, lambda s=s: s.real) for s in samples]
        fisher[network] = weight_fisher(averaged, groups[network], losses)
    return {network: {name: values.cpu() for name, values in each.items()} for network, each in fisher.items()}


def _is_prunable(group: FilterGroup) -> bool:
    """Not so: G's 4-px convolution, D's fromRGB and last convolution."""
    return group.prunable and group.name.startswith("convs.")


def _prunable(network: Generator | Discriminator) -> list[FilterGroup]:
    return [group for group in network.filter_groups() if _is_prunable(group)]


def _weights_alone(groups: list[FilterGroup]) -> list[FilterGroup]:
    """Convolutions without their biases."""
    return [replace(group, slices=group.slices[:1]) if group.kind == "conv" else group for group in groups]


def _report(step: int, network: Network, groups: list[FilterGroup], fisher: Importance, fates: Fates) -> dict[str, Any]:
    """One decision as JSON: per layer the share of each fate and every filter's Fisher information; the bank's size."""
    layers = {group.name: layer_report(group, fates[group.name], fisher[group.name]) for group in groups}
    bank = sum(int((fate == Fate.PRUNE).sum()) for fate in fates.values())
    return {"step": step, "network": network, "layers": layers, "bank": bank}
