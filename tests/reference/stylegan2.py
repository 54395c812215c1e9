"""StyleGAN2, configuration F: the skip generator and the residual discriminator (Karras et al., arXiv:1912.04958).

The slow, obvious twin of `tenshot.nets`. It states the equations as the paper and the public few-shot code do:
every sample gets convolution weights of its own, and every blur is a zero-insertion, a padding, a full two-dimensional
convolution and a decimation. Plain functions over a state dict with the parameter names of
rosinality/stylegan2-pytorch, so nothing here is shared with the modules under test.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

State = Mapping[str, Tensor]

EPSILON = 1e-8
MAPPING_LR_MULTIPLIER = 0.01


def reference_mapping(state: State, z: Tensor) -> Tensor:
    """The style w [n, d] of a latent z [n, d]."""
    x = z / torch.sqrt(z.square().mean(dim=1, keepdim=True) + EPSILON)
    depth = sum(name.startswith("style.") and name.endswith(".weight") for name in state)
    for layer in range(1, depth + 1):
        weight, bias = state[f"style.{layer}.weight"], state[f"style.{layer}.bias"]
        x = x @ (weight * MAPPING_LR_MULTIPLIER / math.sqrt(weight.shape[1])).T
        x = activate(x + bias * MAPPING_LR_MULTIPLIER)
    return x


def reference_generator(
    state: State, w: Tensor, noise: Sequence[Tensor] | None = None, gates: Mapping[str, Tensor] | None = None
) -> Tensor:
    """Images [n, 3, r, r] from one style per layer, w [n, n_latent, d].

    `noise` is one [n, 1, h, w] for each of conv1, convs.0, convs.1, ..., or None for a generator without noise.
    `gates` multiply the activated output of a block, named as in the state, by one number per channel:
    [c] for all samples alike, [n, c] for each sample apart.
    """
    gates = gates or {}
    stages = sum(name.startswith("to_rgbs.") and name.endswith(".conv.weight") for name in state)
    blocks = ["conv1"] + [f"convs.{i}" for i in range(2 * stages)]
    noise_of = dict(zip(blocks, noise, strict=True)) if noise is not None else {}

    def styled(block: str, x: Tensor, latent: int, up: bool) -> Tensor:
        x = modulated_conv(state, f"{block}.conv", x, w[:, latent], demodulate=True, up=up)
        if block in noise_of:
            x = x + state[f"{block}.noise.weight"] * noise_of[block]
        x = activate(x + per_channel(state[f"{block}.activate.bias"]))
        return gated(x, gates.get(block))

    def to_rgb(block: str, x: Tensor, latent: int) -> Tensor:
        x = modulated_conv(state, f"{block}.conv", x, w[:, latent], demodulate=False, up=False)
        return x + state[f"{block}.bias"]

    x = state["input.input"].repeat(len(w), 1, 1, 1)  # [n c 4 4]
    x = styled("conv1", x, latent=0, up=False)
    image = to_rgb("to_rgb1", x, latent=1)
    for k in range(stages):
        # A stage's toRGB and the next stage's first convolution read the same style.
        x = styled(f"convs.{2 * k}", x, latent=2 * k + 1, up=True)
        x = styled(f"convs.{2 * k + 1}", x, latent=2 * k + 2, up=False)
        image = upfirdn2d(image, blur_kernel(image) * 4, up=2, pad=(2, 1))
        image = image + to_rgb(f"to_rgbs.{k}", x, latent=2 * k + 3)
    return image


def reference_discriminator(
    state: State, images: Tensor, gates: Mapping[str, Tensor] | None = None, stddev_group: int = 4
) -> Tensor:
    """Logits [n, 1] of images [n, 3, r, r]; `gates` as in `reference_generator`."""
    gates = gates or {}
    blocks = sum(name.startswith("convs.") and name.endswith(".skip.1.weight") for name in state)

    def conv(block: str, x: Tensor, weight: str, bias: str, pad: int = 0, down: bool = False) -> Tensor:
        if down:
            x = upfirdn2d(x, blur_kernel(x), pad=(2, 2))
        x = F.conv2d(x, equalised(state[f"{block}.{weight}"]), stride=2 if down else 1, padding=pad)
        x = activate(x + per_channel(state[f"{block}.{bias}"]))
        return gated(x, gates.get(block))

    def skip(block: str, x: Tensor) -> Tensor:
        x = upfirdn2d(x, blur_kernel(x), pad=(1, 1))
        return F.conv2d(x, equalised(state[f"{block}.weight"]), stride=2)

    x = conv("convs.0", images, "0.weight", "1.bias")
    for i in range(1, blocks + 1):
        y = conv(f"convs.{i}.conv1", x, "0.weight", "1.bias", pad=1)
        y = conv(f"convs.{i}.conv2", y, "1.weight", "2.bias", down=True)
        x = (y + skip(f"convs.{i}.skip.1", x)) / math.sqrt(2)
    x = torch.cat([x, minibatch_stddev(x, stddev_group)], dim=1)
    x = conv("final_conv", x, "0.weight", "1.bias", pad=1)
    x = activate(linear(state, "final_linear.0", x.flatten(1)))
    return linear(state, "final_linear.1", x)


def modulated_conv(state: State, name: str, x: Tensor, style: Tensor, demodulate: bool, up: bool) -> Tensor:
    """Convolve each sample with its own weights: scaled per input channel by the style, then to unit norm."""
    n, c_in, height, width = x.shape
    shared = equalised(state[f"{name}.weight"])  # [1 o i k k]
    _, c_out, _, k, _ = shared.shape
    scale = linear(state, f"{name}.modulation", style)  # [n i]
    weight = shared * scale.view(n, 1, c_in, 1, 1)  # [n o i k k]
    if demodulate:
        norm = torch.sqrt(weight.square().sum(dim=(2, 3, 4), keepdim=True) + EPSILON)
        weight = weight / norm
    x = x.reshape(1, n * c_in, height, width)
    if up:
        weight = weight.transpose(1, 2).reshape(n * c_in, c_out, k, k)
        x = F.conv_transpose2d(x, weight, stride=2, groups=n)
        x = x.view(n, c_out, *x.shape[2:])
        return upfirdn2d(x, blur_kernel(x) * 4, pad=(1, 1))
    x = F.conv2d(x, weight.reshape(n * c_out, c_in, k, k), padding=k // 2, groups=n)
    return x.view(n, c_out, height, width)


def minibatch_stddev(x: Tensor, stddev_group: int) -> Tensor:
    """One map [n, 1, h, w]: how much the samples of a group differ, the same number at every pixel.

    The group is the smallest divisor of n that is at least min(n, stddev_group); its members lie n / group apart.
    """
    n, c, height, width = x.shape
    group = next(g for g in range(min(n, stddev_group), n + 1) if n % g == 0)
    grouped = x.reshape(group, n // group, c, height, width)
    variance = (grouped - grouped.mean(dim=0)).square().mean(dim=0)
    stddev = torch.sqrt(variance + EPSILON).mean(dim=(1, 2, 3))  # [n/group]
    return stddev.repeat(group).view(n, 1, 1, 1).expand(n, 1, height, width)


def upfirdn2d(x: Tensor, kernel: Tensor, up: int = 1, down: int = 1, pad: tuple[int, int] = (0, 0)) -> Tensor:
    """Put up - 1 zeros after each pixel, pad all sides by (before, after), convolve, keep every down-th pixel."""
    n, c, height, width = x.shape
    spread = x.new_zeros(n, c, height, up, width, up)
    spread[:, :, :, 0, :, 0] = x
    spread = spread.view(n * c, 1, height * up, width * up)
    padded = F.pad(spread, (*pad, *pad))
    filtered = F.conv2d(padded, kernel.flip(0, 1)[None, None])  # conv2d correlates; the flip makes it a convolution
    return filtered.view(n, c, *filtered.shape[2:])[:, :, ::down, ::down]


def blur_kernel(like: Tensor) -> Tensor:
    """The [4, 4] kernel [1, 3, 3, 1] x [1, 3, 3, 1] of sum 1, with the dtype of a tensor."""
    taps = torch.tensor([1, 3, 3, 1], dtype=like.dtype, device=like.device)
    return torch.outer(taps, taps) / taps.sum() ** 2


def equalised(weight: Tensor) -> Tensor:
    """A convolution's weight [..., o, i, k, k] at run time: divided by the root of its fan-in."""
    return weight / math.sqrt(math.prod(weight.shape[-3:]))


def linear(state: State, name: str, x: Tensor) -> Tensor:
    weight = state[f"{name}.weight"]
    return x @ (weight / math.sqrt(weight.shape[1])).T + state[f"{name}.bias"]


def activate(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2) * math.sqrt(2)


def per_channel(values: Tensor) -> Tensor:
    """[c] or [n, c], shaped to broadcast over [n, c, h, w]."""
    return values[..., None, None]


def gated(x: Tensor, gate: Tensor | None) -> Tensor:
    return x if gate is None else x * per_channel(gate)
