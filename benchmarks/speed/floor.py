"""How far a step is from what its multiply-adds take on this machine.

    python -m benchmarks.speed.floor

Every convolution and matrix product that a part of a step runs, forward, backward and twice backward, is recorded, its
multiply-adds counted as torch counts them, and then run again by itself, on random numbers in the same layout.
Low-pass filters (one input channel an output channel) are told apart. Three floors:

- `products`: the sum of those times, all else free;
- `forward rate`: all multiply-adds at the rate that the networks' forward passes reach in their products;
- `peak`: all at the rate of one large matrix product.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed.baseline import PHASES
from benchmarks.speed.measure import machine, on_threads, parser, publish, read, spread, take_turns
from benchmarks.speed.step import DUE, Ours, random_shots, settings
from tenshot.models import Model, load_model
from tenshot.randomness import generator_for

_ATEN = torch.ops.aten
PRODUCTS = {_ATEN.convolution, _ATEN.convolution_backward, _ATEN.mm, _ATEN.addmm, _ATEN.bmm}
_GROUPS = {_ATEN.convolution: 8, _ATEN.convolution_backward: 9}
Call = tuple[Any, tuple]
"""An operation, and its arguments with shapes in place of tensors."""


class Recorder(TorchDispatchMode):
    """Counts the products that run, by operation and shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[Call] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in PRODUCTS:
            self.calls[func, tuple(_shape(a) for a in args)] += 1
        return func(*args, **(kwargs or {}))


def _shape(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return ("tensor", tuple(argument.shape), argument.stride(), argument.dtype)
    return tuple(argument) if isinstance(argument, list | tuple) else argument


def _made(argument: Any) -> Any:
    """Random numbers of a shape; other arguments as they were."""
    if isinstance(argument, tuple) and argument and argument[0] == "tensor":
        _, shape, stride, dtype = argument
        room = 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
        return torch.randn(room).to(dtype).as_strided(shape, stride)
    return list(argument) if isinstance(argument, tuple) else argument


def is_filter(call: Call) -> bool:
    """Whether it is a low-pass filter."""
    func, arguments = call
    place = _GROUPS.get(func.overloadpacket)
    return place is not None and arguments[place] > 1


def recorded(way: Callable[[], object]) -> Counter[Call]:
    with Recorder() as recorder:
        way()
    return recorder.calls


@torch.no_grad()
def measured(calls: Sequence[Call], rounds: int) -> dict[Call, tuple[float, int]]:
    """Least seconds and multiply-adds of each call by itself."""
    found = {}
    for call in calls:
        func, arguments = call
        made = [_made(a) for a in arguments]
        with FlopCounterMode(display=False) as counter:
            func(*made)
        times = []
        for _ in range(2 * rounds + 1):
            start = time.perf_counter()
            func(*made)
            times.append(time.perf_counter() - start)
        found[call] = (min(times), counter.get_total_flops() // 2)
    return found


def total(calls: Mapping[Call, int], of: dict[Call, tuple[float, int]], *, filters: bool = False) -> tuple[float, int]:
    """Seconds and multiply-adds of all dense products, or of all filters."""
    chosen = [(n, of[call]) for call, n in calls.items() if is_filter(call) == filters]
    return sum(n * seconds for n, (seconds, _) in chosen), sum(n * count for n, (_, count) in chosen)


@torch.no_grad()
def forward(model: Model, batch: int) -> None:
    """What a step computes forward: G on a batch, D on twice as many."""
    assert model.discriminator is not None
    size = model.resolution
    model.generator(torch.randn(batch, model.generator.spec.latent_size, generator=generator_for(0, "floor")))
    model.discriminator(torch.randn(2 * batch, 3, size, size, generator=generator_for(0, "floor")), None, 2)


def peak_rate(side: int, rounds: int) -> float:
    """Multiply-adds a second of a matrix product."""
    a, b = torch.randn(2, side, side)
    return side**3 / min(take_turns({"": lambda: a @ b}, 2 * rounds + 1)[""])


def rows_of(model: Model, threads: int, rounds: int, batch: int, side: int) -> list[dict[str, Any]]:
    ours = Ours(settings(batch), model, random_shots(model.resolution))
    turns = {phase: lambda phase=phase: ours.step(0, [phase]) for phase in PHASES}
    taken = take_turns(turns, rounds)
    calls = {phase: recorded(turn) for phase, turn in turns.items()}
    once = recorded(lambda: forward(model, batch))
    of = measured(list(dict.fromkeys([call for counted in (*calls.values(), once) for call in counted])), rounds)
    seconds, count = total(once, of)
    forward_rate, peak = count / seconds, peak_rate(side, rounds)
    parts: dict[str, tuple[list[float], tuple[float, float], float]] = {
        phase: (
            taken[phase],
            total(calls[phase], of),
            total(calls[phase], of, filters=True)[0],
        )
        for phase in PHASES
    }
    every = {phase: 1 / DUE[phase] for phase in PHASES}
    parts["step"] = (
        [sum(every[p] * taken[p][k] for p in PHASES) for k in range(rounds)],
        (sum(every[p] * parts[p][1][0] for p in PHASES), sum(every[p] * parts[p][1][1] for p in PHASES)),
        sum(every[p] * parts[p][2] for p in PHASES),
    )
    return [
        {
            "threads": threads,
            "part": part,
            "ms": spread(times, 1000),
            "multiply-adds, billions": _short(multiply_adds / 1e9),
            "products ms": _short(1000 * alone),
            "filters ms": _short(1000 * filters),
            "forward rate ms": _short(1000 * multiply_adds / forward_rate),
            "peak ms": _short(1000 * multiply_adds / peak),
            "rates, billions a second": {"forward": _short(forward_rate / 1e9), "peak": _short(peak / 1e9)},
        }
        for part, (times, (alone, multiply_adds), filters) in parts.items()
    ]


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def main(arguments: Sequence[str] | None = None) -> None:
    made = parser(__doc__ or "", rounds=5, threads=(1, 2))
    made.add_argument("--batch", type=int, default=4)
    flags = read(made, arguments)
    before, rows, model = machine(), [], load_model(flags.source)
    for threads in flags.threads:
        with on_threads(threads):
            rows += rows_of(model, threads, flags.rounds, flags.batch, 64 if flags.quick else 2048)
    publish("floor", flags, rows, batch=flags.batch, machine=before)


if __name__ == "__main__":
    main()
