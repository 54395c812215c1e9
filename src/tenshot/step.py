"""One step of adaptation: D, its penalty when due, G, its penalty when due, the moving averages.

`Adaptation` is everything that changes from step to step; `checkpoint` turns it into tensors and back.
"""

import copy
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from tenshot.ada import ada, adjust
from tenshot.augment import diffaug, flip
from tenshot.config import RunConfig
from tenshot.data import batch_indices
from tenshot.devices import find_device
from tenshot.errors import TenshotError
from tenshot.losses import discriminator_loss, generator_loss, path_lengths, r1_penalty
from tenshot.methods import Method
from tenshot.methods.base import Batch, Clock, Context, Nets, Phase, State
from tenshot.models import Model
from tenshot.nets.pieces import in_pieces
from tenshot.randomness import generator_for
from tenshot.recovery import PATIENCE, Health, NotFinite, half, is_out_of_memory
from tenshot.sampling import to_unit

Stats = dict[str, float]


@dataclass
class Adaptation:
    """A run in memory: what it started from, where it stands."""

    config: RunConfig
    shots: Tensor
    """uint8 `[k 3 r r]`."""
    nets: Nets
    state: State
    """The method's."""
    path_mean: Tensor
    """Running mean of the path length, a scalar; NaN before the first measurement."""
    ada: Tensor
    """`[3]`: the probability with which images are augmented; of the shots judged since it was last adjusted, how many
    more D took for real than for generated, and how many there were."""
    health: Health = field(default_factory=Health)
    """What has gone wrong so far, and what was changed because of it."""
    record: Callable[[dict[str, Any]], None] = lambda entry: None
    """Receives each decision of the method."""

    @property
    def method(self) -> Method:
        return self.config.method


def begin(config: RunConfig, source: Model, shots: Tensor) -> Adaptation:
    """Networks, optimisers and the method's state before the first step. Raises TenshotError."""
    if source.generator.spec.kept:
        raise TenshotError(
            f"{config.source} is compact: its pruned channels are cut out for good, so it cannot be adapted; "
            "adapt the run or model that it was made from"
        )
    if source.discriminator is None:
        raise TenshotError(f"{config.source} has no discriminator: adaptation needs the one it was trained with")
    device = find_device(config.device)
    generator = copy.deepcopy(source.generator).to(device)
    discriminator = copy.deepcopy(source.discriminator).to(device)
    method = config.method
    method.prepare(generator, discriminator)
    for key, parameter in generator.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and method.trains("generator", key))
    for key, parameter in discriminator.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and method.trains("discriminator", key))
    heads = method.heads(discriminator, generator_for(config.seed, "heads"))
    nets = Nets(
        source=copy.deepcopy(source.generator).to(device).requires_grad_(False),
        generator=generator,
        discriminator=discriminator,
        ema=copy.deepcopy(generator).requires_grad_(False),
        discriminator_ema=copy.deepcopy(discriminator).requires_grad_(False)
        if method.needs_discriminator_ema()
        else None,
        heads=heads,
        optimiser_g=_adam([generator], config, config.lr, config.path_every),
        optimiser_d=_adam([discriminator, heads], config, config.lr * config.lr_ratio, config.r1_every),
    )
    if config.precision == "bfloat16":
        for network in (nets.source, generator, discriminator):
            network.compute = torch.bfloat16
    ada = torch.tensor([config.augment_p, 0.0, 0.0], dtype=torch.float64)
    health = Health(micro_batch=config.micro_batch)
    adaptation = Adaptation(config, shots, nets, {}, generator.latent_avg.new_tensor(float("nan")), ada, health)
    adaptation.state = method.setup(_context(adaptation, 0))
    return adaptation


def _adam(modules: list[torch.nn.Module | None], config: RunConfig, lr: float, every: int) -> torch.optim.Adam:
    """Adam corrected for lazy regularisation: as many more steps as there are penalties (StyleGAN2, appendix B)."""
    ratio = every / (every + 1) if every else 1.0
    parameters = [parameter for module in modules if module is not None for parameter in module.parameters()]
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    betas = (config.beta1**ratio, 0.99**ratio)
    group = {"params": trained, "initial_lr": lr * ratio}
    return torch.optim.Adam([group], lr=lr * ratio, betas=betas, eps=1e-8, fused=True)


def lr_factor(step: int, steps: int, decay: float) -> float:
    """1, then falling linearly to 0 over the last `decay` of the run; above 0 at every step."""
    return min(1.0, max(0.0, (steps - step) / (decay * steps))) if decay else 1.0


def run_step(run: Adaptation, step: int) -> Stats:
    """One step: D, its penalty when due, G, its penalty when due, the moving averages. Returns losses.

    A phase whose numbers are not finite changes nothing; how many there were is returned as `skipped`. Raises NotFinite
    when one was left out `PATIENCE` times in a row.
    """
    config, nets = run.config, run.nets
    rng = generator_for(config.seed, "step", step, *run.health.names)
    faults = {"fisher": ""}
    context = _context(run, step, faults)
    reals = _reals(run, step, rng)
    for group in nets.optimiser_g.param_groups + nets.optimiser_d.param_groups:
        group["lr"] = group["initial_lr"] * lr_factor(step, config.steps, config.lr_decay) * run.health.lr_scale

    stats: Stats = {}
    for phase in _PHASES:
        every = {"r1": config.r1_every, "path": config.path_every}.get(phase, 1)
        if every and step % every == 0 and not run.method.skips(phase, context.clock):
            numbers, faults[phase] = _train(phase, run, context, reals, rng)
            stats |= numbers

    decay = 0.5 ** (config.batch / config.ema_half_life) if config.ema_half_life else 0.0
    if not (faults.get("g") or faults.get("path")):  # what trains badly is not worth averaging
        average_(nets.ema, nets.generator, decay)
    if nets.discriminator_ema is not None and not (faults.get("d") or faults.get("r1")):
        average_(nets.discriminator_ema, nets.discriminator, decay)
    run.method.after_step(context, run.state)
    _take_stock(run, step, faults)
    skipped = sum(map(bool, faults.values()))
    return stats | {"skipped": skipped} if skipped else stats


def _take_stock(run: Adaptation, step: int, faults: dict[str, str]) -> None:
    """Count what was left out; raises NotFinite if that happens again and again."""
    run.health = run.health.after(step, faults)
    site, row = run.health.longest()
    if row.count >= PATIENCE:
        raise NotFinite(f"{faults[site]} at step {step + 1}, the {PATIENCE}th time in a row", row.since)


def _train(phase: Phase, run: Adaptation, context: Context, reals: Tensor, rng: torch.Generator) -> tuple[Stats, str]:
    """One optimiser step: the phase's loss, its gradients, what the method makes of them, Adam.

    Returns the losses and ""; or none and what is not finite, and then the run is as it was.
    """
    network, optimiser = run.nets.of(phase)
    trained = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    other = run.nets.discriminator if network is run.nets.generator else run.nets.generator
    frozen = [parameter for parameter in other.parameters() if parameter.requires_grad]
    before = run.path_mean, run.ada
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        losses, gates = _differentiate(phase, run, context, reals, rng, trained)
        inputs = [*trained, *(gates or {}).values()]
        stats = {name: value.item() for name, value in losses.items()}
        # Also where gradients are finite and their squares are not: Adam's second moment would never recover.
        norm = torch.nn.utils.get_total_norm([x.grad for x in inputs if x.grad is not None]).item()
        told = {**stats, f"the gradient of {phase}": norm}
        if fault := next((name for name, value in told.items() if not math.isfinite(value)), None):
            run.path_mean, run.ada = before
            return {}, f"{fault} is not finite"
        if inputs:
            run.method.after_backward(phase, context, run.state, gates)
            optimiser.step()
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
    return stats, ""


_PhaseLoss = Callable[[Adaptation, Context, Tensor, torch.Generator], tuple[Tensor, dict[str, Tensor], dict | None]]


def _differentiate(
    phase: Phase, run: Adaptation, context: Context, reals: Tensor, rng: torch.Generator, trained: list[Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
    """Leaves a phase's gradients in the parameters; returns losses and gates. Fewer images at once if memory ends."""
    nets, (_, optimiser) = run.nets, run.nets.of(phase)
    drawn, before = rng.get_state(), (run.path_mean, run.ada)
    while True:
        try:
            with in_pieces((nets.source, nets.generator, nets.discriminator), run.health.micro_batch):
                loss, losses, gates = _PHASES[phase](run, context, reals, rng)
                optimiser.zero_grad(set_to_none=True)
                if inputs := trained + list((gates or {}).values()):
                    loss.backward(inputs=inputs)
            return {name: value.detach() for name, value in losses.items()}, gates
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            _take_fewer(run, context.clock.step, error)
        loss = losses = gates = None  # their memory is needed
        optimiser.zero_grad(set_to_none=True)
        rng.set_state(drawn)
        run.path_mean, run.ada = before


def _take_fewer(run: Adaptation, step: int, error: Exception) -> None:
    """From now on half as many images at once. Raises TenshotError if that is none."""
    fewer = half(run.health.micro_batch, 2 * run.config.batch)
    if not fewer:
        raise TenshotError(
            f"there is not enough memory for step {step + 1}, not even with one image at a time: give a --batch below "
            f"{run.config.batch}, --precision bfloat16, or a smaller source"
        ) from error
    warnings.warn(f"not enough memory at step {step + 1}: from now on {fewer} images at once, slower", stacklevel=2)
    run.health = replace(run.health, micro_batch=fewer)


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
    extra = method.extra_losses("d", context, run.state, _batch(run, reals, fakes, rng))
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
    extra = method.extra_losses("g", context, run.state, _batch(run, reals, fakes, rng))
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


_PHASES: dict[Phase, _PhaseLoss] = {
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


def _batch(run: Adaptation, reals: Tensor, fakes: Tensor, rng: torch.Generator) -> Batch:
    return Batch(reals, fakes, lambda images: _augmented(run, images, rng), rng)


def _reals(run: Adaptation, step: int, rng: torch.Generator) -> Tensor:
    """The step's batch of shots, `[n 3 r r]` in [-1, 1]."""
    indices = batch_indices(len(run.shots), run.config.batch, step, run.config.seed)
    images = to_unit(run.shots[indices]).to(run.nets.generator.latent_avg.device)
    return images if run.config.augment == "none" else flip(images, rng)


def _context(run: Adaptation, step: int, faults: dict[str, str] | None = None) -> Context:
    """What hooks may look at. An estimate that a method records as skipped joins the faults."""
    config = run.config

    def reals(n: int, rng: torch.Generator) -> Tensor:
        chosen = torch.randint(len(run.shots), (n,), generator=rng)
        return to_unit(run.shots[chosen]).to(run.nets.generator.latent_avg.device)

    def record(entry: dict[str, Any]) -> None:
        if faults is not None and "skipped" in entry:
            faults["fisher"] = "the Fisher information is not finite"
        run.record(entry)

    return Context(run.nets, Clock(step, config.steps, config.batch, config.seed), reals, record)


@torch.no_grad()
def average_(average: torch.nn.Module, network: torch.nn.Module, decay: float) -> None:
    """Parameters of `average` move towards `network`'s; equal ones stay equal to the bit."""
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1.0 - decay)
