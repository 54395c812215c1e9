"""Kernel modulation (KML, arXiv:2210.16559): each weight is multiplied by 1 + a matrix of rank one, each bias shifted.

    W'[o, ...] = W[o, ...] (1 + v[o] u[...])        bias' = bias + b

`modulate_` puts the vectors u, v and b into a network as parametrisations (`torch.nn.utils.parametrize`), so that its
forward passes stay as they are, and `merged` makes a plain network of the product. A parameter `a.weight` of the
plain network is then `base_name("a.weight")` of the modulated one, beside `vector_name("a.weight", "u")` and `"v"`;
`a.bias` has `"b"`.

Copies of a modulated network share the classes that torch makes for it: `remove_parametrizations` on one of them would
break the others. That is why `merged` builds a new network.
"""

from collections.abc import Iterable
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tenshot.randomness import generator_for

Vector = Literal["u", "v", "b"]

START = 1e-7
"""Standard deviation of u and v when nothing has been learnt: small enough that W' = W in float32."""

_Network = TypeVar("_Network", bound=nn.Module)


def factor(u: Tensor, v: Tensor) -> Tensor:
    """v[o] u[...]: `[i k k], [o] -> [o i k k]` in channels_last, as convolutions want it, or `[i], [o] -> [o i]`."""
    if u.dim() == 1:
        return torch.outer(v, u)
    channels, height, width = u.shape
    product = torch.outer(v, u.permute(1, 2, 0).flatten())
    return product.view(len(v), height, width, channels).permute(0, 3, 1, 2)


def scrambled_factor(u: Tensor, v: Tensor) -> Tensor:
    """The public code's product for convolutions, `[i k k], [o] -> [o i k k]`: u v^T read as if it were v u^T.

    So v[o] does not belong to filter o. For comparison with published runs only.
    """
    return torch.outer(u.flatten(), v).view(len(v), *u.shape).contiguous(memory_format=torch.channels_last)


class Modulation(nn.Module):
    """Parametrisation of a weight `[o i]`, `[o i k k]` or `[1 o i k k]`: gain W (1 + v u^T)."""

    def __init__(self, weight: Tensor, *, gain: float = 1.0, scrambled: bool = False) -> None:
        super().__init__()
        filters = weight[0] if weight.dim() == 5 else weight
        self.u = nn.Parameter(weight.new_zeros(filters.shape[1:]))
        self.v = nn.Parameter(weight.new_zeros(filters.shape[:1]))
        self.gain = gain
        self.scrambled = scrambled and filters.dim() == 4

    def forward(self, weight: Tensor) -> Tensor:
        product = scrambled_factor(self.u, self.v) if self.scrambled else factor(self.u, self.v)
        changed = weight * (1 + product)
        return changed if self.gain == 1.0 else changed * self.gain


class Shift(nn.Module):
    """Parametrisation of a bias or noise strength of any shape: it plus b."""

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.zeros_like(bias))

    def forward(self, bias: Tensor) -> Tensor:
        return bias + self.b


def modulate_(
    network: nn.Module, parameters: Iterable[str], *, scrambled: bool = False, linear_fan_out: bool = False
) -> None:
    """Modulate the named parameters: weights of two axes or more are multiplied, all others shifted.

    All vectors are zero, so nothing changes (`draw_` gives them something to grow from). scrambled: see
    `scrambled_factor`. linear_fan_out: linear layers scale by 1 / sqrt(fan_out) in place of 1 / sqrt(fan_in), which
    does change a network whose linear layers are not square.
    """
    for name in parameters:
        owner, _, leaf = name.rpartition(".")
        module, parameter = network.get_submodule(owner), network.get_parameter(name)
        if leaf == "weight" and parameter.dim() >= 2:
            is_linear = linear_fan_out and parameter.dim() == 2
            gain = (parameter.shape[1] / parameter.shape[0]) ** 0.5 if is_linear else 1.0
            change = Modulation(parameter, gain=gain, scrambled=scrambled)
        else:
            change = Shift(parameter)
        parametrize.register_parametrization(module, leaf, change)


def base_name(parameter: str) -> str:
    """What a modulated parameter itself is called: `a.weight` -> `a.parametrizations.weight.original`."""
    owner, _, leaf = parameter.rpartition(".")
    return f"{owner}.parametrizations.{leaf}.original"


def vector_name(parameter: str, vector: Vector) -> str:
    """`a.weight`, u -> `a.parametrizations.weight.0.u`."""
    owner, _, leaf = parameter.rpartition(".")
    return f"{owner}.parametrizations.{leaf}.0.{vector}"


@torch.no_grad()
def draw_(network: nn.Module, seed: int) -> None:
    """Set every u and v to START times normal numbers, which depend on the seed and their name, and every b to 0."""
    for name, module in network.named_modules():
        if isinstance(module, Modulation):
            for key, vector in module.named_parameters():
                drawn = torch.randn(vector.shape, generator=generator_for(seed, "kml", name, key))
                vector.copy_(START * drawn)
        elif isinstance(module, Shift):
            module.b.zero_()


@torch.no_grad()
def merged(network: _Network) -> _Network:
    """A plain network of the same kind that computes the same; the one given is left as it is."""
    given = cast(Any, network)
    with torch.device("meta"):  # a network of its own, without drawing its first weights
        plain = type(network)(given.spec)
    like = next(network.parameters())
    plain.to(like.dtype).to_empty(device=like.device)
    plain.load_state_dict({name: _value(network, name) for name in plain.state_dict()})
    cast(Any, plain).compute = given.compute
    plain.requires_grad_(any(parameter.requires_grad for parameter in network.parameters()))
    return plain.train(network.training)


def _value(network: nn.Module, name: str) -> Tensor:
    owner, _, leaf = name.rpartition(".")
    return getattr(network.get_submodule(owner), leaf)
