"""Checkpoints of other programs to tenshot's model files: names and layouts only, nothing is executed.

rosinality's layout is a torch file with state dicts `g`, `g_ema`, `d` and perhaps a tensor `latent_avg`; NVIDIA's is
a pickle of modules `G`, `D`, `G_ema` (`nvidia`). Which one a file has is decided by its content (`unpickle`).
Resolution, channel plan, latent size and mapping depth are read off the tensors.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tenshot import nvidia
from tenshot.errors import TenshotError
from tenshot.files import check_reachable
from tenshot.headers import is_safetensors
from tenshot.models import Model, check_pair, empty, fill, read_tensors
from tenshot.nets import Discriminator, DiscriminatorSpec, Generator, GeneratorSpec
from tenshot.sampling import measure_latent_avg_
from tenshot.unpickle import Record, StoredTensor, read_all, read_checkpoint, shown, some

_KERNEL = re.compile(r"\.kernel$|^noises\.noise_\d+$")


def convert(path: Path) -> Model:
    """Read a checkpoint in rosinality's or NVIDIA's layout. Raises TenshotError with one sentence per fault."""
    if not os.path.isfile(path):
        check_reachable(path)
        if os.path.isdir(path):
            raise TenshotError(f"{path} is a folder: give the name of the checkpoint's file")
        raise TenshotError(f"there is no file {path}: check the spelling, or the folder you are in")
    if is_safetensors(path):
        read_tensors(path)
        raise TenshotError(f"{path} is a model file of tenshot already: give it to `tenshot adapt --source`")
    return model_of(read_checkpoint(path), path)


def model_of(content: Any, path: Path) -> Model:
    """The networks in a checkpoint's content; `path` names it in sentences and on the card. Raises TenshotError."""
    card: dict[str, Any] = {"kind": "source", "name": path.stem}
    if nvidia.is_nvidia(content):
        found = nvidia.translate(content, str(path))
        g_tensors, d_tensors, average = found.generator, found.discriminator, found.generator.get("latent_avg")
        g_where, d_where = f"{path}, G_ema", f"{path}, D"
        if found.notes:
            card["notes"] = list(found.notes)
    else:
        g_where, d_where = f"{path}, g_ema", f"{path}, d"
        g_tensors, d_tensors, average = _rosinality(content, path)

    with _shape_told(g_where):
        generator = empty(Generator, _generator_spec(g_tensors, g_where))
    latent_avg = torch.zeros(generator.spec.latent_size) if average is None else average.flatten()
    fill(generator, {**_open_gates(generator), **g_tensors, "latent_avg": latent_avg}, g_where)
    if average is None:
        measure_latent_avg_(generator)

    with _shape_told(d_where):
        discriminator = empty(Discriminator, _discriminator_spec(d_tensors, d_where))
    fill(discriminator, {**_open_gates(discriminator), **d_tensors}, d_where)
    return check_pair(Model(generator.eval(), discriminator, card), str(path))


def _open_gates(network: nn.Module) -> dict[str, Tensor]:
    """The one thing other layouts do not have: no filter is pruned."""
    return {name: torch.ones(gate.shape) for name, gate in network.named_buffers() if name.endswith(".gate")}


def _rosinality(checkpoint: Any, path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor | None]:
    """Tensors of the averaged generator and of the discriminator, and the mean latent if it was stored."""
    if not isinstance(checkpoint, dict):
        kind = "Tensor" if isinstance(checkpoint, StoredTensor) else type(checkpoint).__name__
        kind = shown(checkpoint.name) if isinstance(checkpoint, Record) else kind
        raise TenshotError(f"{path} holds a {kind}, not the state dicts g, g_ema and d")
    if "g_running" in checkpoint:
        raise TenshotError(f"{path} is a StyleGAN1 checkpoint (it has g_running): tenshot adapts StyleGAN2")
    missing = [key for key in ("g_ema", "d") if key not in checkpoint]
    if missing:
        raise TenshotError(
            f"{path} has no {' and no '.join(missing)}, only {some(checkpoint)}: "
            "adaptation needs the averaged generator and its discriminator; save both, as rosinality's "
            "training script does"
        )
    latent_avg = checkpoint.get("latent_avg")
    average = latent_avg.read() if isinstance(latent_avg, StoredTensor) else None
    return _tensors(checkpoint["g_ema"], f"{path}, g_ema"), _tensors(checkpoint["d"], f"{path}, d"), average


def _tensors(state: Any, where: str) -> dict[str, Tensor]:
    """The state dict's tensors, without fixed blur kernels and fixed noise, which tenshot does not store."""
    if not isinstance(state, dict) or not all(_is_named(*item) for item in state.items()):
        raise TenshotError(f"{where} is not a state dict of tensors")
    expected = torch.outer(*[torch.tensor([1.0, 3.0, 3.0, 1.0])] * 2)
    for name, stored in state.items():
        if name.endswith(".kernel"):
            kernel = stored.read().float() if stored.shape == (4, 4) else torch.zeros(4, 4)
            if not torch.allclose(kernel / kernel.sum() * 64, expected, atol=1e-2):
                raise TenshotError(
                    f"{where}: {shown(name)} is not the [1, 3, 3, 1] low-pass filter; it cannot be converted"
                )
    return read_all({name: stored for name, stored in state.items() if not _KERNEL.search(name)}, where)


def _is_named(name: Any, value: Any) -> bool:
    """A tensor under a name that is safe to print."""
    is_name = isinstance(name, str) and name.isascii() and name.isprintable() and len(name) <= 200
    return is_name and isinstance(value, StoredTensor)


@contextmanager
def _shape_told(where: str) -> Iterator[None]:
    """A shape that no network has, as a TenshotError."""
    try:
        yield
    except ValueError as error:
        raise TenshotError(f"{where}: {error}") from error


def _generator_spec(tensors: dict[str, Tensor], where: str) -> GeneratorSpec:
    constant = _need(tensors, "input.input", 4, where)
    latent_size = _need(tensors, "conv1.conv.modulation.weight", 2, where).shape[1]
    depth = len([name for name in tensors if re.fullmatch(r"style\.\d+\.weight", name)])
    _need(tensors, "convs.0.conv.weight", 5, where)
    channels = [constant.shape[1]]
    while (name := f"convs.{2 * len(channels) - 2}.conv.weight") in tensors:
        channels.append(_need(tensors, name, 5, where).shape[1])
    return GeneratorSpec(2 ** (len(channels) + 1), tuple(channels), latent_size, depth)


def _discriminator_spec(tensors: dict[str, Tensor], where: str) -> DiscriminatorSpec:
    channels = [_need(tensors, "convs.0.0.weight", 4, where).shape[0]]
    _need(tensors, "convs.1.skip.1.weight", 4, where)
    while (name := f"convs.{len(channels)}.skip.1.weight") in tensors:
        channels.append(_need(tensors, name, 4, where).shape[0])
    return DiscriminatorSpec(2 ** (len(channels) + 1), tuple(channels[::-1]))


def _need(tensors: dict[str, Tensor], name: str, dimensions: int, where: str) -> Tensor:
    if name not in tensors:
        first = some(sorted(tensors)[:3])
        raise TenshotError(f"{where} has no {name}: not a StyleGAN2 in rosinality's layout (it begins with {first})")
    if tensors[name].dim() != dimensions:
        raise TenshotError(f"{where}: {name} has {tensors[name].dim()} dimensions, expected {dimensions}")
    return tensors[name]
