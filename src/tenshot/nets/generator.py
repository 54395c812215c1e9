"""StyleGAN2's generator with skip connections (config F, arXiv:1912.04958), rosinality's parameter names."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from tenshot.filters import FilterGroup, Slice
from tenshot.nets.gamut import check_gamut, in_gamut
from tenshot.nets.layers import EqualLinear, PixelNorm, StyledConv, ToRGB, in_squares


def channel_plan(resolution: int, *, base: int = 32768, cap: int = 512) -> tuple[int, ...]:
    """Channels at 4, 8, ..., `resolution` pixels: base / pixels, at most `cap`.

    The published networks (channel multiplier 2) have base 32768 and cap 512.
    """
    return tuple(min(base // pixels, cap) for pixels in pixel_sizes(resolution))


def pixel_sizes(resolution: int) -> tuple[int, ...]:
    """4, 8, ..., `resolution`. Raises ValueError unless it is a power of two from 16 to 1024."""
    if resolution not in (16, 32, 64, 128, 256, 512, 1024):
        raise ValueError(f"resolution {resolution} is not a power of two from 16 to 1024")
    return tuple(2**k for k in range(2, int(math.log2(resolution)) + 1))


def check_channels(resolution: int, channels: tuple[int, ...]) -> None:
    """Raises ValueError unless there is one count, at least 1, for 4, 8, ..., `resolution` pixels."""
    sizes = pixel_sizes(resolution)
    if len(channels) != len(sizes) or min(channels) < 1:
        raise ValueError(f"channels {channels}: {resolution} px needs {len(sizes)} positive numbers, for {sizes}")


def check_gates(gates: Mapping[str, Tensor], blocks: Iterable[str]) -> None:
    """Raises ValueError for a gate of a block that does not exist."""
    if unknown := sorted(set(gates) - set(blocks)):
        raise ValueError(f"there is no block {', '.join(unknown)} to gate; blocks are {', '.join(sorted(blocks))}")


@dataclass(frozen=True)
class GeneratorSpec:
    """All that fixes the generator's shape."""

    resolution: int
    channels: tuple[int, ...]
    """At 4, 8, ..., resolution pixels."""
    latent_size: int = 512
    mapping_depth: int = 8
    kept: tuple[int, ...] = ()
    """Output channels that are left to each styled convolution where pruned ones were cut out; () = all."""
    mosaic: int = 1
    """Pixels a side of the squares of one colour that images are made of, as pixel art is; 1 = single pixels."""
    gamut: tuple[int, ...] = ()
    """Lowest and highest level of the colours of images along each of `nets.gamut.DIRECTIONS`; () = any colours."""

    def __post_init__(self) -> None:
        check_channels(self.resolution, self.channels)
        full = self.outputs
        is_part = len(self.kept) == len(full) and all(1 <= k <= n for k, n in zip(self.kept, full, strict=True))
        if self.kept and (not is_part or self.kept == full):
            raise ValueError(f"kept channels {self.kept}: must be a part of {full}, at least 1 of each")
        if not 1 <= self.mosaic <= self.resolution or self.resolution % self.mosaic:
            raise ValueError(f"mosaic of {self.mosaic} px squares: they must fill {self.resolution} px evenly")
        if self.gamut != ():
            check_gamut(self.gamut)

    @property
    def outputs(self) -> tuple[int, ...]:
        """Output channels of each styled convolution before any was cut out: one at 4 px, then two a size."""
        return (self.channels[0], *(count for count in self.channels[1:] for _ in range(2)))

    @property
    def layers(self) -> int:
        """Latents that one image takes: one per convolution and one for the last toRGB."""
        return 2 * len(pixel_sizes(self.resolution))


class _Constant(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, 4, 4))


class Generator(nn.Module):
    """Latents to images `[n 3 r r]`, about [-1, 1] but not clamped."""

    latent_avg: Tensor
    compute: torch.dtype | None
    """Precision of the activations from the constant input on, such as bfloat16; None = that of the parameters."""

    def __init__(self, spec: GeneratorSpec) -> None:
        super().__init__()
        self.compute = None
        self.spec = spec
        d, full = spec.latent_size, spec.outputs
        kept = spec.kept or full
        mapping = [EqualLinear(d, d, lr_mul=0.01, activate=True) for _ in range(spec.mapping_depth)]
        self.style = nn.Sequential(PixelNorm(), *mapping)
        self.input = _Constant(full[0])
        self.conv1 = StyledConv(full[0], kept[0], d)
        self.to_rgb1 = ToRGB(kept[0], d)
        self.convs, self.to_rgbs = nn.ModuleList(), nn.ModuleList()
        for i, (before, after) in enumerate(itertools.pairwise(kept)):
            self.convs.append(StyledConv(before, after, d, up=i % 2 == 0, silent=full[i] - before))
            if i % 2:
                self.to_rgbs.append(ToRGB(after, d))
        self.register_buffer("latent_avg", torch.zeros(d))

    def map(self, z: Tensor) -> Tensor:
        """The mapping network, `[n d] -> [n d]`."""
        return self.style(z)

    def mean_latent(self, rng: torch.Generator, samples: int = 4096) -> Tensor:
        """Mean of the mapping network's outputs for random latents, `[d]`."""
        z = torch.randn(samples, self.spec.latent_size, generator=rng, device=rng.device)
        return self.map(z.to(self.latent_avg)).mean(dim=0)

    def truncate(self, w: Tensor, truncation: float) -> Tensor:
        """Pull latents towards their mean: 1 leaves them, 0 gives the mean image."""
        return w if truncation == 1.0 else torch.lerp(self.latent_avg, w, truncation)

    def spread(self, w: Tensor) -> Tensor:
        """The same latent for every layer, `[n d] -> [n layers d]`."""
        return w[:, None].expand(-1, self.spec.layers, -1)

    def synthesise(
        self,
        ws: Tensor,
        noise: Sequence[Tensor] | None = None,
        gates: Mapping[str, Tensor] | None = None,
        keep: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """The synthesis network.

        ws: `[n layers d]`. noise: one `[n 1 h w]` per styled convolution (`draw_noise`), None = no noise. gates: block
        name -> `[c]` or `[n c]`, used in place of the block's own gate; names not given use their own. keep: receives
        every styled convolution's output by block name, conv1, convs.0, ...: `[n c h w]`.
        Returns `[n 3 r r]`. Raises ValueError where counts or names do not fit the network.
        """
        gates = gates or {}
        check_gates(gates, ["conv1", *(f"convs.{i}" for i in range(len(self.convs)))])
        if ws.shape[1:] != (self.spec.layers, self.spec.latent_size):
            raise ValueError(f"ws is {list(ws.shape)}, expected [n, {self.spec.layers}, {self.spec.latent_size}]")
        if noise is not None and len(noise) != len(self.convs) + 1:
            raise ValueError(f"{len(noise)} noise maps, expected {len(self.convs) + 1}")
        maps: Sequence[Tensor | None] = noise if noise is not None else [None] * (len(self.convs) + 1)
        x = self.input.input.expand(ws.shape[0], -1, -1, -1).contiguous(memory_format=torch.channels_last)
        x = x.to(self.compute or x.dtype)
        x = self.conv1(x, ws[:, 0], maps[0], gates.get("conv1"))
        if keep is not None:
            keep["conv1"] = x
        image = self.to_rgb1(x, ws[:, 1], None)
        for k, to_rgb in enumerate(self.to_rgbs):
            for i in (2 * k, 2 * k + 1):
                x = self.convs[i](x, ws[:, i + 1], maps[i + 1], gates.get(f"convs.{i}"))
                if keep is not None:
                    keep[f"convs.{i}"] = x
            image = to_rgb(x, ws[:, 2 * k + 3], image)
        return in_gamut(in_squares(image, self.spec.mosaic), self.spec.gamut)

    def forward(self, z: Tensor, noise: Sequence[Tensor] | None = None) -> Tensor:
        """One latent an image: `[n d] -> [n 3 r r]`."""
        return self.synthesise(self.spread(self.map(z)), noise)

    def draw_noise(self, n: int, rng: torch.Generator) -> list[Tensor]:
        """Standard normal noise for every styled convolution, `[n 1 h w]` each, drawn in the layers' order."""
        device, dtype = self.input.input.device, self.input.input.dtype
        sizes = [group.resolution for group in self.filter_groups() if group.kind == "conv"]
        drawn = (torch.randn(n, 1, size, size, generator=rng, device=rng.device) for size in sizes)
        return [noise.to(device, dtype) for noise in drawn]

    def blocks(self) -> dict[str, list[str]]:
        """Every parameter's name, by the styled convolution it works with: conv1, convs.0, ...; a toRGB is listed with
        the convolution it reads, the constant input with conv1, and the mapping network under `style`."""
        readers = {"input": "conv1", "to_rgb1": "conv1"}
        readers |= {f"to_rgbs.{k}": f"convs.{2 * k + 1}" for k in range(len(self.to_rgbs))}
        blocks: dict[str, list[str]] = {}
        for name, _ in self.named_parameters():
            top, _, rest = name.partition(".")
            module = f"{top}.{rest.partition('.')[0]}" if top in ("convs", "to_rgbs") else top
            blocks.setdefault(readers.get(module, module), []).append(name)
        return blocks

    def filter_groups(self) -> list[FilterGroup]:
        """Every group of filters, from 4 pixels up: the styled convolutions, then their modulations' rows."""
        blocks = [("conv1", self.conv1, 4)]
        blocks += [(f"convs.{i}", cast(StyledConv, conv), 8 * 2 ** (i // 2)) for i, conv in enumerate(self.convs)]
        convs, modulations = [], []
        for name, block, size in blocks:
            weight, bias = Slice(f"{name}.conv.weight", 1), Slice(f"{name}.activate.bias", 0)
            convs.append(FilterGroup(name, "conv", len(block.gate), size, (weight, bias)))
            rows = f"{name}.conv.modulation"
            both = (Slice(f"{rows}.weight", 0), Slice(f"{rows}.bias", 0))
            count = len(block.conv.modulation.bias)
            modulations.append(FilterGroup(rows, "modulation", count, size, both, prunable=name != "conv1"))
        return convs + modulations
