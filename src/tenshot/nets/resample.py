"""Low-pass filtering, and halving and doubling the size with it: [1, 3, 3, 1] x [1, 3, 3, 1] / 64, channel by channel.

The three are linear, and each one's adjoint is among them. So their gradients, of any order, are written down here and
need no graph of a convolution's second derivative, which costs more than the filter itself.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_TAPS = (1.0, 3.0, 3.0, 1.0)


def blur(x: Tensor, pad: int, gain: float = 1.0) -> Tensor:
    """Low-pass filter, times `gain`. `[n c h w] -> [n c h+2 pad-3 w+2 pad-3]`."""
    return _Blur.apply(x, pad, gain)  # pyright: ignore[reportReturnType]


def downsample(x: Tensor) -> Tensor:
    """Low-pass filter, then every second pixel. `[n c h w] -> [n c h/2 w/2]`, h and w even."""
    return _Down.apply(x, 1.0)  # pyright: ignore[reportReturnType]


def upsample(x: Tensor) -> Tensor:
    """Zeros between pixels, then the low-pass filter with gain 4. `[n c h w] -> [n c 2h 2w]`."""
    return _Up.apply(x, 4.0)  # pyright: ignore[reportReturnType]


def _kernel(x: Tensor, gain: float) -> Tensor:
    """One filter per channel of x, `[c 1 4 4]`; its taps sum to `gain`."""
    kernel = x.new_tensor([[a * b * gain / 64.0 for b in _TAPS] for a in _TAPS])
    return kernel.expand(x.shape[1], 1, 4, 4)


class _Blur(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, pad: int, gain: float) -> Tensor:
        ctx.pad, ctx.gain = pad, gain
        return F.conv2d(x, _kernel(x, gain), padding=pad, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return _Blur.apply(grads[0], 3 - ctx.pad, ctx.gain), None, None


class _Down(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: float) -> Tensor:
        ctx.gain = gain
        return F.conv2d(x, _kernel(x, gain), stride=2, padding=1, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return _Up.apply(grads[0], ctx.gain), None


class _Up(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: float) -> Tensor:
        ctx.gain = gain
        wide = x.float() if x.dtype == torch.bfloat16 else x  # ten times as fast on a CPU as bfloat16 itself
        return F.conv_transpose2d(wide, _kernel(wide, gain), stride=2, padding=1, groups=x.shape[1]).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return _Down.apply(grads[0], ctx.gain), None
