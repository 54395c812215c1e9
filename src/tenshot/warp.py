"""Affine warps of images that go on beyond their borders by reflection: pixels moved, or resampled between pixels.

A warp is given by its inverses, `[n 3 3]` in float64 on the CPU: (x, y, 1) in the result -> (x, y, 1) in the source, in
pixels from the centre, y down. Both warps are linear in the images and can be differentiated any number of times.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)
"""Low-pass filter of the wavelet sym6 (Daubechies, Ten Lectures on Wavelets, table 8.2), of sum sqrt(2)."""

_REACH = len(SYM6) // 2 - 1  # samples before sample 2 i to which pixel i contributes
_LAG = _REACH - sum(k * tap for k, tap in enumerate(SYM6)) / math.sqrt(2.0)  # a pixel's mean place among its samples
_PIXELS = 2**14  # of as many images at a time: caches hold them, and memory does not grow with the batch


def blit(images: Tensor, inverse: Tensor) -> Tensor:
    """Move pixels: each takes the value of the source pixel nearest to where it comes from. `[n c h w]`.

    For mirror images, quarter turns of squares, and translations by whole pixels, which come out exact.
    """
    height, width = images.shape[2:]
    m = inverse.to(images.dtype).to(images.device)[:, :, :, None, None]
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    y = torch.arange(height, device=images.device)[:, None] - (height - 1) / 2
    from_x, from_y = ((m[:, i, 0] * x + m[:, i, 1] * y + m[:, i, 2]) for i in (0, 1))
    column = _reflect((from_x + (width - 1) / 2).round().long(), width)
    row = _reflect((from_y + (height - 1) / 2).round().long(), height)
    index = (row * width + column).flatten(1)[:, None].expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(2, index).view_as(images)


def resample(images: Tensor, inverse: Tensor) -> Tensor:
    """Double the size with sym6, warp bilinearly, halve with sym6 (arXiv:2006.06676, appendix B). `[n c h w]`.

    The filters keep high frequencies that a plain bilinear warp would blur or alias. sym6 is orthonormal: with nothing
    in the middle, halving undoes doubling. It is not symmetric, so a pixel is not in the middle of its samples; samples
    are warped from and to where they are. (Taken for the middle, mirror images would be off by 0.4 pixels.)

    Of the reflected image only what is read is doubled, and no more than one period. float32 or float64.
    """
    most = max(1, _PIXELS // images[0, 0].numel())
    parts = zip(images.split(most), inverse.split(most), strict=True)
    return torch.cat([_resample(part, its_inverse) for part, its_inverse in parts])


def _resample(images: Tensor, inverse: Tensor) -> Tensor:
    channels, height, width = images.shape[1:]
    written, start, read, chain = _window(inverse, height, width)
    chain, start = chain.to(images.dtype).to(images.device), start.to(images.device)
    grid = F.affine_grid(chain, [len(images), channels, *written], align_corners=True)
    for axis, size in ((0, width), (1, height)):
        if read[axis] == _period(size) + 1:
            grid[..., axis] = (grid[..., axis] + 1.0).remainder(2.0) - 1.0
    across, down = (_doubler(start[:, i], read[i], size, images) for i, size in ((0, width), (1, height)))
    warped: Tensor = _Bilinear.apply(_double(images, across, down), grid)  # pyright: ignore[reportAssignmentType]
    return _halver(height, images).mT @ (warped @ _halver(width, images))


def _window(inverse: Tensor, height: int, width: int) -> tuple[tuple[int, int], Tensor, tuple[int, int], Tensor]:
    """What the warp between doubling and halving reads and writes.

    Returns (y, x) numbers of samples that it writes; the first of those it reads from each image, `[n 2]` as (x, y);
    (x, y) numbers of them; and its inverse for `affine_grid`, `[n 2 3]`: -1 and 1 are the first and last sample.
    """
    size = torch.tensor([width, height], dtype=torch.float64)
    written = 2.0 * size + len(SYM6) - 2.0
    to_position = _affine((written - 1.0) / 4.0, (written - 1.0) / 4.0 - (size - 1.0 + _REACH - _LAG) / 2.0)
    to_sample = _affine(size.new_full([2], 2.0), size - 1.0 - _LAG)
    chain = to_sample @ inverse @ to_position  # from -1..1 to the number of a sample
    corners = torch.tensor([[-1, 1, -1, 1], [-1, -1, 1, 1], [1, 1, 1, 1]], dtype=torch.float64)
    reached = (chain @ corners)[:, :2]
    start = reached.amin(2).floor()
    read = (reached.amax(2).floor() + 2.0 - start).amax(0)
    read = read.minimum(read.new_tensor([_period(width) + 1, _period(height) + 1]))
    chain = chain[:, :2].clone()
    chain[:, :, 2] -= start
    chain *= (2.0 / (read - 1.0))[:, None]
    chain[:, :, 2] -= 1.0
    return (int(written[1]), int(written[0])), start.long(), (int(read[0]), int(read[1])), chain


def _affine(scale: Tensor, offset: Tensor) -> Tensor:
    matrix = torch.eye(3, dtype=scale.dtype)
    matrix[[0, 1], [0, 1]] = scale
    matrix[:2, 2] = offset
    return matrix


def _period(size: int) -> int:
    """Samples after which a reflected image repeats itself."""
    return 4 * (size - 1)


def _reflect(index: Tensor, size: int) -> Tensor:
    """The pixel that stands at an index outside the image: ..2 1 0 1 2..; the border pixel is not repeated."""
    last = size - 1
    return last - (index.remainder(2 * last) - last).abs()


def _doubler(start: Tensor, span: int, size: int, like: Tensor) -> Tensor:
    """Pixels of a reflected image -> samples start, ..., start + span - 1 at twice the rate. `[n] -> [n span size]`."""
    newest = start[:, None] + torch.arange(span, device=like.device) + _REACH
    tap = newest.remainder(2)[..., None] + torch.arange(0, len(SYM6), 2, device=like.device)
    pixel = _reflect((newest[..., None] - tap) // 2, size)
    weight = math.sqrt(2.0) * like.new_tensor(SYM6)[tap]
    return like.new_zeros(len(start), span, size).scatter_add_(2, pixel, weight)


def _halver(size: int, like: Tensor) -> Tensor:
    """Samples -5, ..., 2 size + 4 -> pixels, to be multiplied from the right: half of what doubling is transposed."""
    pixel = torch.arange(size, device=like.device)
    tap = torch.arange(len(SYM6), device=like.device)[:, None]
    matrix = like.new_zeros(2 * size + len(SYM6) - 2, size)
    matrix[2 * pixel + tap, pixel] = math.sqrt(0.5) * like.new_tensor(SYM6)[:, None]
    return matrix


def _double(images: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """`[n c h w], [n x w], [n y h] -> [n c y x]`, as two products of one matrix per image."""
    n, channels, height, width = images.shape
    rows = down @ images.transpose(1, 2).reshape(n, height, channels * width)
    samples = rows.view(n, -1, width) @ across.mT
    return samples.view(n, down.shape[1], channels, -1).transpose(1, 2)


def _bilinear(x: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(x, grid, padding_mode="border", align_corners=True)


class _Bilinear(torch.autograd.Function):
    """grid_sample, linear in x. Its gradient in torch has no gradient; the two classes are each other's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.shape = x.shape
        return _bilinear(x, grid)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return _BilinearAdjoint.apply(grads[0], ctx.saved_tensors[0], ctx.shape), None


class _BilinearAdjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(grid)
        with torch.enable_grad():
            anywhere = y.new_zeros(()).expand(shape).requires_grad_()
            return torch.autograd.grad(_bilinear(anywhere, grid), anywhere, y)[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return _Bilinear.apply(grads[0], ctx.saved_tensors[0]), None, None
