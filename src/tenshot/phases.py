"""The four phases of a step: losses of D and G and their lazy penalties (StyleGAN2, arXiv:1912.04958).

Each returns its loss, what is to be told of it, and the gates that its method asked for.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from tenshot.ada import ada, adjust
from tenshot.adaptation import Adaptation
from tenshot.augment import diffaug, flip
from tenshot.data import batch_indices
from tenshot.losses import discriminator_loss, generator_loss, path_lengths, r1_penalty
from tenshot.methods.base import Batch, Context, Phase
from tenshot.sampling import to_unit

PhaseLoss = Callable[[Adaptation, Context, Tensor, torch.Generator], tuple[Tensor, dict[str, Tensor], dict | None]]


def _discriminator_phase(run: Adaptation, context: Context, reals: Tensor, rng: torch.Generator):
    """max log D(x) + log(1 - D(G(z))), reals and fakes in one pass with statistics apart."""
    n, method = len(reals), run.method
    with torch.no_grad():
        fakes = run.nets.generator.synthesise(_styles(run, context, n, rng), run.nets.generator.draw_noise(n, rng))
    gates = method.gates("d", context, 2 * n)
    images = _augmented(run, torch.cat([reals, fakes]), rng)
    logits = method.judge(images, context, run.state, gates, 2)
    real_logits, fake_logits = logits.split(n)
    loss = discriminator_loss(real_logits, fake_logits)
    extra = method.extra_losses("d", context, run.state, Batch(reals, fakes, rng))
    stats = {"d": loss, "d_real": real_logits.mean(), "d_fake": fake_logits.mean()}
    if run.config.augment == "ada":
        _watch_overfitting(run, context, real_logits.detach())
        stats["augment_p"] = run.ada[0]
    return sum(extra.values(), loss), stats | extra, gates


def _watch_overfitting(run: Adaptation, context: Context, real_logits: Tensor) -> None:
    """ADA's controller: every few steps p follows the sign of r - target, r = E[sign(D(x))] (arXiv:2006.06676)."""
    config = run.config
    run.ada = run.ada + torch.tensor([0.0, real_logits.sign().mean().item() * len(real_logits), len(real_logits)])
    if (context.clock.step + 1) % config.ada_every == 0:
        p, signs, seen = run.ada.tolist()
        p = adjust(p, signs / seen, round(seen), config.ada_images, config.ada_target, legacy=config.ada_legacy)
        run.ada = torch.tensor([p, 0.0, 0.0], dtype=torch.float64)


def _r1_phase(run: Adaptation, context: Context, reals: Tensor, rng: torch.Generator):
    """Keep D flat around the reals; weighted by the interval because it is taken so rarely."""
    reals = reals.detach().requires_grad_()
    logits = run.method.judge(_augmented(run, reals, rng), context, run.state)
    penalty = r1_penalty(logits.flatten(1).mean(dim=1) if logits.dim() > 1 else logits, reals)
    return penalty * (run.config.r1_gamma / 2 * run.config.r1_every), {"r1": penalty}, None


def _generator_phase(run: Adaptation, context: Context, reals: Tensor, rng: torch.Generator):
    """max log D(G(z))."""
    n, method = len(reals), run.method
    gates = method.gates("g", context, n)
    ws = _styles(run, context, n, rng)
    fakes = run.nets.generator.synthesise(ws, run.nets.generator.draw_noise(n, rng), gates)
    loss = generator_loss(method.judge(_augmented(run, fakes, rng), context, run.state))
    extra = method.extra_losses("g", context, run.state, Batch(reals, fakes, rng))
    return sum(extra.values(), loss), {"g": loss} | extra, gates


def _path_phase(run: Adaptation, context: Context, reals: Tensor, rng: torch.Generator):
    """Make steps of one size in w move the image by one size; half a batch, weighted by the interval."""
    n = max(1, len(reals) // 2)
    generator = run.nets.generator
    ws = _mixed(run, n, rng)
    if not ws.requires_grad:  # the mapping network is frozen
        ws = ws.requires_grad_()
    images = generator.synthesise(ws, generator.draw_noise(n, rng))
    lengths = path_lengths(images, ws, torch.randn(images.shape, generator=rng).to(images))
    # The public code lets the mean start at 0, which pulls the first hundreds of path lengths towards 0.
    now = lengths.detach().mean()
    run.path_mean = now if run.path_mean.isnan() else torch.lerp(run.path_mean, now, 0.01)
    penalty = (lengths - run.path_mean).square().mean()
    return penalty * (run.config.path_weight * run.config.path_every), {"path": now}, None


PHASES: dict[Phase, PhaseLoss] = {
    "d": _discriminator_phase,
    "r1": _r1_phase,
    "g": _generator_phase,
    "path": _path_phase,
}


def _styles(run: Adaptation, context: Context, n: int, rng: torch.Generator) -> Tensor:
    """Latents `[n layers d]` for fakes: those the method wants, or fresh ones, mixed."""
    z = run.method.latents(context, run.state, n, rng)
    generator = run.nets.generator
    return _mixed(run, n, rng) if z is None else generator.spread(generator.map(z))


def _mixed(run: Adaptation, n: int, rng: torch.Generator) -> Tensor:
    """Latents `[n layers d]`; with probability `mixing` the later layers follow a second latent."""
    generator = run.nets.generator
    spec, device = generator.spec, generator.latent_avg.device
    mixes = torch.rand((), generator=rng).item() < run.config.mixing
    crossover = int(torch.randint(1, spec.layers, (), generator=rng))
    z = torch.randn(2 * n if mixes else n, spec.latent_size, generator=rng).to(device)
    first, *second = generator.spread(generator.map(z)).split(n)
    return torch.cat([first[:, :crossover], second[0][:, crossover:]], dim=1) if mixes else first


def _augmented(run: Adaptation, images: Tensor, rng: torch.Generator) -> Tensor:
    if run.config.augment == "diffaug":
        return diffaug(images, rng, run.config.augment_p)
    return ada(images, rng, run.ada[0].item()) if run.config.augment == "ada" else images


def reals_of(run: Adaptation, step: int, rng: torch.Generator) -> Tensor:
    """The step's batch of shots, `[n 3 r r]` in [-1, 1]."""
    indices = batch_indices(len(run.shots), run.config.batch, step, run.config.seed)
    images = to_unit(run.shots[indices]).to(run.nets.generator.latent_avg.device)
    return images if run.config.augment == "none" else flip(images, rng)
