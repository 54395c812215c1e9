"""AdAM, adaptation-aware kernel modulation: filters that matter to the new domain are modulated, others are tuned."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tenshot import kml
from tenshot.filters import Fate, Fates, FilterGroup, Slice, mask_gradients_
from tenshot.fisher import Importance, weight_fisher
from tenshot.methods.base import Context, Method, Network, Phase, State
from tenshot.methods.deciding import layer_report, sample_loss
from tenshot.nets import Discriminator, Generator
from tenshot.randomness import generator_for
from tenshot.recovery import NotFinite
from tenshot.settings import check_types, require

_NETWORKS: tuple[Network, ...] = ("generator", "discriminator")


@dataclass(frozen=True)
class AdaM(Method):
    """Find out which filters matter to the new domain, modulate those, tune the others (arXiv:2210.16559, 2307.01465).

    The *probe* trains only vectors that modulate the kernels (`tenshot.kml`) and D's last layers. At its end the Fisher
    information of these vectors gives each filter's importance, and everything returns to the source. From then on
    filters above a percentile of their group keep their weights and train their modulation; the others train
    their weights and are not modulated. A preserved filter is one that is modulated.
    """

    name: ClassVar[str] = "adam"
    paper: ClassVar[str] = "Few-shot image generation via adaptation-aware kernel modulation, NeurIPS 2022"
    changes: ClassVar[str] = "unimportant filters; rank-one modulations of all others; D's last layers"

    probe: float = 0.25
    """Share of the run that finds out which filters matter; its training is then undone. Published: 500 steps of
    2,000."""
    fisher_samples: int = 250
    """Samples of the Fisher information at the end of the probe. Published: 1,000."""
    percentile: float = 50.0
    """Share of a group's filters, in percent, that are fine-tuned; the more important rest is modulated. G's
    convolutions, G's style rows and D's convolutions are a group each, of all layers. Published: 50 for near domains
    (Babies), 75 for far ones (AFHQ-Cat)."""
    legacy_outer_product: bool = False
    """Modulate convolutions as the public code does, whose v[o] does not belong to filter o."""
    legacy_linear_scale: bool = False
    """Scale style layers by their outputs' number as the public code does, which changes a source whose layers are not
    as wide as its latents."""

    def __post_init__(self) -> None:
        check_types(self, self.name)
        require(self, self.name, "probe", 0 < self.probe < 1, "a share of the run, above 0 and below 1")
        require(self, self.name, "fisher_samples", self.fisher_samples >= 1, "at least 1")
        require(self, self.name, "percentile", 0 <= self.percentile <= 100, "between 0 and 100")

    def needs_discriminator_ema(self) -> bool:
        return True

    def prepare(self, generator: Generator, discriminator: Discriminator) -> None:
        for network, module in zip(_NETWORKS, (generator, discriminator), strict=True):
            modulated = [name for name, _ in module.named_parameters() if _is_modulated(name)]
            layers = self._layers(network, module)
            kml.modulate_(
                module, modulated, scrambled=self.legacy_outer_product, linear_fan_out=self.legacy_linear_scale
            )
            tuned = {piece.parameter for layer in layers for piece in layer.base.slices}
            for name in {kml.base_name(name) for name in modulated} - tuned:
                module.get_parameter(name).requires_grad_(False)
        generator.input.requires_grad_(False)

    def merge(self, generator: Generator) -> Generator:
        return kml.merged(generator)

    def may_prune(self, network: Network, group: FilterGroup) -> bool:
        return group.prunable and group.name.startswith("convs.")

    def setup(self, context: Context) -> State:
        """The fates (all preserved: the probe trains no filter), importances, and D's last layers as they begin."""
        state: State = {}
        for network in _NETWORKS:
            for layer in self._layers(network, getattr(context.nets, network)):
                state[f"{network}/{layer.name}/fate"] = torch.full([layer.base.count], int(Fate.PRESERVE))
                state[f"{network}/{layer.name}/importance"] = torch.zeros(layer.base.count)
        for name, parameter in _last_layers(context.nets.discriminator):
            state[f"start/{name}"] = parameter.detach().clone()
        self._return_to_source(context, state)
        return state

    def after_backward(self, phase: Phase, context: Context, state: State, gates: dict[str, Tensor] | None) -> None:
        network: Network = "discriminator" if phase in ("d", "r1") else "generator"
        trained, _ = context.nets.of(phase)
        layers = self._layers(network, trained)
        fates = {layer.name: state[f"{network}/{layer.name}/fate"] for layer in layers}
        others = {name: torch.where(fate == Fate.TUNE, Fate.PRESERVE, Fate.TUNE) for name, fate in fates.items()}
        mask_gradients_(fates, [layer.base for layer in layers], trained)
        mask_gradients_(others, [layer.vectors for layer in layers], trained)

    def after_step(self, context: Context, state: State) -> None:
        step = context.clock.step + 1
        if step != self._probe_steps(context.clock.steps):
            return
        for network in _NETWORKS:
            layers = self._layers(network, getattr(context.nets, network))
            importance = self._importance(network, layers, context)
            if not all(torch.isfinite(values).all() for values in importance.values()):
                raise NotFinite(f"the Fisher information of step {step} is not finite", step)
            for name, fate in self._decide(layers, importance).items():
                state[f"{network}/{name}/fate"] = fate
                state[f"{network}/{name}/importance"] = importance[name]
            context.record(_report(step, network, layers, state))
        self._return_to_source(context, state)

    def _probe_steps(self, steps: int) -> int:
        return max(1, min(round(self.probe * steps), steps - 1))

    def _layers(self, network: Network, module: Generator | Discriminator) -> list["_Layer"]:
        """The layers whose filters are decided on; by the names that their parameters have once modulated."""
        return [_layer(network, group) for group in module.filter_groups() if self.may_prune(network, group)]

    @torch.no_grad()
    def _return_to_source(self, context: Context, state: State) -> None:
        """Vectors and D's last layers as they began, no moments, averages equal; v and b of tuned filters are 0."""
        nets, averages = context.nets, (context.nets.ema, context.nets.discriminator_ema)
        for name, parameter in _last_layers(nets.discriminator):
            parameter.copy_(state[f"start/{name}"])
        for network, average in zip(_NETWORKS, averages, strict=True):
            trained: Generator | Discriminator = getattr(nets, network)
            kml.draw_(trained, context.clock.seed)
            for layer in self._layers(network, trained):
                is_tuned = state[f"{network}/{layer.name}/fate"] == Fate.TUNE
                for piece in layer.vectors.slices:
                    vector = trained.get_parameter(piece.parameter)
                    vector.masked_fill_(piece.broadcast(is_tuned, vector), 0.0)
            assert average is not None  # needs_discriminator_ema
            average.load_state_dict(trained.state_dict())
        for optimiser in (nets.optimiser_g, nets.optimiser_d):
            optimiser.state.clear()

    def _importance(self, network: Network, layers: list["_Layer"], context: Context) -> Importance:
        """Group name -> `[count]`: (mean F_u + F_v + F_b) / 2, or mean F_u + F_v where a filter has no b."""
        nets = context.nets
        assert nets.discriminator_ema is not None  # needs_discriminator_ema
        averaged = nets.ema if network == "generator" else nets.discriminator_ema
        vectors = [name for layer in layers for name in (layer.u, *(s.parameter for s in layer.vectors.slices))]
        entries = [_every_entry(averaged, name) for name in vectors]
        fisher = weight_fisher(averaged, entries, self._losses(network, context))
        importance: Importance = {}
        for layer in layers:
            own = [fisher[piece.parameter].float().cpu() for piece in layer.vectors.slices]
            importance[layer.name] = (sum(own) + fisher[layer.u].float().cpu().mean()) / len(own)
        return importance

    def _decide(self, layers: list["_Layer"], importance: Importance) -> Fates:
        """Tuned up to the pool's percentile, preserved above; G's style rows are one pool, convolutions another."""
        fates: Fates = {}
        for is_row in (False, True):
            pool = [layer.name for layer in layers if (layer.base.kind == "modulation") == is_row]
            if pool:
                values = torch.cat([importance[name] for name in pool]).double()
                threshold = values.quantile(self.percentile / 100)
                fates |= {
                    name: torch.where(importance[name] > threshold, int(Fate.PRESERVE), int(Fate.TUNE)) for name in pool
                }
        return fates

    def _losses(self, network: Network, context: Context) -> Iterator[Callable[[], Tensor]]:
        """Of one sample each, drawn by its number: the same ones for G and D."""

        def loss(sample: int) -> Tensor:
            generator, rng = context.nets.ema, generator_for(context.clock.seed, "probe", sample)
            z = torch.randn(1, generator.spec.latent_size, generator=rng).to(generator.latent_avg.device)
            return sample_loss(network, context.nets, z, generator.draw_noise(1, rng), lambda: context.reals(1, rng))

        return (partial(loss, k) for k in range(self.fisher_samples))


@dataclass(frozen=True)
class _Layer:
    """A layer whose filters are either tuned or modulated."""

    base: FilterGroup
    """Slices: what a tuned filter trains."""
    vectors: FilterGroup
    """Slices: what a modulated filter trains of its own, v and, if any, b."""
    u: str
    """Shared by the layer's filters, trains always."""

    @property
    def name(self) -> str:
        return self.base.name


def _layer(network: Network, group: FilterGroup) -> _Layer:
    """G's activations are shifted for every filter, whatever its fate, and their own biases stay the source's."""
    weight, *biases = group.slices[:1] if network == "generator" and group.kind == "conv" else group.slices
    base = [Slice(kml.base_name(piece.parameter), piece.axis) for piece in (weight, *biases)]
    vectors = [Slice(kml.vector_name(weight.parameter, "v"), 0)]
    vectors += [Slice(kml.vector_name(piece.parameter, "b"), piece.axis) for piece in biases]
    return _Layer(
        replace(group, slices=tuple(base)),
        replace(group, slices=tuple(vectors)),
        kml.vector_name(weight.parameter, "u"),
    )


def _is_modulated(parameter: str) -> bool:
    """All but G's constant input and D's last layers."""
    return not parameter.startswith(("input.", "final_"))


def _last_layers(discriminator: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in discriminator.named_parameters() if name.startswith("final_")]


def _every_entry(network: nn.Module, vector: str) -> FilterGroup:
    """Each entry of a vector (each input channel of a u) as a filter of its own, for `weight_fisher`."""
    return FilterGroup(vector, "conv", len(network.get_parameter(vector)), 0, (Slice(vector, 0),))


def _report(step: int, network: Network, layers: list[_Layer], state: State) -> dict[str, Any]:
    """The decision as JSON: per layer the share of modulated filters and every filter's importance."""
    report = {}
    for layer in layers:
        fate, importance = (state[f"{network}/{layer.name}/{what}"] for what in ("fate", "importance"))
        report[layer.name] = layer_report(layer.base, fate, importance)
    return {"step": step, "network": network, "layers": report}
