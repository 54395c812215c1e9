"""StyleGAN2's residual discriminator (config F, arXiv:1912.04958), rosinality's parameter names."""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from tenshot.filters import FilterGroup, Slice
from tenshot.nets.generator import check_channels, check_gates, pixel_sizes
from tenshot.nets.layers import ConvLayer, EqualLinear, ResBlock, minibatch_stddev


@dataclass(frozen=True)
class DiscriminatorSpec:
    """All that fixes the discriminator's shape."""

    resolution: int
    channels: tuple[int, ...]
    """At 4, 8, ..., resolution pixels."""

    def __post_init__(self) -> None:
        check_channels(self.resolution, self.channels)


class Discriminator(nn.Module):
    """Images `[n 3 r r]` in [-1, 1] to logits `[n]`: positive = taken for real."""

    compute: torch.dtype | None
    """Precision of the residual blocks' activations, such as bfloat16; None = that of the images."""

    def __init__(self, spec: DiscriminatorSpec) -> None:
        super().__init__()
        self.compute = None
        self.spec = spec
        channels = spec.channels[::-1]  # from the image down to 4 pixels
        self.convs = nn.ModuleList([ConvLayer(3, channels[0], 1)])
        self.convs.extend(ResBlock(a, b) for a, b in itertools.pairwise(channels))
        self.final_conv = ConvLayer(channels[-1] + 1, channels[-1], 3)
        self.final_linear = nn.Sequential(
            EqualLinear(channels[-1] * 16, channels[-1], activate=True), EqualLinear(channels[-1], 1)
        )

    def forward(self, images: Tensor, gates: Mapping[str, Tensor] | None = None, minibatches: int = 1) -> Tensor:
        """Logits `[n]`.

        gates: block name -> `[c]` or `[n c]`, used in place of the block's own gate. `minibatches`: how many batches of
        equal size `images` concatenates; each gets its own minibatch statistics, as if it came alone. Raises
        ValueError where sizes or names do not fit.
        """
        if len(images) < 1 or len(images) % minibatches:
            raise ValueError(f"{len(images)} images cannot be {minibatches} minibatches of one size")
        x = minibatch_stddev(self.trunk(images, gates).to(images.dtype), minibatches)
        x = self.final_conv(x, (gates or {}).get("final_conv"))
        return self.final_linear(x.flatten(1)).squeeze(1)

    def trunk(self, images: Tensor, gates: Mapping[str, Tensor] | None = None) -> Tensor:
        """The last of `maps`, `[n c 4 4]`: all that is computed of each image without the others."""
        x = images
        for _, x in self.maps(images, gates):  # noqa: B007, the last is wanted
            pass
        return x

    def maps(self, images: Tensor, gates: Mapping[str, Tensor] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Name and output `[n c h w]` of every activated convolution and block, each computed when it is asked for.

        From the image down: convs.0, convs.1.conv1, convs.1.conv2, convs.1 (with the shortcut), convs.2.conv1, ...
        Raises ValueError where sizes or names do not fit.
        """
        gates = gates or {}
        check_gates(gates, [group.name for group in self.filter_groups() if group.gated])
        size = self.spec.resolution
        if images.shape[1:] != (3, size, size):
            raise ValueError(f"images are {list(images.shape)}, expected [n, 3, {size}, {size}]")
        x = images.to(self.compute or images.dtype).contiguous(memory_format=torch.channels_last)
        x = self.convs[0](x, gates.get("convs.0"))
        yield "convs.0", x
        for i in range(1, len(self.convs)):
            name, block = f"convs.{i}", cast(ResBlock, self.convs[i])
            inner = block.conv1(x, gates.get(f"{name}.conv1"))
            yield f"{name}.conv1", inner
            inner = block.conv2(inner, gates.get(f"{name}.conv2"))
            yield f"{name}.conv2", inner
            x = (inner + block.skip(x)) / math.sqrt(2.0)
            yield name, x

    def filter_groups(self) -> list[FilterGroup]:
        """Every group of filters, from the image down: convolutions, then the shortcuts."""
        sizes = pixel_sizes(self.spec.resolution)[::-1]
        from_rgb = cast(ConvLayer, self.convs[0])
        convs = [self._group("convs.0", from_rgb, sizes[0], first=0, prunable=False)]
        skips = []
        for i, (before, after) in enumerate(itertools.pairwise(sizes), start=1):
            block = cast(ResBlock, self.convs[i])
            convs.append(self._group(f"convs.{i}.conv1", block.conv1, before, first=0))
            convs.append(self._group(f"convs.{i}.conv2", block.conv2, after, first=1))
            name, count = f"convs.{i}.skip", len(block.conv2.gate)
            skips.append(FilterGroup(name, "skip", count, after, (Slice(f"{name}.1.weight", 0),)))
        convs.append(self._group("final_conv", self.final_conv, 4, first=0, prunable=False))
        return convs + skips

    @staticmethod
    def _group(name: str, layer: ConvLayer, size: int, *, first: int, prunable: bool = True) -> FilterGroup:
        slices = (Slice(f"{name}.{first}.weight", 0), Slice(f"{name}.{first + 1}.bias", 0))
        return FilterGroup(name, "conv", len(layer.gate), size, slices, prunable)
