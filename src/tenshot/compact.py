"""Cutting pruned channels out of a generator: fewer parameters, less to compute, the same images.

A channel whose gate is 0 is zero at every pixel. Whoever reads it loses nothing of its sum of products, so the weights
that make the channel and those that read it can go. Two things of it stay, since a pruned channel counts in the
demodulation of the convolution that reads it (docs/architecture.md): its style, one row of the reader's affine
map, and the squared norms of the weights that read it, one number per pair of channels. toRGB does not demodulate, so
there nothing stays.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from tenshot.nets import Generator
from tenshot.nets.layers import ModulatedConv, StyledConv, ToRGB

MULTIPLE = 4
"""Kept channels of a layer are a multiple of this. On a CPU with AVX-512, of 1, 2, 4, 8 and 16, it is fastest or nearly
(docs/export.md)."""


def filled_up(kept: int, count: int, multiple: int = MULTIPLE) -> int:
    """Kept channels rounded up to a multiple, at most all `count`, at least 1."""
    return min(count, multiple * -(-max(kept, 1) // multiple))


def silent_channels(generator: Generator) -> dict[str, Tensor]:
    """The indices of the channels whose gate is 0, rising, by the block's name; blocks without any are left out."""
    silent = {name: (block.gate == 0).nonzero().flatten() for name, block in blocks(generator)}
    return {name: indices for name, indices in silent.items() if len(indices)}


def kept_channels(generator: Generator, multiple: int = MULTIPLE) -> dict[str, Tensor]:
    """The indices of the channels that a compact generator keeps, rising, by the block's name.

    All that are alive, and as many silent ones, the first, as it takes to fill up the layer (`filled_up`).
    """
    kept: dict[str, Tensor] = {}
    for name, block in blocks(generator):
        is_alive = block.gate != 0
        order = torch.argsort(is_alive.logical_not().to(torch.int8), stable=True)  # the living first
        kept[name] = order[: filled_up(int(is_alive.sum()), len(order), multiple)].sort().values
    return kept


@torch.no_grad()
def compact(generator: Generator, kept: Mapping[str, Tensor]) -> Generator:
    """A new generator of the kept channels only; equal in every pixel but for rounding, if the others are silent.

    kept: rising indices of output channels by block name (`kept_channels`). Channels left out that are not silent are
    lost from the images, but not from the demodulation. A generator that is compact already can be cut again.
    """
    chosen = [kept[name] for name, _ in blocks(generator)]
    tensors = dict(generator.state_dict())
    read: Tensor = torch.arange(generator.input.input.shape[1])  # the channels that the block at hand receives
    for (name, block), outputs in zip(blocks(generator), chosen, strict=True):
        tensors |= _cut_conv(f"{name}.conv", block.conv, read, outputs)
        for key in (f"{name}.activate.bias", f"{name}.gate"):
            tensors[key] = tensors[key][outputs]
        read = outputs
        if (to_rgb := to_rgb_after(generator, name)) is not None:
            tensors |= _cut_to_rgb(*to_rgb, outputs)
    counts = tuple(map(len, chosen))
    spec = replace(generator.spec, kept=() if counts == generator.spec.outputs else counts)
    with torch.device("meta"):
        small = Generator(spec)
    small.to(generator.latent_avg.dtype).to_empty(device=generator.latent_avg.device)
    small.load_state_dict(tensors)
    small.compute = generator.compute
    return small.train(generator.training)


def blocks(generator: Generator) -> list[tuple[str, StyledConv]]:
    """Every styled convolution and its name, from 4 pixels up."""
    names = [group.name for group in generator.filter_groups() if group.gated]
    return [(name, cast(StyledConv, generator.get_submodule(name))) for name in names]


def parameters(generator: Generator) -> int:
    """Numbers that make up the network: its parameters and, of a compact one, the squared norms."""
    norms = [block.conv.silent for _, block in blocks(generator)]
    return sum(p.numel() for p in generator.parameters()) + sum(n.numel() for n in norms if n is not None)


def layers_of(dense: Generator, small: Generator) -> list[tuple[str, int, int, int]]:
    """(block, channels as designed, alive in `dense`, kept in `small`) of every styled convolution."""
    rows = zip(dense.spec.outputs, blocks(dense), blocks(small), strict=True)
    return [(name, count, int((a.gate != 0).sum()), len(b.gate)) for count, (name, a), (_, b) in rows]


def _cut_conv(name: str, conv: ModulatedConv, inputs: Tensor, outputs: Tensor) -> dict[str, Tensor]:
    """Tensors of a modulated convolution from some channels to some: the rest of the inputs become silent."""
    count = conv.weight.shape[2]
    cut = torch.ones(count, dtype=torch.bool).index_fill(0, inputs, False).nonzero().flatten()
    before = torch.arange(count, len(conv.modulation.bias))  # cut out earlier
    weight = conv.weight.detach()[:, outputs]
    rows = torch.cat([inputs, cut, before])
    tensors = {
        f"{name}.weight": weight[:, :, inputs],
        f"{name}.modulation.weight": conv.modulation.weight.detach()[rows],
        f"{name}.modulation.bias": conv.modulation.bias.detach()[rows],
    }
    if len(cut) + len(before):
        norms = weight[0, :, cut].double().square().sum(dim=(2, 3)).to(weight.dtype)
        tensors[f"{name}.silent"] = norms if conv.silent is None else torch.cat([norms, conv.silent[outputs]], dim=1)
    return tensors


def _cut_to_rgb(name: str, to_rgb: ToRGB, inputs: Tensor) -> dict[str, Tensor]:
    """Tensors of a toRGB that reads some channels. Its scale is 1 / sqrt(inputs), so the weights take up the change."""
    scale = math.sqrt(len(inputs) / to_rgb.conv.weight.shape[2])
    return {
        f"{name}.conv.weight": to_rgb.conv.weight.detach()[:, :, inputs] * scale,
        f"{name}.conv.modulation.weight": to_rgb.conv.modulation.weight.detach()[inputs],
        f"{name}.conv.modulation.bias": to_rgb.conv.modulation.bias.detach()[inputs],
    }


def to_rgb_after(generator: Generator, block: str) -> tuple[str, ToRGB] | None:
    """Name and module of the toRGB that reads a block's output, if one does."""
    if block == "conv1":
        return "to_rgb1", generator.to_rgb1
    k, is_second = divmod(int(block.removeprefix("convs.")), 2)
    return (f"to_rgbs.{k}", cast(ToRGB, generator.to_rgbs[k])) if is_second else None
