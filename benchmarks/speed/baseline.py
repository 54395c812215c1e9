"""The same networks and the same step in the formulation of the public few-shot code.

Networks are the twin of `tests/reference/stylegan2.py`: convolution weights for every sample, grouped convolutions,
blurs by zeros, padding and decimation. The step is that of the code which CDC, AdAM and RICK grew from: reals and fakes
go through D apart, every `backward` also fills gradients that nobody asked for (R1: those of the shots), the average
is moved parameter by parameter. `twice` adds what AdAM and RICK do on top: D computes both convolutions of each block a
second time, for features that nothing reads.

Random numbers are drawn in the order of `tenshot.step`, so that both take the same step.
"""

import importlib.util
import math
from collections.abc import Collection, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.speed.measure import ROOT
from tenshot.config import RunConfig
from tenshot.data import batch_indices
from tenshot.models import Model
from tenshot.randomness import generator_for
from tenshot.sampling import to_unit

PHASES = ("d", "r1", "g", "path")
State = dict[str, Tensor]


def _load_twin():
    spec = importlib.util.spec_from_file_location("twin_of_stylegan2", ROOT / "tests" / "reference" / "stylegan2.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


twin = _load_twin()


class Baseline:
    """A run in the baseline's formulation, under the settings of `RunConfig` that it knows; nothing augmented."""

    def __init__(self, source: Model, shots: Tensor, config: RunConfig, *, twice: bool = False) -> None:
        assert source.discriminator is not None
        self.config, self.shots, self.twice = config, shots, twice
        self.spec = source.generator.spec
        self.g, self.d = leaves(source.generator), leaves(source.discriminator)
        self.average = {name: tensor.detach().clone() for name, tensor in self.g.items()}
        self.adam_g = _adam(self.g, config, config.lr, config.path_every)
        self.adam_d = _adam(self.d, config, config.lr * config.lr_ratio, config.r1_every)
        self.path_mean: Tensor | None = None

    def step(self, step: int, phases: Collection[str] = PHASES) -> dict[str, float]:
        """As `tenshot.step.run_step`, or some phases of it; returns losses."""
        rng = generator_for(self.config.seed, "step", step)
        indices = batch_indices(len(self.shots), self.config.batch, step, self.config.seed)
        reals = to_unit(self.shots[indices]).to(self.g["input.input"].dtype)
        losses: dict[str, float] = {}
        for phase in PHASES:
            every = {"r1": self.config.r1_every, "path": self.config.path_every}.get(phase, 1)
            if phase in phases and every and step % every == 0:
                losses[phase] = getattr(self, f"_{phase}")(reals, rng)
        decay = 0.5 ** (self.config.batch / self.config.ema_half_life)
        with torch.no_grad():
            for name, tensor in self.average.items():
                tensor.mul_(decay).add_(self.g[name], alpha=1 - decay)
        return losses

    def _d(self, reals: Tensor, rng: torch.Generator) -> float:
        self._train(self.d, self.g)
        fakes = self.fakes(len(reals), rng)
        fake_logits, real_logits = self.judge(fakes), self.judge(reals)
        loss = F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
        return _descend(loss, loss, self.adam_d)

    def _r1(self, reals: Tensor, rng: torch.Generator) -> float:
        self._train(self.d, self.g)
        reals.requires_grad_(True)
        logits = self.judge(reals)
        (slope,) = torch.autograd.grad(logits.sum(), reals, create_graph=True)
        penalty = slope.square().reshape(len(reals), -1).sum(dim=1).mean()
        weight = self.config.r1_gamma / 2 * self.config.r1_every
        told = _descend(weight * penalty + 0 * logits[0, 0], penalty, self.adam_d)
        reals.requires_grad_(False)
        return told

    def _g(self, reals: Tensor, rng: torch.Generator) -> float:
        self._train(self.g, self.d)
        loss = F.softplus(-self.judge(self.fakes(len(reals), rng))).mean()
        return _descend(loss, loss, self.adam_g)

    def _path(self, reals: Tensor, rng: torch.Generator) -> float:
        self._train(self.g, self.d)
        ws = self.mixed(n := max(1, len(reals) // 2), rng)
        images = twin.reference_generator(self.g, ws, self.noise(n, rng))
        direction = torch.randn(images.shape, generator=rng).to(images) / math.sqrt(images.shape[2] * images.shape[3])
        (slope,) = torch.autograd.grad((images * direction).sum(), ws, create_graph=True)
        lengths = slope.square().sum(dim=2).mean(dim=1).sqrt()
        now = lengths.detach().mean()
        self.path_mean = now if self.path_mean is None else self.path_mean + 0.01 * (now - self.path_mean)
        penalty = (lengths - self.path_mean).square().mean() * self.config.path_weight * self.config.path_every
        return _descend(penalty + 0 * images[0, 0, 0, 0], now, self.adam_g)

    def judge(self, images: Tensor) -> Tensor:
        return (discriminator_twice if self.twice else twin.reference_discriminator)(self.d, images)

    def fakes(self, n: int, rng: torch.Generator) -> Tensor:
        ws = self.mixed(n, rng)
        return twin.reference_generator(self.g, ws, self.noise(n, rng))

    def mixed(self, n: int, rng: torch.Generator) -> Tensor:
        """Latents `[n layers d]`, the later layers from a second latent with probability `mixing`."""
        layers = self.spec.layers
        mixes = torch.rand((), generator=rng).item() < self.config.mixing
        crossover = int(torch.randint(1, layers, (), generator=rng))
        z = torch.randn(2 * n if mixes else n, self.spec.latent_size, generator=rng)
        first, *second = twin.reference_mapping(self.g, z.to(self.g["input.input"].dtype)).split(n)
        late = second[0] if mixes else first
        return torch.stack([first] * crossover + [late] * (layers - crossover), dim=1)

    def noise(self, n: int, rng: torch.Generator) -> list[Tensor]:
        return noise_of(self.spec.resolution, n, rng, self.g["input.input"].dtype)

    @staticmethod
    def _train(trained: State, other: State) -> None:
        for state, flag in ((trained, True), (other, False)):
            for tensor in state.values():
                tensor.requires_grad_(flag)


def leaves(network: torch.nn.Module) -> State:
    """A network's parameters as the public code stores them."""
    return {name: p.detach().clone(memory_format=torch.contiguous_format) for name, p in network.named_parameters()}


def noise_of(resolution: int, n: int, rng: torch.Generator, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Standard normal noise for every styled convolution, `[n 1 h w]` each."""
    sizes = [4] + [2**k for k in range(3, resolution.bit_length()) for _ in range(2)]
    return [torch.randn(n, 1, size, size, generator=rng).to(dtype) for size in sizes]


def discriminator_twice(state: State, images: Tensor) -> Tensor:
    """Logits `[n 1]`: the twin's, with every block's two convolutions computed once more and dropped."""

    def conv(block: str, x: Tensor, first: int, *, pad: int = 1, down: bool = False) -> Tensor:
        if down:
            x, pad = twin.upfirdn2d(x, twin.blur_kernel(x), pad=(2, 2)), 0
        x = F.conv2d(x, twin.equalised(state[f"{block}.{first}.weight"]), stride=2 if down else 1, padding=pad)
        return twin.activate(x + twin.per_channel(state[f"{block}.{first + 1}.bias"]))

    x = conv("convs.0", images, 0, pad=0)
    for i in range(1, sum(name.endswith(".skip.1.weight") for name in state) + 1):
        features: list[Tensor] = []
        for _ in range(2):
            y = conv(f"convs.{i}.conv1", x, 0)
            y = conv(f"convs.{i}.conv2", y, 1, down=True)
            features.append(y)
        low = twin.upfirdn2d(x, twin.blur_kernel(x), pad=(1, 1))
        skip = F.conv2d(low, twin.equalised(state[f"convs.{i}.skip.1.weight"]), stride=2)
        x = (features[0] + skip) / math.sqrt(2)
    x = torch.cat([x, twin.minibatch_stddev(x, 4)], dim=1)
    x = conv("final_conv", x, 0).flatten(1)
    return twin.linear(state, "final_linear.1", twin.activate(twin.linear(state, "final_linear.0", x)))


@torch.no_grad()
def images_of(state: State, resolution: int, z: Tensor, noise: Sequence[Tensor]) -> Tensor:
    """Images of latents z, in [-1, 1]."""
    layers = 2 * (resolution.bit_length() - 2)
    return twin.reference_generator(state, twin.reference_mapping(state, z)[:, None].expand(-1, layers, -1), noise)


def _adam(state: State, config: RunConfig, lr: float, every: int) -> torch.optim.Adam:
    ratio = every / (every + 1) if every else 1.0
    betas = (config.beta1**ratio, 0.99**ratio)
    return torch.optim.Adam(list(state.values()), lr=lr * ratio, betas=betas)


def _descend(loss: Tensor, told: Tensor, optimiser: torch.optim.Adam) -> float:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return told.item()
