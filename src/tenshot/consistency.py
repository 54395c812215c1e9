"""Losses that hold an adapting generator to its source: pure functions of the feature maps of both.

Cross-domain distance consistency (CDC, arXiv:2104.06820) keeps how much images resemble *each other*. Dual contrastive
learning (DCL, arXiv:2205.03805) keeps each image nearest to *its own* source image, and away from the shots.

A map is one layer's output for n latents, `[n c h w]`; row i of source and of target comes from the same latent.
All results are at least float32.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Reduction = Literal["entries", "sum"]
"""entries: mean over all n (n - 1) terms of the divergences; sum: the sum of the n divergences."""

Side = Literal["source", "target"]


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosine similarity of every flattened map of `a` with every one of `b`, `[n c h w], [m c h w] -> [n m]`."""
    return _unit(a) @ _unit(b).T


def distance_consistency(
    source: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    layers: Sequence[str],
    *,
    reduction: Reduction = "entries",
    kl_from: Side = "source",
) -> Tensor:
    """How differently n latents resemble each other through source and target (CDC, section 3.1), `[] >= 0`.

    layers: for each of the n >= 3 rows, the layer of `source` and `target` in which it is compared with the others;
        of 2 rows each has one other, and the result is 0.
    Each row's n - 1 cosine similarities become a distribution by a softmax; rows are compared by
    KL(source || target), or KL(target || source) with kl_from = "target".
    """
    p, q = (_others(maps, layers).log_softmax(dim=1) for maps in (source, target))
    first, second = (p, q) if kl_from == "source" else (q, p)
    divergence = F.kl_div(second, first, log_target=True, reduction="none")
    return divergence.mean() if reduction == "entries" else divergence.sum()


def generator_contrast(target: Tensor, source: Tensor, temperature: float) -> Tensor:
    """Is each image nearest to its own source image among all source images? (DCL, L_CL1), `[] >= 0`.

    target, source: one layer of G, `[n c h w]`. The cross-entropy of row i with class i, logits cosine / temperature.
    """
    logits = cosines(target, source) / temperature
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def discriminator_contrast(target: Tensor, source: Tensor, shots: Tensor, temperature: float) -> Tensor:
    """Is each image nearer to its own source image than to any shot? (DCL, L_CL2), `[] >= 0`.

    target, source: one layer of D for generated images, `[n c h w]`; shots: the same for m shots, `[m c h w]`.
    """
    own = (_unit(target) * _unit(source)).sum(dim=1, keepdim=True)
    logits = torch.cat([own, cosines(target, shots)], dim=1) / temperature
    return -logits.log_softmax(dim=1)[:, 0].mean()


def _others(maps: Mapping[str, Tensor], layers: Sequence[str]) -> Tensor:
    """Similarities of row i with all other rows in row i's layer, `[n n-1]`; one matrix for each distinct layer."""
    matrices = {layer: cosines(maps[layer], maps[layer]) for layer in dict.fromkeys(layers)}
    rows = torch.stack([matrices[layer][i] for i, layer in enumerate(layers)])
    is_other = ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    return rows[is_other].view(len(rows), -1)


def _unit(maps: Tensor) -> Tensor:
    """Flattened and of length 1, `[n c h w] -> [n c*h*w]`; zeros stay zeros."""
    wide = maps.to(torch.promote_types(maps.dtype, torch.float32))
    return F.normalize(wide.flatten(1), dim=1, eps=1e-8)
