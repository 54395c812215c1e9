"""The contract between the loop and a method.

A method is a frozen dataclass: its fields are its hyperparameters, so flags, JSON, equality and presets come with them.
What changes while it runs is its *state*, a dictionary of tensors that `setup` returns and the loop owns, saves and
resumes. The loop calls the hooks below at named moments and never asks which method it has.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from tenshot.errors import TenshotError
from tenshot.filters import FilterGroup
from tenshot.nets import Discriminator, Generator

Phase = Literal["d", "r1", "g", "path"]
"""One optimiser step: D's loss, its R1 penalty, G's loss, its path-length penalty."""

Network = Literal["generator", "discriminator"]

State = dict[str, Tensor]
"""Named tensors; changed in place by the hooks, saved with every checkpoint."""

KNOWN: dict[str, type["Method"]] = {}
"""All that a run's config.json may name: every method defined so far, tenshot's own and others."""


@dataclass
class Nets:
    """Everything that trains, and what it started from."""

    source: Generator
    """As given, never changed."""
    generator: Generator
    discriminator: Discriminator
    ema: Generator
    """Exponential moving average of the generator: what is sampled and saved."""
    discriminator_ema: Discriminator | None
    """Kept only for methods that ask for it (`needs_discriminator_ema`)."""
    heads: nn.Module | None
    """What the method adds to the discriminator (`Method.heads`); trains with D."""
    optimiser_g: torch.optim.Adam
    optimiser_d: torch.optim.Adam

    def of(self, phase: Phase) -> tuple[Generator | Discriminator, torch.optim.Adam]:
        """The network that trains in a phase, and its optimiser."""
        if phase in ("d", "r1"):
            return self.discriminator, self.optimiser_d
        return self.generator, self.optimiser_g


@dataclass(frozen=True)
class Clock:
    """Where a run stands."""

    step: int
    """The step under way, from 0."""
    steps: int
    """Steps of the whole run."""
    batch: int
    seed: int


@dataclass
class Context:
    """What a hook may look at."""

    nets: Nets
    clock: Clock
    reals: Callable[[int, torch.Generator], Tensor]
    """(n, rng) -> n random shots, `[n 3 r r]` in [-1, 1], outside of the training batches' order."""
    shots: Tensor
    """All of them, uint8 `[n 3 r r]`."""
    record: Callable[[dict[str, Any]], None] = field(default=lambda entry: None)
    """Append one JSON object to the run's `decisions.jsonl`."""
    measured: Callable[[bool], None] = field(default=lambda is_finite: None)
    """Say that Fisher information was estimated, and whether it was finite. One that was not counts as an update left
    out; five in a row end as losses that are not finite do (`recovery`)."""


@dataclass
class Batch:
    """What a phase has computed, for extra losses."""

    reals: Tensor
    """The step's shots, `[n 3 r r]` in [-1, 1], as loaded (mirrored perhaps, not augmented further)."""
    fakes: Tensor
    """Generated images, `[n 3 r r]`, before augmentation; without gradient in phase d."""
    rng: torch.Generator
    """The phase's random numbers."""


@dataclass(frozen=True)
class Method:
    """A way to adapt: what trains, and what happens around each optimiser step. The defaults train everything.

    In the order in which the loop calls them: `prepare`, `trains`, `heads`, `setup` before the first step; in every
    phase `skips`, `latents`, `gates`, `judge`, `extra_losses`, `after_backward`; `after_step`; and `averaged`, `merge`
    and `card` for samples, scores and the result. `idle` is asked by the command line, `digest` for checkpoints.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    changes: ClassVar[str] = "everything"
    """What trains, in a few words for the table of methods."""
    adds: ClassVar[str] = "-"
    """Extra losses, in a few words for the table of methods."""
    keeps_discriminator: ClassVar[bool] = False
    """Whether the result holds the discriminator too, to be a source itself."""
    places: ClassVar[tuple[str, ...]] = ()
    """Settings that say where further images lie, which `digest` is of."""

    def __init_subclass__(cls) -> None:
        """Make the class known by its name; a later one of the same name replaces it, but for tenshot's own."""
        super().__init_subclass__()
        if (name := cls.__dict__.get("name")) is None:
            return
        if name in KNOWN and KNOWN[name].__module__.startswith("tenshot.") and cls.__module__ != KNOWN[name].__module__:
            raise TenshotError(f"{cls.__name__}.name is {name!r}, which is a method of tenshot: choose another name")
        KNOWN[name] = cls

    def idle(self) -> dict[str, str]:
        """Of the method's settings those on which nothing depends, as the others are, and what would change that."""
        return {}

    def needs_discriminator_ema(self) -> bool:
        """Whether `Nets.discriminator_ema` is kept."""
        return False

    def prepare(self, generator: Generator, discriminator: Discriminator) -> None:
        """Change the networks' make-up before they are copied and get optimisers: parametrise, or freeze by
        `requires_grad_(False)` what `trains` cannot tell by its name."""

    def merge(self, generator: Generator) -> Generator:
        """Undo `prepare` without changing what is computed: a plain generator, the given one or another."""
        return generator

    def averaged(self, nets: Nets, state: State) -> Generator:
        """The generator that a run samples, scores and gives: its moving average, or a network made from it."""
        return nets.ema

    def card(self, state: State) -> dict[str, Any]:
        """What the result's card says of how it came about, beside the settings; JSON."""
        return {}

    def trains(self, network: Network, parameter: str) -> bool:
        """Whether a parameter is handed to the optimiser at all."""
        return True

    def heads(self, discriminator: Discriminator, rng: torch.Generator) -> nn.Module | None:
        """More layers for D, freshly initialised; they train with D, by D's optimiser."""
        return None

    def digest(self, resolution: int) -> str | None:
        """sha256 of images beside the shots that the method reads, at a resolution: a run goes on with no others."""
        return None

    def may_prune(self, network: Network, group: FilterGroup) -> bool:
        """Whether the method decides the fates of a group's filters."""
        return False

    def setup(self, context: Context) -> State:
        """Before the first step, and once more before a resumed run's state is read; returns the state."""
        return {}

    def skips(self, phase: Phase, clock: Clock) -> bool:
        """Whether a phase is left out at this step."""
        return False

    def latents(self, context: Context, state: State, n: int, rng: torch.Generator) -> Tensor | None:
        """Latents `[n d]` for the fakes of phases d and g, not mixed; None = standard normal ones, mixed as set."""
        return None

    def judge(
        self,
        images: Tensor,
        context: Context,
        state: State,
        gates: dict[str, Tensor] | None = None,
        minibatches: int = 1,
    ) -> Tensor:
        """D's logits for images in phases d, r1 and g: `[n]`, or `[n ...]` where places are judged one by one."""
        return context.nets.discriminator(images, gates, minibatches)

    def extra_losses(self, phase: Phase, context: Context, state: State, batch: Batch) -> dict[str, Tensor]:
        """Terms, weighted, that are added to the loss of phase d or g; reported under their names.

        Not the place to change the state: a step whose numbers are not finite is left out after this, and one that runs
        out of memory comes here twice.
        """
        return {}

    def gates(self, phase: Phase, context: Context, rows: int) -> dict[str, Tensor] | None:
        """Per-sample gates for the phase's own network, or None for its own gates. rows: samples that pass through."""
        return None

    def after_backward(self, phase: Phase, context: Context, state: State, gates: dict[str, Tensor] | None) -> None:
        """Between backward and the optimiser's step: read gradients, mask them."""

    def after_step(self, context: Context, state: State) -> None:
        """After all phases and the moving averages. Raises `recovery.NotFinite` where a run cannot go on."""
