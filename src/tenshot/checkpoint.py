"""All that a run's next step depends on, as named tensors, and back: what a checkpoint holds."""

from collections.abc import Iterator

import torch
from torch import Tensor

from tenshot.adaptation import Adaptation
from tenshot.errors import TenshotError
from tenshot.methods.base import Nets
from tenshot.models import fill
from tenshot.recovery import Health


def snapshot(run: Adaptation) -> dict[str, Tensor]:
    """All that the next step depends on, as named tensors (not copied)."""
    tensors = {"path_mean": run.path_mean, "ada": run.ada, "health": run.health.to_tensor()}
    tensors |= {f"state/{name}": tensor for name, tensor in run.state.items()}
    for part, network in _networks(run.nets).items():
        tensors |= {f"{part}/{name}": tensor for name, tensor in network.state_dict().items()}
    for part, name, moments in _moments(run.nets):
        tensors |= {f"adam/{part}/{name}/{key}": tensor for key, tensor in moments.items()}
    return tensors


def restore(run: Adaptation, tensors: dict[str, Tensor]) -> None:
    """Set a run to a snapshot, whose tensors then belong to it. Raises TenshotError where the two do not fit."""
    if missing := [name for name in ("path_mean", "ada") if name not in tensors]:
        raise TenshotError(f"the checkpoint was not written by this tenshot: it has no {missing[0]}")
    for name, before in (("path_mean", run.path_mean), ("ada", run.ada)):
        if tensors[name].shape != before.shape or not tensors[name].is_floating_point():
            raise TenshotError(f"the checkpoint was not written by this tenshot: its {name} is of another kind")
    run.path_mean, run.ada = tensors["path_mean"].to(run.path_mean.device), tensors["ada"]
    if "health" in tensors:  # older checkpoints have none
        run.health = Health.from_tensor(tensors["health"])
    state = {k.removeprefix("state/"): v for k, v in tensors.items() if k.startswith("state/")}
    expected, found = ({name: tensor.shape for name, tensor in s.items()} for s in (run.state, state))
    if expected != found:
        raise TenshotError(f"the checkpoint's state does not belong to the method {run.method.name} on these networks")
    # into their memory layout, so that sums over them come out in the same order
    run.state = {name: torch.empty_like(run.state[name]).copy_(tensor) for name, tensor in state.items()}
    for part, network in _networks(run.nets).items():
        prefix = f"{part}/"
        values = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        fill(network, values, f"checkpoint, {part}")
    for optimiser in (run.nets.optimiser_g, run.nets.optimiser_d):
        optimiser.state.clear()
    for part, optimiser in _optimised(run.nets):
        for name, parameter in _networks(run.nets)[part].named_parameters():
            prefix = f"adam/{part}/{name}/"
            values = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            if values:
                optimiser.state[parameter] = _adam_state(values, parameter, f"{part}.{name}")


def _adam_state(values: dict[str, Tensor], parameter: Tensor, where: str) -> dict[str, Tensor]:
    """Adam's state of a parameter, on its device and the moments in its memory layout: fused Adam goes through all of
    them as they lie, and does not look at their shapes. Raises TenshotError for what would not fit."""
    shapes = {"step": torch.Size(), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}
    found = {key: value.shape for key, value in values.items()}
    if found != shapes or not all(value.is_floating_point() for value in values.values()):
        raise TenshotError(f"the checkpoint's moments of {where} do not belong to this parameter")
    moments = {key: torch.empty_like(parameter).copy_(values[key]) for key in ("exp_avg", "exp_avg_sq")}
    return {"step": values["step"].to(parameter.device), **moments}


def _networks(nets: Nets) -> dict[str, torch.nn.Module]:
    named = {
        "generator": nets.generator,
        "discriminator": nets.discriminator,
        "ema": nets.ema,
        "discriminator_ema": nets.discriminator_ema,
        "heads": nets.heads,
    }
    return {name: network for name, network in named.items() if network is not None}


def _optimised(nets: Nets) -> Iterator[tuple[str, torch.optim.Adam]]:
    yield "generator", nets.optimiser_g
    yield "discriminator", nets.optimiser_d
    if nets.heads is not None:
        yield "heads", nets.optimiser_d


def _moments(nets: Nets) -> Iterator[tuple[str, str, dict[str, Tensor]]]:
    for part, optimiser in _optimised(nets):
        for name, parameter in _networks(nets)[part].named_parameters():
            yield part, name, optimiser.state.get(parameter, {})


def is_finite(run: Adaptation) -> bool:
    """Whether every parameter of the networks is a number."""
    networks = _networks(run.nets).values()
    return all(bool(torch.isfinite(parameter).all()) for network in networks for parameter in network.parameters())
