"""What one filter is: the parameters that belong to it, and the gate that switches it off.

A *filter* is one output channel of a layer. Networks list their own filters in groups, one group a layer and
kind, so nobody outside a network counts layers or takes parameter names apart. A *fate* is what a pruning rule
decides for a filter.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import torch
from torch import Tensor, nn

Kind = Literal["conv", "modulation", "skip"]
"""conv: an activated convolution; modulation: rows of a style's linear layer; skip: D's 1x1 shortcut."""


class Fate(IntEnum):
    """What becomes of a filter: pruned (its channel is zero), tuned (it trains) or preserved (it keeps its value)."""

    PRUNE = 0
    TUNE = 1
    PRESERVE = 2


Fates = dict[str, Tensor]
"""Group name -> `[count]` of `Fate` values."""


@dataclass(frozen=True)
class Slice:
    """One parameter of a layer and the axis that counts its filters."""

    parameter: str
    axis: int

    def broadcast(self, mask: Tensor, tensor: Tensor) -> Tensor:
        """A mask `[count]`, shaped to go along this slice's axis of a tensor."""
        shape = [1] * tensor.dim()
        shape[self.axis] = -1
        return mask.to(tensor.device).view(shape)


@dataclass(frozen=True)
class FilterGroup:
    """The filters of one layer: `count` of them, each made up of one index of every slice."""

    name: str
    """The block's name in the network, also the key of its gate."""
    kind: Kind
    count: int
    resolution: int
    """Height and width of the layer's output, in pixels."""
    slices: tuple[Slice, ...]
    prunable: bool = True
    """False where a channel must survive whatever its importance: toRGB, fromRGB, D's last convolution."""

    @property
    def gated(self) -> bool:
        """Only activated convolutions have a gate."""
        return self.kind == "conv"


def gate_of(network: nn.Module, group: FilterGroup) -> Tensor:
    """The gate buffer `[count]` of a group: 1 = alive, 0 = pruned. Write to it in place."""
    return network.get_buffer(f"{group.name}.gate")


def sample_gates(network: nn.Module, groups: list[FilterGroup], n: int) -> dict[str, Tensor]:
    """One leaf `[n, count]` per group that equals the group's gate and records gradients.

    Passed to a forward pass in place of the gates, it receives, with the ordinary backward pass, the derivative of
    the loss by every filter of every sample.
    """
    gates = {group.name: gate_of(network, group) for group in groups}
    return {name: gate.expand(n, -1).clone().requires_grad_() for name, gate in gates.items()}


@torch.no_grad()
def apply_fates_(
    before: Fates,
    after: Fates,
    groups: list[FilterGroup],
    network: nn.Module,
    *,
    copies: tuple[nn.Module, ...] = (),
    optimiser: torch.optim.Optimizer | None = None,
    erase: bool = True,
    close: bool = True,
) -> None:
    """Carry out fates everywhere at once: gates, weights, Adam's moments, and every copy of the network.

    A pruned filter's gate becomes 0 in the network and in every copy (not with `close` off); with `erase` its weights
    become 0 too (without, it keeps them and can return). Pruned and preserved filters lose their Adam moments, so that
    with gradients held at zero (`mask_gradients_`) they cannot move, whatever the betas.
    """
    for group in groups:
        fate = after[group.name]
        pruned, idle = fate == Fate.PRUNE, fate != Fate.TUNE
        woken = ~idle & (before[group.name] != Fate.TUNE)
        for net in (network, *copies):
            if group.gated and close:
                gate_of(net, group).copy_(~pruned)
            for piece in group.slices if erase else ():
                tensor = net.get_parameter(piece.parameter)
                tensor.masked_fill_(piece.broadcast(pruned, tensor), 0.0)
        for piece in group.slices:
            parameter = network.get_parameter(piece.parameter)
            moments = optimiser.state.get(parameter) if optimiser else None
            if moments:
                _reset_moments_(moments, piece, idle, woken)


def _reset_moments_(moments: dict[str, Tensor], piece: Slice, idle: Tensor, woken: Tensor) -> None:
    """Zero for idle filters; a filter that trains again starts from its layer's mean second moment.

    From zero, Adam's first step would be 1 / sqrt(1 - beta2) times the learning rate, eleven times at 0.992. Where no
    filter of the layer was training, all moments are zero and Adam's count of steps starts anew instead.
    """
    mean, square = moments["exp_avg"], moments["exp_avg_sq"]
    tuned = ~idle & ~woken
    if woken.any() and tuned.any():
        typical = square.index_select(piece.axis, tuned.nonzero().flatten().to(square.device)).mean(
            dim=piece.axis, keepdim=True
        )
        square.copy_(torch.where(piece.broadcast(woken, square), typical, square))
    elif woken.any():
        moments["step"].zero_()
    mean.masked_fill_(piece.broadcast(idle, mean), 0.0)
    square.masked_fill_(piece.broadcast(idle, square), 0.0)


@torch.no_grad()
def mask_gradients_(fates: Fates, groups: list[FilterGroup], network: nn.Module) -> None:
    """Zero the gradients of every filter that is not tuned. Call between backward and the optimiser's step."""
    for group in groups:
        idle = fates[group.name] != Fate.TUNE
        for piece in group.slices if idle.any() else ():
            gradient = network.get_parameter(piece.parameter).grad
            if gradient is not None:
                gradient.masked_fill_(piece.broadcast(idle, gradient), 0.0)
