"""EWC: the generator's weights that the source depends on are held back, each by its Fisher information."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from tenshot.losses import generator_loss
from tenshot.methods.base import Batch, Context, Method, Phase, State
from tenshot.randomness import generator_for
from tenshot.settings import check_types, require


@dataclass(frozen=True)
class Ewc(Method):
    """Adds weight * sum_i F_i (theta_i - theta_i of the source)^2 to G's loss (arXiv:2012.02780).

    F_i is the mean squared derivative of log sigmoid(D(G(z))) by parameter i of the source pair, one latent at a time;
    it needs no source image. Everything trains.
    """

    name: ClassVar[str] = "ewc"
    paper: ClassVar[str] = "Few-shot image generation with elastic weight consolidation, NeurIPS 2020, arXiv:2012.02780"
    adds: ClassVar[str] = "Fisher-weighted distance of G's weights to the source's"

    weight: float = 5e8
    """Weight of the penalty. The paper's goes with the sum over all parameters."""
    reduction: Literal["sum", "mean_per_tensor"] = "sum"
    """sum: over all parameters (the paper). mean_per_tensor: of each tensor its mean, then their sum (a port)."""
    fisher_samples: int = 200
    """Latents that the Fisher information is averaged over, before the first step."""

    def __post_init__(self) -> None:
        check_types(self, self.name)
        require(self, self.name, "weight", self.weight >= 0, "at least 0")
        require(self, self.name, "fisher_samples", self.fisher_samples >= 1, "at least 1")

    def setup(self, context: Context) -> State:
        nets = context.nets
        parameters = dict(nets.generator.named_parameters())
        rng = generator_for(context.clock.seed, "ewc")
        sums = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
        for _ in range(self.fisher_samples):
            z = torch.randn(1, nets.generator.spec.latent_size, generator=rng).to(nets.generator.latent_avg.device)
            # softplus(-D) is -log sigmoid(D): the same squares.
            loss = generator_loss(nets.discriminator(nets.generator(z, nets.generator.draw_noise(1, rng))))
            for name, gradient in zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True):
                sums[name].addcmul_(gradient, gradient)
        return {f"fisher/{name}": total / self.fisher_samples for name, total in sums.items()}

    def extra_losses(self, phase: Phase, context: Context, state: State, batch: Batch) -> dict[str, Tensor]:
        if phase != "g":
            return {}
        source = dict(context.nets.source.named_parameters())
        terms = [
            self._reduce(state[f"fisher/{name}"] * (parameter - source[name]).square())
            for name, parameter in context.nets.generator.named_parameters()
        ]
        return {"ewc": self.weight * torch.stack(terms).sum()}

    def _reduce(self, term: Tensor) -> Tensor:
        return term.sum() if self.reduction == "sum" else term.mean()
