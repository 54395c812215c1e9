"""Numbers stored in fewer bits than they were computed in, right on average.

float16 is not rounded to the nearest but up or down by chance. The sources that ship lie on float16's grid, and
training moves the mapping network's weights, about 100 each, by less than half a step of it but many in concert: the
nearest number would be the source's again, and the mapping network as if never adapted.
"""

import torch
from torch import Tensor

from tenshot.randomness import generator_for


def stored_as(values: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """A tensor of any shape in `dtype`; infinite where a number is too large for it.

    float16: one of the two next to each value, the nearer the likelier, so that the mean is the value (stochastic
    rounding, arXiv:1502.02551). What float16 holds exactly stays. The same for the same name and values, on any device.
    """
    nearest = values.to(dtype)
    if dtype != torch.float16 or values.dtype == dtype:
        return nearest
    missing = values - nearest.to(values.dtype)
    beyond = nearest.new_tensor(torch.inf).copysign(missing.to(dtype))
    other = torch.nextafter(nearest, beyond)
    other = torch.where(other.isfinite(), other, nearest)
    gap = other.to(values.dtype) - nearest.to(values.dtype)
    drawn = torch.rand(values.shape, generator=generator_for(0, "float16", name)).to(values)
    return torch.where(drawn * gap.abs() < missing.abs(), other, nearest)
