"""Checkpoints of other programs to tenshot's model files: names and layouts only, nothing is executed.

rosinality's layout is a torch file with state dicts `g`, `g_ema`, `d` and perhaps a tensor `latent_avg`.
Resolution, channel plan, latent size and mapping depth are read off the tensors.
"""

import argparse
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tenshot.errors import TenshotError
from tenshot.files import told_as_sentence
from tenshot.models import Model, check_pair, empty, fill
from tenshot.nets import Discriminator, DiscriminatorSpec, Generator, GeneratorSpec
from tenshot.sampling import measure_latent_avg_

_KERNEL = re.compile(r"\.kernel$|^noises\.noise_\d+$")


def convert(path: Path) -> Model:
    """Read a rosinality-style checkpoint. Raises TenshotError with one sentence per fault."""
    checkpoint = _read(path)
    missing = [key for key in ("g_ema", "d") if key not in checkpoint]
    if missing:
        raise TenshotError(
            f"{path} has no {' and no '.join(missing)}, only {', '.join(map(str, checkpoint)) or 'nothing'}: "
            "adaptation needs the averaged generator and its discriminator; save both, as rosinality's "
            "training script does"
        )
    g_tensors = _tensors(checkpoint["g_ema"], f"{path}, g_ema")
    d_tensors = _tensors(checkpoint["d"], f"{path}, d")

    where = f"{path}, g_ema"
    with _shape_told(where):
        generator = empty(Generator, _generator_spec(g_tensors, where))
    latent_avg = checkpoint.get("latent_avg")
    is_given = isinstance(latent_avg, Tensor)
    average = latent_avg.flatten() if is_given else torch.zeros(generator.spec.latent_size)
    fill(generator, {**_open_gates(generator), **g_tensors, "latent_avg": average}, where)
    if not is_given:
        measure_latent_avg_(generator)

    where = f"{path}, d"
    with _shape_told(where):
        discriminator = empty(Discriminator, _discriminator_spec(d_tensors, where))
    fill(discriminator, {**_open_gates(discriminator), **d_tensors}, where)
    return check_pair(Model(generator.eval(), discriminator, {"kind": "source", "name": path.stem}), str(path))


def _open_gates(network: nn.Module) -> dict[str, Tensor]:
    """The one thing rosinality's layout does not have: no filter is pruned."""
    return {name: torch.ones(gate.shape) for name, gate in network.named_buffers() if name.endswith(".gate")}


def _read(path: Path) -> dict[str, Any]:
    if not os.path.isfile(path):
        raise TenshotError(f"there is no file {path}")
    with told_as_sentence("read", path), path.open("rb") as file:
        start = file.read(2)
    try:
        # Its own training script stores its arguments as a Namespace, a plain holder of values.
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # of an unusual pickle protocol: what is read is checked below
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        is_torch_file = start == b"PK" or start[:1] == b"\x80"  # a zip; older ones are a bare pickle
        if wanted := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise TenshotError(
                f"{path} asks for {wanted[1]}: it holds objects other than tensors, or code, "
                "and was not opened. Save plain state dicts under g_ema and d"
            ) from error
        kind = "a damaged or foreign torch file" if is_torch_file else "not a torch checkpoint"
        raise TenshotError(f"{path} is {kind}: nothing can be read from it") from error
    if not isinstance(checkpoint, dict):
        raise TenshotError(f"{path} holds a {type(checkpoint).__name__}, not the state dicts g, g_ema and d")
    return checkpoint


def _tensors(state: Any, where: str) -> dict[str, Tensor]:
    """The state dict's tensors, without fixed blur kernels and fixed noise, which tenshot does not store."""
    if not isinstance(state, dict) or not all(isinstance(k, str) and _is_plain(v) for k, v in state.items()):
        raise TenshotError(f"{where} is not a state dict of tensors")
    expected = torch.outer(*[torch.tensor([1.0, 3.0, 3.0, 1.0])] * 2)
    for name, tensor in state.items():
        if name.endswith(".kernel"):
            is_square = tensor.shape == (4, 4)
            if not is_square or not torch.allclose(tensor.float() / tensor.sum() * 64, expected, atol=1e-2):
                raise TenshotError(f"{where}: {name} is not the [1, 3, 3, 1] low-pass filter; it cannot be converted")
    return {name: tensor for name, tensor in state.items() if not _KERNEL.search(name)}


def _is_plain(value: Any) -> bool:
    """A tensor with every number in memory: not sparse, not quantised, not one without storage."""
    if not isinstance(value, Tensor) or value.layout is not torch.strided:
        return False
    return value.device.type == "cpu" and not value.is_quantized


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
        some = ", ".join(sorted(tensors)[:3]) or "nothing"
        raise TenshotError(f"{where} has no {name}: not a StyleGAN2 in rosinality's layout (it begins with {some})")
    if tensors[name].dim() != dimensions:
        raise TenshotError(f"{where}: {name} has {tensors[name].dim()} dimensions, expected {dimensions}")
    return tensors[name]
