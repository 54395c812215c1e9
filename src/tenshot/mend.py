"""What living channels carried is given to those that stay, before any training: least squares, folded into weights.

Channels resemble each other, so what a cut channel feeds into a layer is partly a mixture of what the kept ones feed
into it. The mixture is solved for from images' activations and added to the weights that read the kept channels, as in
channel pruning by reconstruction (arXiv:1707.06168).
"""

import copy
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from tenshot.compact import blocks, compact, to_rgb_after
from tenshot.nets import Generator
from tenshot.nets.layers import ModulatedConv, StyledConv, ToRGB
from tenshot.randomness import generator_for
from tenshot.watch import Watch

RIDGE = 1e-3
"""Of the mean square of a layer's inputs: keeps the mixture small where channels say the same."""
SAMPLES = 64
"""Images that second moments are taken from."""


@torch.no_grad()
def mended(generator: Generator, kept: Mapping[str, Tensor], *, seed: int = 0, watch: Watch | None = None) -> Generator:
    """`compact(generator, kept)` for cuts of living channels, whose part the kept ones take over as far as they can.

    Where nothing living is cut, no weight changes but for rounding. The generator given stays as it is.
    """
    moments = _second_moments(generator, seed, watch)
    filled = copy.deepcopy(generator)
    for name, inputs in _readers(filled, kept):
        layer = filled.get_submodule(name)
        assert isinstance(layer, StyledConv | ToRGB)
        _fold_(layer.conv, moments[name], inputs)
    small = compact(filled, kept)
    _balance_(small, generator, kept, seed)
    return small


def _readers(generator: Generator, kept: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Every layer that reads a block's output, and which of its inputs are kept."""
    before: Tensor | None = None
    for name, _ in blocks(generator):
        if before is not None:
            yield name, before
        before = kept[name]
        if (to_rgb := to_rgb_after(generator, name)) is not None:
            yield to_rgb[0], before


def _second_moments(generator: Generator, seed: int, watch: Watch | None) -> dict[str, Tensor]:
    """E[x x'] of the styled inputs of every layer, over images and pixels, `[i i]` in float64."""
    found: dict[str, Tensor] = {}

    def look(name: str) -> Callable:
        def hook(layer: StyledConv | ToRGB, inputs: tuple) -> None:
            x, w = inputs[0], inputs[1]
            styled = x * layer.conv.style(w)[:, : x.shape[1], None, None]
            rows = styled.permute(1, 0, 2, 3).flatten(1).double()
            found[name] = found.get(name, torch.zeros(())) + (rows @ rows.T / rows.shape[1]).cpu()

        return hook

    layers = [(name, m) for name, m in generator.named_modules() if isinstance(m, StyledConv | ToRGB)]
    hooks = [layer.register_forward_pre_hook(look(name)) for name, layer in layers]
    batch = 8
    try:
        for k in range(SAMPLES // batch):
            rng = generator_for(seed, "mend", k)
            z = torch.randn(batch, generator.spec.latent_size, generator=rng).to(generator.latent_avg)
            generator(z, generator.draw_noise(batch, rng))
            if watch:
                watch("mending", (k + 1) * batch, SAMPLES)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _fold_(conv: ModulatedConv, moments: Tensor, inputs: Tensor) -> None:
    """Add to the weights of the kept inputs what they can say of the others: W_k += W_c A, A = E[c k'] E[k k']^-1."""
    cut = torch.ones(len(moments), dtype=torch.bool).index_fill(0, inputs, False).nonzero().flatten()
    own = moments[inputs][:, inputs]
    ridge = RIDGE * own.diagonal().mean().clamp_min(1e-12)
    mixture = torch.linalg.solve(own + ridge * torch.eye(len(own), dtype=own.dtype), moments[inputs][:, cut])  # [k c]
    weight = conv.weight[0]
    gained = torch.einsum("oc...,kc->ok...", weight[:, cut], mixture.to(weight))
    weight[:, inputs] += gained


def _balance_(small: Generator, generator: Generator, kept: Mapping[str, Tensor], seed: int) -> None:
    """Scale the norms of what was cut so that demodulation stays what it was on average though weights have grown."""
    rng = generator_for(seed, "mend", "styles")
    w = generator.map(torch.randn(512, generator.spec.latent_size, generator=rng).to(generator.latent_avg))
    for (name, block), (_, before) in zip(blocks(small), blocks(generator), strict=True):
        if block.conv.silent is not None:
            wanted = _energy(before.conv, w)[kept[name]].sum(dim=1)
            parts = _energy(block.conv, w)
            own, silent = parts.split([block.conv.weight.shape[2], block.conv.silent.shape[1]], dim=1)
            scale = (wanted - own.sum(dim=1)) / silent.sum(dim=1).clamp_min(1e-12)
            block.conv.silent *= scale.clamp_min(0.0)[:, None]


def _energy(conv: ModulatedConv, w: Tensor) -> Tensor:
    """Mean share of every input in every output's demodulation, `[o i]`: squared norm times mean squared style."""
    norms = conv.weight[0].square().sum(dim=(2, 3))
    norms = norms if conv.silent is None else torch.cat([norms, conv.silent], dim=1)
    return norms * conv.style(w).square().mean(dim=0)
