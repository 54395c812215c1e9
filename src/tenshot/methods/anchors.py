"""What CDC and DCL share: realism asked for at anchors, patches judged elsewhere, pairs of a latent's two images.

With ten shots a discriminator of whole images knows them by heart, and a generator that satisfies it everywhere can
only repeat them. So whole images are judged only near a few fixed latents; everywhere else D sees no more than patches.
"""

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tenshot.filters import FilterGroup
from tenshot.methods.base import Clock, Context, Method, State
from tenshot.nets import Discriminator
from tenshot.nets.layers import GAIN, leaky_relu
from tenshot.randomness import generator_for
from tenshot.settings import check_types, require

PATCH_SIZES = (32, 16)
"""Height and width of D's maps whose places are judged one by one, in pixels, at every resolution."""


@dataclass(frozen=True)
class Pairs:
    """The same latents through source and adapting generator."""

    source: Tensor
    """Images `[n 3 r r]`, without gradient."""
    target: Tensor
    source_maps: dict[str, Tensor]
    """Every styled convolution's output by block name, `[n c h w]`, without gradient."""
    target_maps: dict[str, Tensor]


@dataclass(frozen=True)
class Anchored(Method):
    """Relaxed realism (CDC, section 3.2): whole images near anchors, patches everywhere else."""

    changes: ClassVar[str] = "everything, and patch heads on D"

    anchors: int = 10
    """Latents near which whole images are judged, drawn once. The public code: one for each shot."""
    anchor_sigma: float = 0.1
    """Standard deviation of the latents around an anchor. Later public forks: 0.05."""
    anchor_every: int = 4
    """Steps between those near anchors. Where it divides r1_every, as published, patches never get an R1 penalty."""
    patch_maps: int = 1
    """Of D's maps of 32 and 16 px, how many patches are judged from, 1 to 4; each judgement draws one of them."""
    activated_logits: bool = True
    """Whether patch logits pass through a leaky ReLU, which shrinks negative ones to a fifth, as published."""
    pairs: int = 4
    """Latents a step that source and adapting generator are compared on."""
    shared_noise: bool = True
    """Whether both get the same noise in that comparison. The public code draws it twice, so that even equal
    networks differ: False."""

    def __post_init__(self) -> None:
        check_types(self, self.name)
        for name, least in (("anchors", 1), ("anchor_every", 1), ("patch_maps", 1), ("pairs", 2)):
            require(self, self.name, name, getattr(self, name) >= least, f"at least {least}")
        require(self, self.name, "patch_maps", self.patch_maps <= 4, "at most 4")
        require(self, self.name, "anchor_sigma", 0 <= self.anchor_sigma < math.inf, "at least 0")

    def heads(self, discriminator: Discriminator, rng: torch.Generator) -> nn.Module | None:
        groups, size = patch_groups(discriminator), discriminator.spec.resolution
        most = f"at most {len(groups)} for a discriminator of {size} px"
        require(self, self.name, "patch_maps", self.patch_maps <= len(groups), most)
        heads = [PatchHead(group.count, rng, activated=self.activated_logits) for group in groups[: self.patch_maps]]
        return nn.ModuleList(heads).to(next(discriminator.parameters()))

    def setup(self, context: Context) -> State:
        size = context.nets.generator.spec.latent_size
        return {"anchors": torch.randn(self.anchors, size, generator=generator_for(context.clock.seed, "anchors"))}

    def is_anchored(self, clock: Clock) -> bool:
        """Whether this step's images come from near the anchors and are judged whole."""
        return clock.step % self.anchor_every == 0

    def latents(self, context: Context, state: State, n: int, rng: torch.Generator) -> Tensor | None:
        if not self.is_anchored(context.clock):
            return None
        centres = state["anchors"][torch.randint(self.anchors, (n,), generator=rng)]
        z = centres + self.anchor_sigma * torch.randn(centres.shape, generator=rng)
        return z.to(context.nets.generator.latent_avg)

    def judge(
        self,
        images: Tensor,
        context: Context,
        state: State,
        gates: dict[str, Tensor] | None = None,
        minibatches: int = 1,
    ) -> Tensor:
        """`[n]` in steps near anchors, else `[n h w]`: each minibatch from a map of its own choice."""
        nets, clock = context.nets, context.clock
        if self.is_anchored(clock):
            return super().judge(images, context, state, gates, minibatches)
        assert isinstance(nets.heads, nn.ModuleList)
        rng = generator_for(clock.seed, "patches", clock.step, minibatches)
        chosen = torch.randint(self.patch_maps, (minibatches,), generator=rng).tolist()
        return patch_logits(nets.discriminator, nets.heads, images, chosen, gates)

    def paired(self, context: Context, rng: torch.Generator, *, trains: bool) -> Pairs:
        """Fresh latents, one an image, through both generators. trains: whether the adapting one's graph is kept."""
        source, target = context.nets.source, context.nets.generator
        z = torch.randn(self.pairs, source.spec.latent_size, generator=rng).to(source.latent_avg)
        noise = source.draw_noise(self.pairs, rng)
        other_noise = noise if self.shared_noise else target.draw_noise(self.pairs, rng)
        source_maps: dict[str, Tensor] = {}
        target_maps: dict[str, Tensor] = {}
        with torch.no_grad():
            before = source.synthesise(source.spread(source.map(z)), noise, keep=source_maps)
        with nullcontext() if trains else torch.no_grad():
            after = target.synthesise(target.spread(target.map(z)), other_noise, keep=target_maps)
        return Pairs(before, after, source_maps, target_maps)


class PatchHead(nn.Module):
    """3x3 convolution to one logit a place, `[n c h w] -> [n h w]`; activated as D's own convolutions, or not."""

    def __init__(self, channels: int, rng: torch.Generator, *, activated: bool) -> None:
        super().__init__()
        weight = torch.randn(1, channels, 3, 3, generator=rng)
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last))
        self.bias = nn.Parameter(torch.zeros(1))
        self.activated = activated

    def forward(self, x: Tensor) -> Tensor:
        gain = GAIN if self.activated else 1.0
        scale = gain / math.sqrt(self.weight[0].numel())
        x = F.conv2d(x, self.weight * scale, self.bias * gain, padding=1).squeeze(1)
        return leaky_relu(x) if self.activated else x


def patch_groups(discriminator: Discriminator) -> list[FilterGroup]:
    """The convolutions of D's blocks whose outputs have a `PATCH_SIZES` size, from the image down: 4 from 64 px on.

    Index 0 is the second convolution of the block from 64 to 32 px, as published. Its patches, head included, are 26 %
    of the height of a 256 px image, 28 % at 1024 px and 19 % at 64 px; those of index 3 are 66 %, 68 % and 59 %.
    """
    groups = [group for group in discriminator.filter_groups() if group.kind == "conv" and group.prunable]
    return [group for group in groups if group.resolution in PATCH_SIZES]


def patch_logits(
    discriminator: Discriminator,
    heads: nn.ModuleList,
    images: Tensor,
    chosen: list[int],
    gates: dict[str, Tensor] | None = None,
) -> Tensor:
    """A logit for every place of every image, `[n 3 r r] -> [n h w]`; D runs no deeper than it must.

    chosen: for each of the minibatches that `images` concatenates, which of `patch_groups` judges it. Where they differ
    in size the smaller logits are enlarged by repetition, which changes no mean over places.
    """
    names = [group.name for group in patch_groups(discriminator)]
    size, logits = len(images) // len(chosen), {}
    for name, x in discriminator.maps(images, gates):
        for k, choice in enumerate(chosen):
            if names[choice] == name:
                logits[k] = heads[choice](x[k * size : (k + 1) * size].to(images.dtype))
        if len(logits) == len(chosen):
            break
    largest = max(part.shape[-1] for part in logits.values())
    return torch.cat([_enlarged(logits[k], largest) for k in range(len(chosen))])


def _enlarged(logits: Tensor, size: int) -> Tensor:
    """`[n h w] -> [n size size]` by repetition."""
    times = size // logits.shape[-1]
    return logits.repeat_interleave(times, dim=1).repeat_interleave(times, dim=2)
