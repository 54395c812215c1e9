"""A batch that does not fit into memory goes through the networks in pieces, with the same gradients.

G and D's trunk treat every image for itself: what couples images, D's minibatch statistics and the losses, comes after
them and still sees the whole batch. So they can be run in pieces without changing what is computed. Of a piece nothing
is kept but its input and output; backward runs it again (activation recomputation, arXiv:1604.06174), and so does the
backward of backward that R1 and path lengths need. Where somebody looks at the maps in between, it is done block by
block instead, and those maps are kept.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tenshot.nets.discriminator import Discriminator
from tenshot.nets.generator import Generator
from tenshot.nets.layers import ConvLayer, SkipConv, StyledConv

_BLOCKS = (ConvLayer, SkipConv, StyledConv)


@contextmanager
def in_pieces(networks: Iterable[nn.Module], size: int) -> Iterator[None]:
    """Inside of it, forward and backward run the networks on at most `size` images at once; 0 = on all.

    Backward, too, has to happen inside. Gradients are those of the whole batch but for the rounding of sums in another
    order. Of gradients that are to be differentiated again (create_graph) only those by images and latents are formed,
    which R1 and path lengths are made of.
    """
    changed = [(module, name) for network in networks for module, name in _parts(network)] if size else []
    ways = {"forward": _run, "synthesise": _synthesise, "trunk": _trunk}
    try:
        for module, name in changed:
            parts = (
                module.convs if isinstance(module, Discriminator) else module
            )  # D's last layers come after its trunk
            vars(module)[name] = partial(ways[name], getattr(module, name), list(parts.parameters()), size)
        yield
    finally:
        for module, name in changed:
            vars(module).pop(name, None)  # the class's own comes to light again


def _parts(network: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """What is run in pieces: modules, and which of their methods."""
    yield from ((block, "forward") for block in network.modules() if isinstance(block, _BLOCKS))
    if isinstance(network, Generator):
        yield network, "synthesise"
    if isinstance(network, Discriminator):
        yield network, "trunk"


def _synthesise(
    whole: Callable[..., Tensor],
    parameters: list[nn.Parameter],
    size: int,
    ws: Tensor,
    noise: Sequence[Tensor] | None = None,
    gates: Mapping[str, Tensor] | None = None,
    keep: dict[str, Tensor] | None = None,
) -> Tensor:
    if keep is not None:
        return whole(ws, noise, gates, keep)
    gates, maps = gates or {}, noise or ()

    def call(ws: Tensor, *rest: Tensor) -> Tensor:
        given = dict(zip(gates, rest[len(maps) :], strict=True))
        return whole(ws, None if noise is None else rest[: len(maps)], given)

    return _run(call, parameters, size, ws, *maps, *gates.values())


def _trunk(
    whole: Callable[..., Tensor],
    parameters: list[nn.Parameter],
    size: int,
    images: Tensor,
    gates: Mapping[str, Tensor] | None = None,
) -> Tensor:
    gates = gates or {}

    def call(images: Tensor, *rest: Tensor) -> Tensor:
        return whole(images, dict(zip(gates, rest, strict=True)))

    return _run(call, parameters, size, images, *gates.values())


def _run(whole: Callable[..., Tensor], parameters: list[nn.Parameter], size: int, *inputs: Tensor | None) -> Tensor:
    """whole(*inputs) in pieces. Inputs of more than one dimension are cut along the first, others are shared."""
    given = [x for x in inputs if x is not None]
    if len(given[0]) <= size:
        return whole(*inputs)

    def call(*tensors: Tensor) -> Tensor:
        rest = iter(tensors)
        return whole(*(None if x is None else next(rest) for x in inputs))

    trained = [parameter for parameter in parameters if parameter.requires_grad]
    return _Pieces.apply(_Job(call, size, len(given)), *given, *trained)  # pyright: ignore[reportReturnType]


class _Job:
    """What is run and how to cut its inputs; the first `inputs` of its tensors are inputs, the others parameters."""

    def __init__(self, call: Callable[..., Tensor], size: int, inputs: int) -> None:
        self.call, self.size, self.inputs = call, size, inputs

    def is_cut(self, index: int, tensor: Tensor) -> bool:
        return index < self.inputs and tensor.dim() > 1

    def pieces(self, tensors: Sequence[Tensor]) -> Iterator[tuple[slice, list[Tensor]]]:
        """For each piece its place and its tensors; those that are inputs without their history."""
        for start in range(0, len(tensors[0]), self.size):
            place = slice(start, start + self.size)
            cut = [t[place] if self.is_cut(i, t) else t for i, t in enumerate(tensors)]
            yield place, [t.detach() if i < self.inputs else t for i, t in enumerate(cut)]


class _Gathered:
    """Gradients of the wanted tensors from piece to piece: in a row for inputs that were cut, else summed up."""

    def __init__(self, job: _Job, tensors: Sequence[Tensor], wanted: Sequence[int]) -> None:
        self.wanted = wanted
        self.is_cut = [job.is_cut(i, tensor) for i, tensor in enumerate(tensors)]
        self.rows: list[list[Tensor]] = [[] for _ in tensors]

    def add(self, gradients: Sequence[Tensor | None]) -> None:
        for i, gradient in zip(self.wanted, gradients, strict=True):
            if gradient is None:
                continue
            if self.is_cut[i] or not self.rows[i]:
                self.rows[i].append(gradient)
            else:
                self.rows[i][0] = self.rows[i][0] + gradient

    def whole(self) -> list[Tensor | None]:
        """By tensor; None for what was not wanted or is not depended on."""
        return [
            torch.cat(rows) if rows and cut else next(iter(rows), None)
            for rows, cut in zip(self.rows, self.is_cut, strict=True)
        ]


class _Pieces(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, job: _Job, *tensors: Tensor) -> Tensor:
        ctx.job = job
        ctx.save_for_backward(*tensors)
        return torch.cat([job.call(*piece[: job.inputs]) for _, piece in job.pieces(tensors)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        job, tensors, again = ctx.job, ctx.saved_tensors, torch.is_grad_enabled()
        needed = _needed(ctx.needs_input_grad[1:])
        wanted = tuple(i for i in needed if job.is_cut(i, tensors[i]) or not again)
        return None, *_Gradients.apply(job, wanted, grads[0], *tensors)


class _Gradients(torch.autograd.Function):
    """From the gradient by an output to those by the tensors it came from; itself differentiable, once."""

    @staticmethod
    def forward(ctx: Any, job: _Job, wanted: tuple[int, ...], grad: Tensor, *tensors: Tensor) -> Any:
        ctx.job, ctx.wanted = job, wanted
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(grad, *tensors)
        found = _Gathered(job, tensors, wanted)
        for place, piece in job.pieces(tensors):
            with torch.enable_grad():
                leaves = _leaves(piece, wanted)
                output = job.call(*piece[: job.inputs])
            found.add(torch.autograd.grad(output, leaves, grad[place], allow_unused=True))
        return tuple(found.whole())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride], the decorator has no types
        ctx: Any, *seconds: Tensor | None
    ) -> Any:
        job, wanted = ctx.job, ctx.wanted
        grad, *tensors = ctx.saved_tensors
        needed = _needed(ctx.needs_input_grad[3:])
        found, by_grad = _Gathered(job, tensors, needed), []
        for place, piece in job.pieces(tensors):
            with torch.enable_grad():
                leaves, upstream = _leaves(piece, needed), grad[place].detach().requires_grad_()
                output = job.call(*piece[: job.inputs])
                of = [piece[i] for i in wanted]
                firsts = torch.autograd.grad(output, of, upstream, create_graph=True, allow_unused=True)
            given = [
                (first, second[place] if job.is_cut(i, tensors[i]) else second)
                for i, first in zip(wanted, firsts, strict=True)
                if first is not None and (second := seconds[i]) is not None
            ]
            ends, directions = zip(*given, strict=True)
            first, *rest = torch.autograd.grad(ends, [upstream, *leaves], directions, allow_unused=True)
            by_grad.append(first)
            found.add(rest)
        return None, None, torch.cat(by_grad), *found.whole()


def _needed(flags: Sequence[bool]) -> list[int]:
    return [i for i, is_needed in enumerate(flags) if is_needed]


def _leaves(piece: list[Tensor], wanted: Sequence[int]) -> list[Tensor]:
    """The wanted tensors of a piece, ready to be derived by: its inputs are its own, its parameters the network's."""
    return [piece[i] if piece[i].requires_grad else piece[i].requires_grad_() for i in wanted]
