"""Which living channels a trained generator can do without: how much the images depend on each, and a choice.

DAP prunes while the generator trains, by what the new domain's loss tells. Afterwards there may be neither shots nor
discriminator, but the images themselves: a channel matters as much as they change with its gate.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from tenshot.compact import MULTIPLE, blocks
from tenshot.filters import gate_of, sample_gates
from tenshot.fisher import Importance, gate_fisher
from tenshot.nets import Generator
from tenshot.randomness import generator_for
from tenshot.watch import Watch


def sensitivity(
    generator: Generator, samples: int = 256, *, batch: int = 8, seed: int = 0, watch: Watch | None = None
) -> Importance:
    """E ||d image / d gate||^2 of every channel by block name, `[count]` each; 0 where the gate is 0.

    The squared length of the Jacobian's column is the mean over standard normal v of (d <v, image> / d gate)^2
    (Hutchinson 1989), so one backward pass through the whole image serves all channels. To first order it is how
    far the image moves when the channel is switched off. `samples` latents, rounded up to batches.
    """
    groups = [group for group in generator.filter_groups() if group.gated]
    total: Importance = {group.name: torch.zeros(group.count, dtype=torch.float64) for group in groups}
    rounds = -(-samples // batch)
    device = generator.latent_avg.device
    for k in range(rounds):
        rng = generator_for(seed, "sensitivity", k)
        z = torch.randn(batch, generator.spec.latent_size, generator=rng).to(generator.latent_avg)
        gates = sample_gates(generator, groups, batch)
        images = generator.synthesise(generator.spread(generator.map(z)), generator.draw_noise(batch, rng), gates)
        direction = torch.randn(images.shape, generator=rng).to(device, images.dtype)
        torch.autograd.backward((images * direction).sum(), inputs=list(gates.values()))
        for name, value in gate_fisher(gates, 1).items():
            total[name] += value.double().cpu() / rounds
        if watch:
            watch("importance", (k + 1) * batch, rounds * batch)
    is_alive = {group.name: gate_of(generator, group).cpu() != 0 for group in groups}
    return {name: value * is_alive[name] for name, value in total.items()}


def choose(
    importance: Mapping[str, Tensor],
    generator: Generator,
    share: float,
    *,
    multiple: int = MULTIPLE,
    min_alive: int = 4,
) -> dict[str, Tensor]:
    """The channels that stay, rising indices by block name, when `share` of all the network's channels are cut.

    Each layer's channels are sorted by importance and counted in steps that leave a multiple; the steps whose channels
    matter least on average, of all layers together, are cut until the next would be too many. `min_alive` channels of
    a layer stay. Channels that an earlier compaction has cut out count as cut.
    """
    steps: list[tuple[float, str, Tensor]] = []
    is_kept = {name: torch.ones(len(block.gate), dtype=torch.bool) for name, block in blocks(generator)}
    for name, kept in is_kept.items():
        order = torch.argsort(importance[name], stable=True)
        count, low = len(kept), 0
        for high in range(count % multiple or multiple, count - min_alive + 1, multiple):
            steps.append((importance[name][order[low:high]].mean().item(), name, order[low:high]))
            low = high
    total = sum(generator.spec.outputs)
    left = round(share * total) - (total - sum(map(len, is_kept.values())))
    for _, name, channels in sorted(steps, key=lambda step: step[0]):
        if len(channels) > left:
            break
        is_kept[name][channels] = False
        left -= len(channels)
    return {name: kept.nonzero().flatten() for name, kept in is_kept.items()}
