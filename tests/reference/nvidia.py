"""StyleGAN2 in NVIDIA's layout: the names of its PyTorch state dicts, and what each layer computes.

The slow, obvious twin of what `tenshot.nvidia` translates. It is written from the paper (Karras et al.,
arXiv:1912.04958, section 2 and appendix B) and from the published names and conventions:

- a layer multiplies its stored weight by 1 / sqrt(fan-in) at run time; the mapping's layers also by their
  learning-rate multiplier, which their biases get too; a demodulated convolution needs no such factor;
- a resampling convolution is defined in one way: put zeros between the pixels, pad once, filter, convolve, filter,
  drop pixels; doubling convolves (the kernel is turned by 180 degrees), all others correlate, as torch does;
- the activation is a leaky ReLU of slope 0.2 and gain sqrt(2), then clamped if the network was trained so.

Plain functions over a flat state dict; nothing is shared with the modules under test.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

State = Mapping[str, Tensor]


def mapping(state: State, z: Tensor, rate: float = 0.01) -> Tensor:
    """w [n, d] of z [n, d]; `rate` is the learning-rate multiplier."""
    x = z / (z.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()
    layer = 0
    while f"mapping.fc{layer}.weight" in state:
        x = activate(linear(state, f"mapping.fc{layer}", x, rate))
        layer += 1
    return x


def synthesis(
    state: State, ws: Tensor, noise: Sequence[Tensor] | None = None, *, fused: bool = True, clamp: float | None = None
) -> Tensor:
    """Images [n, 3, r, r] from ws [n, layers, d]; `noise` is one [n, 1, h, w] for each convolution, None = none."""
    maps = iter(noise or [])

    def conv(name: str, x: Tensor, w: Tensor, up: int) -> Tensor:
        style = linear(state, f"{name}.affine", w)
        x = modulated(x, state[f"{name}.weight"], style, up=up, demodulate=True, fused=fused)
        if noise is not None:
            x = x + next(maps) * state.get(f"{name}.noise_strength", torch.zeros([]))
        return clamped(activate(x + state[f"{name}.bias"].view(1, -1, 1, 1)), clamp)

    def to_rgb(name: str, x: Tensor, w: Tensor) -> Tensor:
        weight = state[f"{name}.weight"]
        style = linear(state, f"{name}.affine", w) / math.sqrt(weight[0].numel())
        x = modulated(x, weight, style, up=1, demodulate=False, fused=fused)
        return clamped(x + state[f"{name}.bias"].view(1, -1, 1, 1), clamp)

    size = 4
    x = torch.stack([state["synthesis.b4.const"]] * len(ws))
    x = conv("synthesis.b4.conv1", x, ws[:, 0], up=1)
    image = to_rgb("synthesis.b4.torgb", x, ws[:, 1])
    at = 1
    while f"synthesis.b{2 * size}.conv0.weight" in state:
        size *= 2
        x = conv(f"synthesis.b{size}.conv0", x, ws[:, at], up=2)
        x = conv(f"synthesis.b{size}.conv1", x, ws[:, at + 1], up=1)
        image = resample(image, up=2, before=2, after=1) + to_rgb(f"synthesis.b{size}.torgb", x, ws[:, at + 2])
        at += 2
    return image


def discriminator(state: State, images: Tensor, group: int | None = 4, clamp: float | None = None) -> Tensor:
    """Logits [n, 1] of images [n, 3, r, r]; `group` images are compared with one another, None = all."""

    def conv(name: str, x: Tensor, down: int = 1, gain: float = 1.0) -> Tensor:
        weight = state[f"{name}.weight"]
        scaled = weight / math.sqrt(weight[0].numel())
        x = resampled_conv(x, scaled, down=down, padding=weight.shape[-1] // 2, turned=False)
        if f"{name}.bias" not in state:
            return x * gain
        x = activate(x + state[f"{name}.bias"].view(1, -1, 1, 1)) * gain
        return clamped(x, None if clamp is None else clamp * gain)

    size = images.shape[-1]
    x = conv(f"b{size}.fromrgb", images)
    while size > 4:
        shortcut = conv(f"b{size}.skip", x, down=2, gain=math.sqrt(0.5))
        x = conv(f"b{size}.conv0", x)
        x = conv(f"b{size}.conv1", x, down=2, gain=math.sqrt(0.5)) + shortcut
        size //= 2
    x = torch.cat([x, deviation(x, len(x) if group is None else min(group, len(x)))], dim=1)
    x = conv("b4.conv", x)
    return linear(state, "b4.out", activate(linear(state, "b4.fc", x.flatten(1))))


def deviation(x: Tensor, group: int) -> Tensor:
    """One map [n, 1, h, w]; image i is compared with those n / group apart."""
    n, _, height, width = x.shape
    answer = x.new_empty(n, 1, height, width)
    apart = n // group
    for first in range(apart):
        members = list(range(first, n, apart))
        of_group = x[members]
        variance = (of_group - of_group.mean(dim=0)).square().mean(dim=0)
        answer[members] = (variance + 1e-8).sqrt().mean()
    return answer


def modulated(x: Tensor, weight: Tensor, style: Tensor, *, up: int, demodulate: bool, fused: bool) -> Tensor:
    """Fused: each sample is convolved with weights of its own. Else its activations are scaled before and after."""
    padding = weight.shape[-1] // 2
    samples = []
    for image, scale in zip(x, style, strict=True):
        own = weight * scale.view(1, -1, 1, 1)
        factor = torch.ones(len(weight))
        if demodulate:
            factor = 1 / (own.square().sum(dim=(1, 2, 3)) + 1e-8).sqrt()
        if fused:
            own = own * factor.view(-1, 1, 1, 1)
            samples.append(resampled_conv(image[None], own, up=up, padding=padding, turned=up > 1))
        else:
            scaled = (image * scale.view(-1, 1, 1))[None]
            scaled = resampled_conv(scaled, weight, up=up, padding=padding, turned=up > 1)
            samples.append(scaled * factor.view(1, -1, 1, 1))
    return torch.cat(samples)


def resampled_conv(
    x: Tensor, weight: Tensor, *, up: int = 1, down: int = 1, padding: int = 0, turned: bool = False
) -> Tensor:
    """A convolution between doubling and halving; all padding is done first. `turned` = by 180 degrees."""
    before = after = padding
    if up > 1:
        before, after = before + (4 + up - 1) // 2, after + (4 - up) // 2
    if down > 1:
        before, after = before + (4 - down + 1) // 2, after + (4 - down) // 2
    x = resample(x, up=up, before=before, after=after) if up > 1 else F.pad(x, [before, after] * 2)
    x = F.conv2d(x, weight.flip(2, 3) if turned else weight)
    return resample(x, down=down) if down > 1 else x


def resample(x: Tensor, *, up: int = 1, down: int = 1, before: int = 0, after: int = 0) -> Tensor:
    """Zeros between pixels, padding, the [1, 3, 3, 1] filter with gain up^2, every down-th pixel."""
    n, c, height, width = x.shape
    spread = x.new_zeros(n, c, height * up, width * up)
    spread[:, :, ::up, ::up] = x
    spread = F.pad(spread, (before, after, before, after))
    taps = x.new_tensor([1.0, 3.0, 3.0, 1.0]) / 8
    kernel = torch.outer(taps, taps)[None, None] * up**2
    filtered = F.conv2d(spread.flatten(0, 1)[:, None], kernel)
    return filtered.view(n, c, *filtered.shape[2:])[:, :, ::down, ::down]


def linear(state: State, name: str, x: Tensor, rate: float = 1.0) -> Tensor:
    weight = state[f"{name}.weight"]
    return x @ (weight.T * rate / math.sqrt(weight.shape[1])) + state[f"{name}.bias"] * rate


def activate(x: Tensor) -> Tensor:
    return torch.where(x < 0, 0.2 * x, x) * math.sqrt(2)


def clamped(x: Tensor, limit: float | None) -> Tensor:
    return x if limit is None else x.clamp(-limit, limit)
