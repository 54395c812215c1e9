"""Fisher information of filters: how much the loss depends on each, two estimators.

Both return an *importance*, group name -> `[count]`, never negative; in float32, or in float64 if the network is.

`gate_fisher` reads the derivatives that a training step's own backward pass leaves in per-sample gates, so it costs
nothing more. `weight_fisher` is the estimator of AdAM and RICK (arXiv:2210.16559, arXiv:2304.07574): squared gradients
of one sample at a time, averaged over samples and over the filter's parameters.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from tenshot.filters import FilterGroup

Importance = dict[str, Tensor]


def gate_fisher(gates: Mapping[str, Tensor], batch: int) -> Importance:
    """Mean over samples of the squared derivative of the loss by the filter's gate.

    gates: group name -> `[n, count]` after backward (`filters.sample_gates`). batch: the divisor of the loss's mean, so
    that each row counts for itself. The rows are the n samples that went through the network: a step of D sends reals
    and fakes, n = 2 batch. A sample's row also holds its effect on its neighbours through D's minibatch statistics.
    """
    derivatives = {name: gate.grad for name, gate in gates.items()}
    missing = [name for name, derivative in derivatives.items() if derivative is None]
    if missing:
        raise ValueError(f"no backward pass has reached the gates of {', '.join(missing)}")
    return {name: (_wide(d) * batch).square().mean(dim=0) for name, d in derivatives.items() if d is not None}


def weight_fisher(
    network: nn.Module,
    groups: Sequence[FilterGroup],
    losses: Iterable[Callable[[], Tensor]],
) -> Importance:
    """Mean over single-sample losses of the squared gradient, averaged over the filter's parameters.

    losses: one callable per sample; each builds its graph through `network` and returns a scalar. A filter's parameters
    count per slice: the mean over its weights and the mean over its bias are averaged. Gradients, buffers and
    `requires_grad` flags are left as they were.
    """
    parameters = dict(network.named_parameters())
    wanted = {piece.parameter: parameters[piece.parameter] for group in groups for piece in group.slices}
    flags = {name: parameter.requires_grad for name, parameter in wanted.items()}
    sums: Importance = {}
    samples = 0
    try:
        for parameter in wanted.values():
            parameter.requires_grad_(True)
        for loss in losses:
            gradients = dict(zip(wanted, torch.autograd.grad(loss(), list(wanted.values())), strict=True))
            samples += 1
            for group in groups:
                squares = [_filter_mean(_wide(gradients[s.parameter]).square(), s.axis) for s in group.slices]
                mean = torch.stack(squares).mean(dim=0)
                sums[group.name] = sums[group.name] + mean if group.name in sums else mean
    finally:
        for name, flag in flags.items():
            wanted[name].requires_grad_(flag)
    if not samples:
        raise ValueError("no sample was given to estimate the Fisher information from")
    return {name: total / samples for name, total in sums.items()}


@torch.no_grad()
def magnitude(network: nn.Module, group: FilterGroup) -> Tensor:
    """No Fisher information, to compare with: mean absolute weight of each filter of a group, biases not counted."""
    piece = group.slices[0]
    return _filter_mean(_wide(network.get_parameter(piece.parameter)).abs(), piece.axis)


def _filter_mean(tensor: Tensor, axis: int) -> Tensor:
    return tensor.movedim(axis, 0).reshape(tensor.shape[axis], -1).mean(dim=1)


def _wide(tensor: Tensor) -> Tensor:
    """At least float32: squares of half-precision gradients would vanish."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
