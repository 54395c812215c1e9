"""DAP, dynamic adaptive pruning: what does not fit the new domain is found while training, and removed."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from tenshot.filters import Fate, FilterGroup, apply_fates_, gate_of, mask_gradients_, sample_gates
from tenshot.fisher import Importance, gate_fisher, magnitude, weight_fisher
from tenshot.lacking import LACKS, lacking, square_, told, without
from tenshot.methods.base import Batch, Context, Method, Nets, Network, Phase, State
from tenshot.methods.cdc import Cdc
from tenshot.methods.dcl import Dcl
from tenshot.methods.deciding import decision_report, fates_of, is_usable, sample_loss, source_gate_fisher
from tenshot.nets import Generator
from tenshot.pruning import Guards, count_cumulative, count_share, count_single, decide, ramp, track
from tenshot.randomness import generator_for
from tenshot.reach import SOURCE_SAMPLES, Below, Mean, beyond, extend, places, relative, remember_, spreads_of
from tenshot.settings import check_types, require

_LOSS_PHASE: dict[Network, Phase] = {"generator": "g", "discriminator": "d"}
_CONSISTENCY: dict[str, Method] = {"cdc": Cdc(), "dcl": Dcl()}


@dataclass(frozen=True)
class Dap(Method):
    """Track each filter's Fisher information all through training; let cumulative importance set every layer's ratio.

    Journal of Graphics 2026, 47(1):131-142; formulas of our own where it publishes none (docs/methods.md).
    Before `warmup` everything trains and is only watched. Then, every `every` steps, each layer prunes
    the filters that together carry `prune_mass` of its importance (a share that rises until `settle`), preserves the
    few that carry `preserve_mass`, and tunes the rest. What comes out has each layer as far from the source as its
    Fisher information asks for (`reach`).
    """

    name: ClassVar[str] = "dap"
    paper: ClassVar[str] = "A dynamic pruning approach for cross-domain few-shot image generation, 2026"

    estimator: Literal["gate", "weight"] = "gate"
    """gate: from the training step's own backward pass, every step. weight: squared gradients of single samples
    through the averaged networks, every `every` steps (RICK)."""
    beta: float = 0.98
    """Memory of the tracked importance: each new estimate weighs 1 - beta, or 1 - beta**every where `estimator`
    is weight, which makes fewer."""
    warmup: float = 0.15
    """Share of the run before the first decision."""
    settle: float = 0.6
    """Share of the run after which prune_mass no longer rises."""
    every: int = 20
    """Steps between decisions; one at the very end of `warmup` prunes nothing yet."""
    prune_mass: float = 0.003
    """Share of a layer's importance that its pruned filters may carry together. 0 = prune nothing."""
    preserve_mass: float = 0.0
    """Share of a layer's importance that its preserved filters carry together. 0 = preserve nothing."""
    networks: Literal["both", "generator", "discriminator"] = "both"
    """Which networks are pruned and preserved."""
    revive: bool = False
    """Whether a pruned filter returns when its importance climbs back."""
    fisher_samples: int = 8
    """Samples of each `weight` estimate."""
    consistency: Literal["none", "cdc", "dcl"] = "none"
    """Losses that hold G to its source: those of the method named, with its default settings, without its anchors and
    patches. The gate estimator does not see them."""
    consistency_weight: float = 1.0
    """Factor on their published weights."""
    rule: Literal["cumulative", "single", "layer", "global"] = "cumulative"
    """What sets how many filters of a layer go; all but cumulative are there for comparison. cumulative: prune_mass.
    single: each filter for itself, up to prune_level of its layer's mean importance. layer: the share prune_level of
    every layer. global: the share prune_level of all layers together, by importances not divided by their layer's mean
    (as RICK's)."""
    prune_level: float = 0.04
    """Of the other rules; rises as prune_mass does."""
    choose: Literal["importance", "magnitude", "random"] = "importance"
    """Which filters go first, however many: the least important; for comparison the smallest, or any."""
    reach: float = 0.0
    """How far the layers of the result go from the source on average: this times their Fisher information early in
    the run, as a share of what it had in the source; each in proportion to the root of its own. Where little was at
    stake the source is kept, where much was a layer goes on beyond the moving average. 0 = the moving average."""
    reach_mean: Mean = "arithmetic"
    """How a layer's Fisher information is averaged over those steps. geometric: the few steps in which it leaps up
    weigh little, so seeds agree better; it is lower, and wants a larger `reach`."""
    reach_images: int = 2400
    """Over how many of the run's first images that is: what is at stake falls while a run goes on, and more steps do
    not make a domain nearer. After them the result goes the less beyond the average, and spreads the less, the longer
    the run has gone on: by the root of their share of it. 0 = all, and no less of either."""
    max_reach: float = 1.25
    """The farthest that layers go on average; 1 is where the moving average is."""
    max_layer_reach: float = 2.0
    """The farthest that any layer goes."""
    spread: float = 1.0
    """How much more a layer's styles vary with the latent than as trained; times its reach, where that is above 1."""
    spread_below: Below = "full"
    """What of it layers get whose reach is below 1. full: all. place: in proportion to their reach, since the source's
    styles need none."""
    palette: Literal["free", "shots"] = "free"
    """Colours of the result. free: as trained. shots: directions of colour along which the shots vary by less than two
    of 255 levels (standard deviation) are removed, so a domain without colour comes out without the source's tint."""
    grain: Literal["free", "shots"] = "free"
    """Noise of the result. free: as trained. shots: where at least half of the shots' pairs of neighbours (at 64 px)
    differ by at most two of 255 levels, as in flat drawings, the layers at full and half the resolution have none."""
    mosaic: Literal["free", "shots"] = "free"
    """Fine detail of images, in training too. free: any. shots: where the shots are made of squares of one colour, as
    pixel art is, so is every image."""
    gamut: Literal["free", "shots"] = "free"
    """How far colours of the result go. free: as trained. shots: no farther than those of all but a thousandth of the
    shots' pixels, along thirteen directions, so what lies beyond the average is not louder than the shots."""
    guards: Guards = Guards()

    def __post_init__(self) -> None:
        check_types(self, self.name)
        require(self, self.name, "every", self.every >= 1, "at least 1")
        require(self, self.name, "fisher_samples", self.fisher_samples >= 1, "at least 1")
        require(self, self.name, "beta", 0 <= self.beta < 1, "at least 0 and below 1")
        require(self, self.name, "prune_mass", 0 <= self.prune_mass < 1, "at least 0 and below 1")
        require(self, self.name, "preserve_mass", 0 <= self.preserve_mass <= 1, "between 0 and 1")
        require(self, self.name, "prune_level", 0 <= self.prune_level <= 1, "between 0 and 1")
        require(self, self.name, "consistency_weight", 0 <= self.consistency_weight < math.inf, "at least 0")
        require(self, self.name, "reach", 0 <= self.reach < math.inf, "at least 0")
        require(self, self.name, "reach_images", self.reach_images >= 0, "at least 0")
        require(self, self.name, "max_reach", 0 < self.max_reach < math.inf, "above 0")
        require(self, self.name, "max_layer_reach", 0 < self.max_layer_reach < math.inf, "above 0")
        require(self, self.name, "spread", 0 < self.spread < math.inf, "above 0")
        require(self, self.name, "warmup", 0 <= self.warmup <= self.settle, f"from 0 to settle, {self.settle}")
        require(self, self.name, "settle", self.settle <= 1, "a share of the run, at most 1")
        is_seen = not self.revive or self.estimator == "gate"
        require(self, self.name, "revive", is_seen, "off with the weight estimator, which cannot see pruned filters")
        is_plain = not self.revive or (self.rule, self.choose) == ("cumulative", "importance")
        require(self, self.name, "revive", is_plain, "off with another rule or choice, by which nothing climbs back")

    def idle(self) -> dict[str, str]:
        found: dict[str, str] = {}
        if not self.reach:
            found |= dict.fromkeys(
                ("max_reach", "max_layer_reach", "reach_images", "reach_mean", "spread_below"), "--dap.reach above 0"
            )
        if self.estimator == "gate":
            found["fisher_samples"] = "--dap.estimator weight"
        if self.consistency == "none":
            found["consistency_weight"] = "--dap.consistency cdc or dcl"
        is_cumulative = self.rule == "cumulative"
        other = "--dap.rule single, layer or global" if is_cumulative else "--dap.rule cumulative"
        return found | {"prune_level" if is_cumulative else "prune_mass": other}

    def needs_discriminator_ema(self) -> bool:
        return self.estimator == "weight"

    def may_prune(self, network: Network, group: FilterGroup) -> bool:
        return self.networks in ("both", network) and group.gated and group.prunable

    def averaged(self, nets: Nets, state: State) -> Generator:
        """Each layer at its reach between source and moving average, or beyond, its styles spread, and nothing that the
        shots lack; the moving average as it is before the first estimate."""
        if not any(estimates for key, estimates in state.items() if key.endswith("/estimates")):
            return nets.ema
        return without(self._extended(nets, state), state)

    def _extended(self, nets: Nets, state: State) -> Generator:
        if not self.reach and self.spread == 1.0:
            return nets.ema
        reaches = self.reaches(state) or dict.fromkeys(nets.ema.blocks().keys() - {"style"}, 1.0)
        groups = dict(self._watched(nets)).get("generator", [])
        spreads = spreads_of(reaches, beyond(self.spread, self._early(state)), self.spread_below)
        return extend(nets.source, nets.ema, reaches, spreads, fates_of("generator", groups, state), groups)

    def reaches(self, state: State) -> dict[str, float]:
        """By the name of G's layer: how far it goes, 1 = as far as the moving average; 1 before the first estimate and
        for layers without Fisher information in the source. Empty without `reach`."""
        names = [key.split("/")[1] for key in state if key.startswith("generator/") and key.endswith("/information")]
        found = {name: relative(state[f"generator/{name}/information"], self.reach_mean) for name in names}
        shares = {name: share for name, share in found.items() if share is not None}
        reached = places(shares, self.reach, self.max_reach, self.max_layer_reach) if shares else {}
        early = self._early(state)
        return dict.fromkeys(names, 1.0) | {name: beyond(place, early) for name, place in reached.items()}

    def _early(self, state: State) -> float:
        """Share of G's estimates so far that are of the run's first `reach_images` images; 1 before the first, and
        without reach."""
        counted = [accounts[2].item() for key, accounts in state.items() if key.endswith("/information")]
        return max(counted) / int(state["generator/estimates"]) if any(counted) else 1.0

    def card(self, state: State) -> dict[str, Any]:
        reaches = self.reaches(state)
        reach = {"reach": {name: round(place, 4) for name, place in reaches.items()}} if reaches else {}
        return reach | told(state)

    def setup(self, context: Context) -> State:
        state: State = lacking(context.shots, [lack for lack in LACKS if getattr(self, lack) == "shots"])
        for generator in (context.nets.source, context.nets.generator, context.nets.ema):
            square_(generator, state)
        for network, groups in self._watched(context.nets):
            for group in groups:
                is_closed = gate_of(getattr(context.nets, network), group).cpu() == 0
                state[f"{network}/{group.name}/importance"] = torch.zeros(group.count)
                state[f"{network}/{group.name}/fate"] = torch.where(is_closed, int(Fate.PRUNE), int(Fate.TUNE))
            state[f"{network}/estimates"] = torch.zeros((), dtype=torch.int64)
            if self.reach and network == "generator":
                for name, values in self._source_fisher(groups, context).items():
                    source = values.mean().item()
                    state[f"generator/{name}/information"] = torch.tensor([source, 0, 0], dtype=torch.float64)
        return state

    def extra_losses(self, phase: Phase, context: Context, state: State, batch: Batch) -> dict[str, Tensor]:
        if self.consistency == "none":
            return {}
        losses = _CONSISTENCY[self.consistency].extra_losses(phase, context, state, batch)
        return {name: self.consistency_weight * loss for name, loss in losses.items()}

    def gates(self, phase: Phase, context: Context, rows: int) -> dict[str, Tensor] | None:
        for network, groups in self._watched(context.nets):
            if self.estimator == "gate" and phase == _LOSS_PHASE[network]:
                return sample_gates(getattr(context.nets, network), groups, rows)
        return None

    def after_backward(self, phase: Phase, context: Context, state: State, gates: dict[str, Tensor] | None) -> None:
        trained, _ = context.nets.of(phase)
        for network, groups in self._watched(context.nets):
            if getattr(context.nets, network) is trained:
                if gates is not None:
                    self._track(network, groups, gate_fisher(gates, context.clock.batch), context, state, self.beta)
                mask_gradients_(fates_of(network, groups, state), groups, trained)

    def after_step(self, context: Context, state: State) -> None:
        clock, nets = context.clock, context.nets
        step = clock.step + 1
        warmup, settle = round(self.warmup * clock.steps), round(self.settle * clock.steps)
        if (step - warmup) % self.every or step == clock.steps:  # what goes after the last step has none to heal in
            return
        for network, groups in self._watched(nets):
            if self.estimator == "weight":
                rng = generator_for(clock.seed, "fisher", clock.step)
                fisher = self._weight_fisher(network, groups, context, rng, self.fisher_samples)
                self._track(network, groups, fisher, context, state, self.beta**self.every)
            if step < warmup:
                continue
            if self._is_pruned(network):
                self._decide(network, groups, context, state, ramp(step, warmup, settle))
            context.record(decision_report(step, network, groups, state, self.reaches(state)))

    def _is_pruned(self, network: Network) -> bool:
        return self.networks in ("both", network)

    def _watched(self, nets: Nets) -> list[tuple[Network, list[FilterGroup]]]:
        """What Fisher information is tracked of: what may be pruned; and G's layers, whose reach follows from it."""
        return [
            (network, [g for g in getattr(nets, network).filter_groups() if g.gated and g.prunable])
            for network in _LOSS_PHASE
            if self._is_pruned(network) or (network == "generator" and self.reach)
        ]

    def _track(
        self,
        network: Network,
        groups: list[FilterGroup],
        fisher: Importance,
        context: Context,
        state: State,
        beta: float,
    ) -> None:
        if not is_usable(fisher, network, context):
            return
        state[f"{network}/estimates"] += 1
        newest = {group.name: fisher[group.name].float().cpu() for group in groups}
        alive = {name: (fate != Fate.PRUNE) | self.revive for name, fate in fates_of(network, groups, state).items()}
        scale = torch.cat([newest[name][alive[name]] for name in newest]).mean() if self.rule == "global" else None
        seen, clock = int(state[f"{network}/estimates"]), context.clock
        is_early = not self.reach_images or (clock.step + 1) * clock.batch <= self.reach_images
        for name, values in newest.items():
            key = f"{network}/{name}"
            state[f"{key}/importance"] = track(state[f"{key}/importance"], values, alive[name], beta, seen, scale)
            if (information := state.get(f"{key}/information")) is not None and (is_early or not information[2]):
                remember_(information, values[alive[name]].mean(), self.reach_mean)

    def _decide(
        self, network: Network, groups: list[FilterGroup], context: Context, state: State, risen: float
    ) -> None:
        nets, before = context.nets, fates_of(network, groups, state)
        wanted = self._wanted({group.name: state[f"{network}/{group.name}/importance"] for group in groups}, risen)
        for group in groups:
            key = f"{network}/{group.name}"
            state[f"{key}/fate"] = decide(
                state[f"{key}/importance"],
                state[f"{key}/fate"],
                prune_mass=self.prune_mass * risen,
                preserve_mass=self.preserve_mass,
                guards=self.guards,
                revive=self.revive,
                wanted=wanted.get(group.name),
                rank=self._rank(network, group, context),
            )
        averaged = nets.ema if network == "generator" else nets.discriminator_ema
        apply_fates_(
            before,
            fates_of(network, groups, state),
            groups,
            getattr(nets, network),
            copies=() if averaged is None else (averaged,),
            optimiser=nets.of(_LOSS_PHASE[network])[1],
            erase=not self.revive,
        )

    def _wanted(self, importances: Importance, risen: float) -> dict[str, int]:
        """How many filters of each layer are to go; nothing where `decide` shall say so by DAP's own rule."""
        if self.rule == "single":
            return {name: count_single(values, self.prune_level * risen) for name, values in importances.items()}
        if self.rule != "cumulative":
            return count_share(importances, self.prune_level * risen, pooled=self.rule == "global")
        if self.choose != "importance":
            return {name: count_cumulative(values, self.prune_mass * risen) for name, values in importances.items()}
        return {}

    def _rank(self, network: Network, group: FilterGroup, context: Context) -> Tensor | None:
        """What filters are chosen by, `[count]`, if it is not their importance."""
        if self.choose == "magnitude":
            return magnitude(getattr(context.nets, network), group).cpu()
        if self.choose == "random":
            return torch.rand(group.count, generator=generator_for(context.clock.seed, "choice", network, group.name))
        return None

    def _source_fisher(self, groups: list[FilterGroup], context: Context) -> Importance:
        """Of G's filters by this method's estimator, while both networks are still the source's."""
        nets, rng = context.nets, generator_for(context.clock.seed, "source Fisher")
        if self.estimator == "weight":
            return self._weight_fisher("generator", groups, context, rng, SOURCE_SAMPLES)
        return source_gate_fisher(
            nets, groups, math.ceil(SOURCE_SAMPLES / context.clock.batch), context.clock.batch, rng
        )

    def _weight_fisher(
        self, network: Network, groups: list[FilterGroup], context: Context, rng: torch.Generator, samples: int
    ) -> Importance:
        nets, generator = context.nets, context.nets.ema
        averaged = generator if network == "generator" else nets.discriminator_ema
        assert averaged is not None  # needs_discriminator_ema
        drawn = [torch.randn(1, generator.spec.latent_size, generator=rng) for _ in range(samples)]

        def loss(z: Tensor) -> Tensor:
            z, noise = z.to(generator.latent_avg.device), generator.draw_noise(1, rng)
            return sample_loss(network, nets, z, noise, lambda: context.reals(1, rng))

        return weight_fisher(averaged, groups, (partial(loss, z) for z in drawn))
