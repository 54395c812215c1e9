"""The building blocks of StyleGAN2 (arXiv:1912.04958), written for shared kernels.

The style scales the *activations*: the input is multiplied by the style, convolved once with weights that all
samples share, and multiplied by the demodulation factor. That is the same function as modulating the weights for every
sample (section 2.2 and appendix B of the paper), without a grouped convolution of n times the size.

Shape letters: n samples, c or i input channels, o output channels, h and w pixels, d latent size.
All weights are at the equalised learning rate: stored ~ N(0, 1), used times 1 / sqrt(fan_in).

The type of the activations decides in what precision a layer computes: parameters stay as they are and are cast where
they meet activations of another type. Styles, demodulation and RGB images keep the parameters' precision.
"""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tenshot.nets.resample import blur, downsample, upsample

SLOPE = 0.2  # of the leaky ReLU
GAIN = math.sqrt(2.0)  # keeps the variance after it


def leaky_relu(x: Tensor) -> Tensor:
    """Leaky ReLU without its gain: since it is positively homogeneous, callers fold the gain into what they pass."""
    return F.leaky_relu(x, SLOPE)


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
        gain = self.lr_mul * (GAIN if self.activate else 1.0)
        weight = self.weight
        x = x * (gain / math.sqrt(weight.shape[1]))  # not the weight: there is far more of it
        x = F.linear(x, weight, self.bias * gain)
        return leaky_relu(x) if self.activate else x


def _channels_last(weight: Tensor) -> Tensor:
    """The layout that convolutions of channels_last images want; in any other, each use makes a copy."""
    return weight.contiguous(memory_format=torch.channels_last)


class ModulatedConv(nn.Module):
    """Weights and style of a modulated convolution; parameter names as in the rosinality layout.

    Input channels that were cut out of the network leave their styles, after those of the others, and `silent`, the
    squared norms of the weights that read them (`tenshot.compact`).
    """

    silent: Tensor | None

    def __init__(self, channels_in: int, channels_out: int, kernel: int, latent_size: int, *, silent: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(_channels_last(torch.randn(channels_out, channels_in, kernel, kernel))[None])
        self.modulation = EqualLinear(latent_size, channels_in + silent, bias_init=1.0)
        self.fan_in = (channels_in + silent) * kernel**2
        self.register_buffer("silent", torch.ones(channels_out, silent) if silent else None)

    def style(self, w: Tensor) -> Tensor:
        """Factors for the input channels, those cut out last, the equalised learning rate's scale included.
        `[n d] -> [n i+silent]`."""
        return self.modulation(w) / math.sqrt(self.fan_in)

    def demodulation(self, style: Tensor, weight: Tensor) -> Tensor:
        """1 / (the standard deviation that style and weights give each output channel).
        `[n i+silent], [o i k k] -> [n o]`.

        A pruned input channel stays in the sum: pruning takes a channel's signal away and nothing else.
        """
        energy = weight.square().sum(dim=(2, 3))  # [o i]
        if self.silent is not None:
            energy = torch.cat([energy, self.silent], dim=1)
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

    def __init__(
        self, channels_in: int, channels_out: int, latent_size: int, *, up: bool = False, silent: int = 0
    ) -> None:
        super().__init__()
        self.conv = ModulatedConv(channels_in, channels_out, 3, latent_size, silent=silent)
        self.noise = _Noise()
        self.activate = _Bias(channels_out)
        self.up = up
        self.register_buffer("gate", torch.ones(channels_out))

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None, gate: Tensor | None = None) -> Tensor:
        """`[n i h w], [n d], [n 1 h' w'] or None, gate [o] or [n o] or None (own) -> [n o h' w']`."""
        style = self.conv.style(w)
        x = x * style[:, : x.shape[1], None, None].to(x.dtype)
        weight = self.conv.weight.squeeze(0)  # read once: a parametrised weight is computed at every look
        if self.up:
            x = F.conv_transpose2d(x, weight.to(x.dtype).transpose(0, 1), stride=2)
            x = blur(x, 1, gain=4.0)
        else:
            x = F.conv2d(x, weight.to(x.dtype), padding=1)

        # Gain and own gate are not negative, so they can be applied before the leaky ReLU, where they cost nothing.
        gain = self.gate * GAIN if gate is None else torch.full_like(self.gate, GAIN)
        scale = self.conv.demodulation(style, weight) * gain  # [n o]
        bias = self.activate.bias * gain
        x = torch.addcmul(bias[:, None, None].to(x.dtype), x, scale[:, :, None, None].to(x.dtype))
        if noise is not None:
            strength = (self.noise.weight * gain)[:, None, None]
            x = torch.addcmul(x, noise.to(x.dtype), strength.to(x.dtype))
        x = leaky_relu(x)
        return x if gate is None else x * gate[..., None, None].to(x.dtype)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to three channels, added to the enlarged image of the block before."""

    def __init__(self, channels_in: int, latent_size: int) -> None:
        super().__init__()
        self.conv = ModulatedConv(channels_in, 3, 1, latent_size)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))

    def forward(self, x: Tensor, w: Tensor, skip: Tensor | None) -> Tensor:
        """`[n i h w], [n d], [n 3 h/2 w/2] or None -> [n 3 h w]`."""
        n, channels, height, width = x.shape
        weight = self.conv.weight.view(3, -1) * self.conv.style(w)[:, None]  # [n 3 i], less than the activations
        pixels = x.permute(0, 2, 3, 1).reshape(n, height * width, channels)
        image = torch.bmm(pixels, weight.transpose(1, 2).to(x.dtype)).to(weight.dtype)
        image = image.view(n, height, width, 3).permute(0, 3, 1, 2) + self.bias
        return image if skip is None else image + upsample(skip)


def in_squares(images: Tensor, side: int) -> Tensor:
    """Every square of `side` by `side` pixels in its mean colour, `[n c h w]`; 1 leaves images as they are."""
    return images if side == 1 else F.interpolate(F.avg_pool2d(images, side), scale_factor=side, mode="nearest")


class _Blur(nn.Module):
    """Low-pass filter in front of a convolution with stride 2; has no parameters, keeps the layout's numbering."""

    def forward(self, x: Tensor) -> Tensor:
        return blur(x, 2)


class _Downsample(nn.Module):
    """Low-pass filter and every second pixel; has no parameters, keeps the layout's numbering."""

    def forward(self, x: Tensor) -> Tensor:
        return downsample(x)


class _Conv(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(_channels_last(torch.randn(channels_out, channels_in, kernel, kernel)))


class ConvLayer(nn.Sequential):
    """Convolution, bias, leaky ReLU, gate; with `down`, low-pass filtered and at half the size."""

    gate: Tensor

    def __init__(self, channels_in: int, channels_out: int, kernel: int, *, down: bool = False) -> None:
        conv, bias = _Conv(channels_in, channels_out, kernel), _Bias(channels_out)
        super().__init__(*([_Blur()] if down else []), conv, bias)
        self.down = down
        self.register_buffer("gate", torch.ones(channels_out))

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """`[n i h w], gate [o] or [n o] or None (own) -> [n o h' w']`."""
        conv, activate = cast(_Conv, self[-2]), cast(_Bias, self[-1])
        gain = self.gate * GAIN if gate is None else torch.full_like(self.gate, GAIN)
        weight = conv.weight
        scale = gain / math.sqrt(weight[0].numel())
        weight = (weight * scale[:, None, None, None]).to(x.dtype)
        bias = (activate.bias * gain).to(x.dtype)
        if self.down:
            x = F.conv2d(self[0](x), weight, bias, stride=2)
        else:
            x = F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)
        x = leaky_relu(x)
        return x if gate is None else x * gate[..., None, None].to(x.dtype)


class SkipConv(nn.Sequential):
    """D's shortcut: low-pass filter at stride 2, then a 1x1 convolution without bias or activation."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(_Downsample(), _Conv(channels_in, channels_out, 1))

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        weight = cast(_Conv, self[1]).weight
        return F.conv2d(self[0](x), (weight / math.sqrt(weight.shape[1])).to(x.dtype))


class ResBlock(nn.Module):
    """D's block: two convolutions, the second to half the size, and the shortcut; `Discriminator.maps` runs them."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv1 = ConvLayer(channels_in, channels_in, 3)
        self.conv2 = ConvLayer(channels_in, channels_out, 3, down=True)
        self.skip = SkipConv(channels_in, channels_out)


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
