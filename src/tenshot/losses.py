"""The losses every method shares, as pure functions of tensors. StyleGAN2, arXiv:1912.04958."""

import torch
import torch.nn.functional as F
from torch import Tensor


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Logistic loss of D, `[n], [n] -> []`: softplus(-D(x)) + softplus(D(G(z)))."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating logistic loss of G, `[n] -> []`: softplus(-D(G(z)))."""
    return F.softplus(-fake_logits).mean()


def r1_penalty(logits: Tensor, reals: Tensor) -> Tensor:
    """Mean squared norm of D's gradient at the real images (arXiv:1801.04406), `[n], [n 3 h w] -> []`.

    reals must require grad. Multiply by gamma / 2 and by the lazy interval.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), reals, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()


def path_lengths(images: Tensor, ws: Tensor, direction: Tensor) -> Tensor:
    """How far images move along `direction` per unit of latent (section 3.2), `[n 3 h w], [n layers d] -> [n]`.

    direction: standard normal, like images; scaled here by 1 / sqrt(h w). ws must require grad.
    """
    height, width = images.shape[2:]
    projection = (images * direction).sum() / (height * width) ** 0.5
    (gradient,) = torch.autograd.grad(projection, ws, create_graph=True)
    return gradient.square().sum(dim=2).mean(dim=1).sqrt()
