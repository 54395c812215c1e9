"""The building blocks of StyleGAN2 (arXiv:1912.04958), written for shared kernels.

The style scales the *activations*: the input is multiplied by the style, convolved once with weights that all
samples share, and multiplied by the demodulation factor. That is the same function as modulating the weights for every
sample (section 2.2 and appendix B of the paper), without a grouped convolution of n times the size.

Shape letters: n samples, c or i input channels, o output channels, h and w pixels, d latent size.
All weights are at the equalised learning rate: stored ~ N(0, 1), used times 1 / sqrt(fan_in).
"""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.2  # of the leaky ReLU
GAIN = math.sqrt(2.0)  # keeps the variance after it


def leaky_relu(x: Tensor) -> Tensor:
    """Leaky ReLU without its gain: since it is positively homogeneous, callers fold the gain into what they pass."""
    return F.leaky_relu(x, SLOPE)


_TAPS = (1.0, 3.0, 3.0, 1.0)


def _binomial_kernel(x: Tensor, gain: float) -> Tensor:
    """One filter per channel of x, `[c 1 4 4]`; its taps sum to `gain`."""
    kernel = x.new_tensor([[a * b * gain / 64.0 for b in _TAPS] for a in _TAPS])
    return kernel.expand(x.shape[1], 1, 4, 4)


def blur(x: Tensor, pad: tuple[int, int], stride: int = 1, gain: float = 1.0) -> Tensor:
    """Low-pass filter [1, 3, 3, 1] x [1, 3, 3, 1] / 64, times `gain`, each channel by itself. `[n c h w]`."""
    kernel = _binomial_kernel(x, gain)
    if pad[0] != pad[1]:
        x, pad = F.pad(x, (*pad, *pad)), (0, 0)
    return F.conv2d(x, kernel, stride=stride, padding=pad[0], groups=x.shape[1])


def upsample(x: Tensor) -> Tensor:
    """Twice the height and width: zeros between pixels, then the low-pass filter with gain 4. `[n c h w]`."""
    return F.conv_transpose2d(x, _binomial_kernel(x, 4.0), stride=2, padding=1, groups=x.shape[1])


class PixelNorm(nn.Module):
    """Scale every latent to unit root mean square. `[n d] -> [n d]`."""

    def forward(self, z: Tensor) -> Tensor:
        return z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + 1e-8)


class EqualLinear(nn.Module):
    """Linear layer at the equalised learning rate, optionally activated. `[n in] -> [n out]`."""

    def __init__(
        self,
        fan_in: int,
        fan_out: int,
        *,
        bias_init: float = 0.0,
        lr_mul: float = 1.0,
        activate: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(fan_out, fan_in) / lr_mul)
        self.bias = nn.Parameter(torch.full([fan_out], float(bias_init)))
        self.lr_mul = lr_mul
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        gain = GAIN if self.activate else 1.0
        scale = self.lr_mul * gain / math.sqrt(self.weight.shape[1])
        x = F.linear(x, self.weight * scale, self.bias * (self.lr_mul * gain))
        return leaky_relu(x) if self.activate else x


class ModulatedConv(nn.Module):
    """Weights and style of a modulated convolution; parameter names as in the rosinality layout."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, latent_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, channels_out, channels_in, kernel, kernel))
        self.modulation = EqualLinear(latent_size, channels_in, bias_init=1.0)

    def style(self, w: Tensor) -> Tensor:
        """Factors for the input channels, the equalised learning rate's scale included. `[n d] -> [n i]`."""
        return self.modulation(w) / math.sqrt(self.weight[0, 0].numel())

    def demodulation(self, style: Tensor) -> Tensor:
        """1 / (the standard deviation that style and weights give each output channel). `[n i] -> [n o]`.

        A pruned input channel stays in the sum: pruning takes a channel's signal away and nothing else.
        """
        energy = self.weight[0].square().sum(dim=(2, 3))  # [o i]
        return torch.rsqrt(F.linear(style.square(), energy) + 1e-8)


class _Noise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


class _Bias(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))


class StyledConv(nn.Module):
    """Modulated 3x3 convolution, noise, bias, leaky ReLU, gate; optionally twice the size first.

    The gate is one number per channel, 1 = alive, 0 = pruned: a pruned channel's output is exactly zero.
    """

    gate: Tensor

    def __init__(self, channels_in: int, channels_out: int, latent_size: int, *, up: bool = False) -> None:
        super().__init__()
        self.conv = ModulatedConv(channels_in, channels_out, 3, latent_size)
        self.noise = _Noise()
        self.activate = _Bias(channels_out)
        self.up = up
        self.register_buffer("gate", torch.ones(channels_out))

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None, gate: Tensor | None = None) -> Tensor:
        """`[n i h w], [n d], [n 1 h' w'] or None, gate [o] or [n o] or None (own) -> [n o h' w']`."""
        style = self.conv.style(w)
        x = x * style[:, :, None, None]
        weight = self.conv.weight[0]
        if self.up:
            x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
            x = blur(x, (1, 1), gain=4.0)
        else:
            x = F.conv2d(x, weight, padding=1)

        # Gain and own gate are not negative, so they can be applied before the leaky ReLU, where they cost nothing.
        gain = self.gate * GAIN if gate is None else torch.full_like(self.gate, GAIN)
        scale = self.conv.demodulation(style) * gain  # [n o]
        bias = self.activate.bias * gain
        x = torch.addcmul(bias[:, None, None], x, scale[:, :, None, None])
        if noise is not None:
            x = torch.addcmul(x, noise, (self.noise.weight * gain)[:, None, None])
        x = leaky_relu(x)
        return x if gate is None else x * gate[..., None, None]


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to three channels, added to the enlarged image of the block before."""

    def __init__(self, channels_in: int, latent_size: int) -> None:
        super().__init__()
        self.conv = ModulatedConv(channels_in, 3, 1, latent_size)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))

    def forward(self, x: Tensor, w: Tensor, skip: Tensor | None) -> Tensor:
        """`[n i h w], [n d], [n 3 h/2 w/2] or None -> [n 3 h w]`."""
        x = x * self.conv.style(w)[:, :, None, None]
        x = F.conv2d(x, self.conv.weight[0]) + self.bias
        return x if skip is None else x + upsample(skip)


class _Blur(nn.Module):
    """Low-pass filter in front of a convolution with stride 2; has no parameters, keeps the layout's numbering."""

    def __init__(self, pad: int, stride: int) -> None:
        super().__init__()
        self.pad, self.stride = pad, stride

    def forward(self, x: Tensor) -> Tensor:
        return blur(x, (self.pad, self.pad), stride=self.stride)


class _Conv(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels_out, channels_in, kernel, kernel))


class ConvLayer(nn.Sequential):
    """Convolution, bias, leaky ReLU, gate; with `down`, low-pass filtered and at half the size."""

    gate: Tensor

    def __init__(self, channels_in: int, channels_out: int, kernel: int, *, down: bool = False) -> None:
        conv, bias = _Conv(channels_in, channels_out, kernel), _Bias(channels_out)
        super().__init__(*([_Blur(2, 1)] if down else []), conv, bias)
        self.down = down
        self.register_buffer("gate", torch.ones(channels_out))

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """`[n i h w], gate [o] or [n o] or None (own) -> [n o h' w']`."""
        conv, activate = cast(_Conv, self[-2]), cast(_Bias, self[-1])
        gain = self.gate * GAIN if gate is None else torch.full_like(self.gate, GAIN)
        scale = gain / math.sqrt(conv.weight[0].numel())
        weight, bias = conv.weight * scale[:, None, None, None], activate.bias * gain
        if self.down:
            x = F.conv2d(self[0](x), weight, bias, stride=2)
        else:
            x = F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)
        x = leaky_relu(x)
        return x if gate is None else x * gate[..., None, None]


class SkipConv(nn.Sequential):
    """D's shortcut: low-pass filter at stride 2, then a 1x1 convolution without bias or activation."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(_Blur(1, 2), _Conv(channels_in, channels_out, 1))

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        weight = cast(_Conv, self[1]).weight
        return F.conv2d(self[0](x), weight / math.sqrt(weight.shape[1]))


class ResBlock(nn.Module):
    """D's block: two convolutions, the second to half the size, plus the shortcut, over sqrt(2)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv1 = ConvLayer(channels_in, channels_in, 3)
        self.conv2 = ConvLayer(channels_in, channels_out, 3, down=True)
        self.skip = SkipConv(channels_in, channels_out)

    def forward(self, x: Tensor, gate1: Tensor | None, gate2: Tensor | None) -> Tensor:
        return (self.conv2(self.conv1(x, gate1), gate2) + self.skip(x)) / math.sqrt(2.0)


def minibatch_stddev(x: Tensor, minibatches: int, group: int = 4) -> Tensor:
    """Append one channel: how much the samples of a group differ, averaged over channels and pixels.

    `[n c h w] -> [n c+1 h w]`. `minibatches` concatenated batches are kept apart. The group size is the smallest
    divisor of a batch that is at least `min(batch, group)`, so every batch size has one. Arranged as in the
    public code: samples i, i + n/group, ... form a group.
    """
    n, c, h, w = x.shape
    batch = n // minibatches
    size = next(k for k in range(min(batch, group), batch + 1) if batch % k == 0)
    y = x.reshape(minibatches, size, batch // size, c, h, w)
    y = (y.var(dim=1, correction=0) + 1e-8).sqrt().mean(dim=(2, 3, 4))  # [m, batch/size]
    y = y[:, None].expand(-1, size, -1).reshape(n, 1, 1, 1).expand(-1, -1, h, w)
    return torch.cat([x, y], dim=1)
