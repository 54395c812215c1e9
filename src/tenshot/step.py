"""One step of adaptation: D, its penalty when due, G, its penalty when due, the moving averages.

`Adaptation` is everything that changes from step to step; `snapshot` and `restore` turn it into tensors and back.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tenshot.augment import diffaug, flip
from tenshot.config import RunConfig
from tenshot.data import batch_indices
from tenshot.errors import TenshotError
from tenshot.losses import discriminator_loss, generator_loss, path_lengths, r1_penalty
from tenshot.methods import Method
from tenshot.methods.base import Clock, Context, Nets, Phase, State
from tenshot.models import Model, fill
from tenshot.randomness import generator_for
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
    record: Callable[[dict[str, Any]], None] = lambda entry: None
    """Receives each decision of the method."""

    @property
    def method(self) -> Method:
        return self.config.method


def begin(config: RunConfig, source: Model, shots: Tensor) -> Adaptation:
    """Networks, optimisers and the method's state before the first step. Raises TenshotError."""
    if source.discriminator is None:
        raise TenshotError(f"{config.source} has no discriminator: adaptation needs the one it was trained with")
    generator, discriminator = copy.deepcopy(source.generator), copy.deepcopy(source.discriminator)
    method = config.method
    for key, parameter in generator.named_parameters():
        parameter.requires_grad_(method.trains("generator", key))
    for key, parameter in discriminator.named_parameters():
        parameter.requires_grad_(method.trains("discriminator", key))
    nets = Nets(
        source=copy.deepcopy(source.generator).requires_grad_(False),
        generator=generator,
        discriminator=discriminator,
        ema=copy.deepcopy(generator).requires_grad_(False),
        discriminator_ema=copy.deepcopy(discriminator).requires_grad_(False)
        if method.needs_discriminator_ema()
        else None,
        optimiser_g=_adam(generator, config, config.lr, config.path_every),
        optimiser_d=_adam(discriminator, config, config.lr * config.lr_ratio, config.r1_every),
    )
    adaptation = Adaptation(config, shots, nets, {}, generator.latent_avg.new_tensor(float("nan")))
    adaptation.state = method.setup(_context(adaptation, 0))
    return adaptation


def _adam(network: torch.nn.Module, config: RunConfig, lr: float, every: int) -> torch.optim.Adam:
    """Adam corrected for lazy regularisation: as many more steps as there are penalties (StyleGAN2, appendix B)."""
    ratio = every / (every + 1) if every else 1.0
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    betas = (config.beta1**ratio, 0.99**ratio)
    group = {"params": trained, "initial_lr": lr * ratio}
    return torch.optim.Adam([group], lr=lr * ratio, betas=betas, eps=1e-8, fused=True)


def lr_factor(step: int, steps: int, decay: float) -> float:
    """1, then falling linearly to 0 over the last `decay` of the run; above 0 at every step."""
    return min(1.0, max(0.0, (steps - step) / (decay * steps))) if decay else 1.0


def run_step(run: Adaptation, step: int) -> Stats:
    """One step: D, its penalty when due, G, its penalty when due, the moving averages. Returns losses."""
    config = run.config
    rng = generator_for(config.seed, "step", step)
    context = _context(run, step)
    reals = _reals(run, step, rng)
    for group in run.nets.optimiser_g.param_groups + run.nets.optimiser_d.param_groups:
        group["lr"] = group["initial_lr"] * lr_factor(step, config.steps, config.lr_decay)

    stats = _train("d", _discriminator_phase, run, context, reals, rng)
    if config.r1_every and step % config.r1_every == 0:
        stats |= _train("r1", _r1_phase, run, context, reals, rng)
    stats |= _train("g", _generator_phase, run, context, reals, rng)
    if config.path_every and step % config.path_every == 0:
        stats |= _train("path", _path_phase, run, context, reals, rng)

    decay = 0.5 ** (config.batch / config.ema_half_life) if config.ema_half_life else 0.0
    average_(run.nets.ema, run.nets.generator, decay)
    if run.nets.discriminator_ema is not None:
        average_(run.nets.discriminator_ema, run.nets.discriminator, decay)
    run.method.after_step(context, run.state)
    return {name: value.item() for name, value in stats.items()}


_PhaseLoss = Callable[[Adaptation, Context, Tensor, torch.Generator], tuple[Tensor, dict[str, Tensor], dict | None]]


def _train(
    phase: Phase, losses: _PhaseLoss, run: Adaptation, context: Context, reals: Tensor, rng: torch.Generator
) -> dict[str, Tensor]:
    """One optimiser step: the phase's loss, its gradients, what the method makes of them, Adam."""
    network, optimiser = run.nets.of(phase)
    trained = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    other = run.nets.discriminator if network is run.nets.generator else run.nets.generator
    frozen = [parameter for parameter in other.parameters() if parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        loss, stats, gates = losses(run, context, reals, rng)
        optimiser.zero_grad(set_to_none=True)
        if inputs := trained + list((gates or {}).values()):
            loss.backward(inputs=inputs)
            run.method.after_backward(phase, context, run.state, gates)
            optimiser.step()
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
    return {name: value.detach() for name, value in stats.items()}


def _discriminator_phase(run: Adaptation, context: Context, reals: Tensor, rng: torch.Generator):
    """max log D(x) + log(1 - D(G(z))), reals and fakes in one pass with statistics apart."""
    n = len(reals)
    with torch.no_grad():
        fakes = run.nets.generator.synthesise(_styles(run, n, rng), run.nets.generator.draw_noise(n, rng))
    gates = run.method.gates("d", context, 2 * n)
    images = _augmented(run, torch.cat([reals, fakes]), rng)
    real_logits, fake_logits = run.nets.discriminator(images, gates, minibatches=2).split(n)
    loss = discriminator_loss(real_logits, fake_logits)
    return loss, {"d": loss, "d_real": real_logits.mean(), "d_fake": fake_logits.mean()}, gates


def _r1_phase(run: Adaptation, context: Context, reals: Tensor, rng: torch.Generator):
    """Keep D flat around the reals; weighted by the interval because it is taken so rarely."""
    reals = reals.detach().requires_grad_()
    penalty = r1_penalty(run.nets.discriminator(_augmented(run, reals, rng)), reals)
    return penalty * (run.config.r1_gamma / 2 * run.config.r1_every), {"r1": penalty}, None


def _generator_phase(run: Adaptation, context: Context, reals: Tensor, rng: torch.Generator):
    """max log D(G(z))."""
    n = len(reals)
    gates = run.method.gates("g", context, n)
    fakes = run.nets.generator.synthesise(_styles(run, n, rng), run.nets.generator.draw_noise(n, rng), gates)
    loss = generator_loss(run.nets.discriminator(_augmented(run, fakes, rng)))
    return loss, {"g": loss}, gates


def _path_phase(run: Adaptation, context: Context, reals: Tensor, rng: torch.Generator):
    """Make steps of one size in w move the image by one size; half a batch, weighted by the interval."""
    n = max(1, len(reals) // 2)
    generator = run.nets.generator
    ws = _styles(run, n, rng)
    if not ws.requires_grad:  # the mapping network is frozen
        ws = ws.requires_grad_()
    images = generator.synthesise(ws, generator.draw_noise(n, rng))
    lengths = path_lengths(images, ws, torch.randn(images.shape, generator=rng).to(images))
    # The public code lets the mean start at 0, which pulls the first hundreds of path lengths towards 0.
    now = lengths.detach().mean()
    run.path_mean = now if run.path_mean.isnan() else torch.lerp(run.path_mean, now, 0.01)
    penalty = (lengths - run.path_mean).square().mean()
    return penalty * (run.config.path_weight * run.config.path_every), {"path": now}, None


def _styles(run: Adaptation, n: int, rng: torch.Generator) -> Tensor:
    """Latents `[n layers d]`; with probability `mixing` the later layers follow a second latent."""
    generator = run.nets.generator
    spec, device = generator.spec, generator.latent_avg.device
    mixes = torch.rand((), generator=rng).item() < run.config.mixing
    crossover = int(torch.randint(1, spec.layers, (), generator=rng))
    z = torch.randn(2 * n if mixes else n, spec.latent_size, generator=rng).to(device)
    first, *second = generator.spread(generator.map(z)).split(n)
    return torch.cat([first[:, :crossover], second[0][:, crossover:]], dim=1) if mixes else first


def _augmented(run: Adaptation, images: Tensor, rng: torch.Generator) -> Tensor:
    return diffaug(images, rng, run.config.augment_p) if run.config.augment == "diffaug" else images


def _reals(run: Adaptation, step: int, rng: torch.Generator) -> Tensor:
    """The step's batch of shots, `[n 3 r r]` in [-1, 1]."""
    indices = batch_indices(len(run.shots), run.config.batch, step, run.config.seed)
    images = to_unit(run.shots[indices]).to(run.nets.generator.latent_avg.device)
    return images if run.config.augment == "none" else flip(images, rng)


def _context(run: Adaptation, step: int) -> Context:
    config = run.config

    def reals(n: int, rng: torch.Generator) -> Tensor:
        chosen = torch.randint(len(run.shots), (n,), generator=rng)
        return to_unit(run.shots[chosen]).to(run.nets.generator.latent_avg.device)

    return Context(run.nets, Clock(step, config.steps, config.batch, config.seed), reals, run.record)


def snapshot(run: Adaptation) -> dict[str, Tensor]:
    """All that the next step depends on, as named tensors (not copied)."""
    tensors = {"path_mean": run.path_mean}
    tensors |= {f"state/{name}": tensor for name, tensor in run.state.items()}
    for part, network in _networks(run.nets).items():
        tensors |= {f"{part}/{name}": tensor for name, tensor in network.state_dict().items()}
    for part, name, moments in _moments(run.nets):
        tensors |= {f"adam/{part}/{name}/{key}": tensor for key, tensor in moments.items()}
    return tensors


def restore(run: Adaptation, tensors: dict[str, Tensor]) -> None:
    """Set a run that has just begun to a snapshot. Raises TenshotError where the two do not fit."""
    if "path_mean" not in tensors:
        raise TenshotError("the checkpoint was not written by tenshot: it has no path_mean")
    run.path_mean = tensors["path_mean"]
    state = {k.removeprefix("state/"): v for k, v in tensors.items() if k.startswith("state/")}
    expected, found = ({name: tensor.shape for name, tensor in s.items()} for s in (run.state, state))
    if expected != found:
        raise TenshotError(f"the checkpoint's state does not belong to the method {run.method.name} on these networks")
    run.state = state
    for part, network in _networks(run.nets).items():
        prefix = f"{part}/"
        values = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        fill(network, values, f"checkpoint, {part}")
    for part, optimiser in (("generator", run.nets.optimiser_g), ("discriminator", run.nets.optimiser_d)):
        for name, parameter in _networks(run.nets)[part].named_parameters():
            prefix = f"adam/{part}/{name}/"
            values = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            if values:
                optimiser.state[parameter] = values


def _networks(nets: Nets) -> dict[str, torch.nn.Module]:
    named = {
        "generator": nets.generator,
        "discriminator": nets.discriminator,
        "ema": nets.ema,
        "discriminator_ema": nets.discriminator_ema,
    }
    return {name: network for name, network in named.items() if network is not None}


def _moments(nets: Nets) -> Iterator[tuple[str, str, dict[str, Tensor]]]:
    for part, optimiser in (("generator", nets.optimiser_g), ("discriminator", nets.optimiser_d)):
        for name, parameter in _networks(nets)[part].named_parameters():
            yield part, name, optimiser.state.get(parameter, {})


@torch.no_grad()
def average_(average: torch.nn.Module, network: torch.nn.Module, decay: float) -> None:
    """Parameters of `average` move towards `network`'s; equal ones stay equal to the bit."""
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1.0 - decay)


def is_finite(run: Adaptation) -> bool:
    """Whether every parameter of the networks is a number."""
    networks = _networks(run.nets).values()
    return all(bool(torch.isfinite(parameter).all()) for network in networks for parameter in network.parameters())
