"""Checkpoints of other programs to tenshot's model files: names and layouts only, nothing is executed.

rosinality's layout is a torch file with state dicts `g`, `g_ema`, `d` and perhaps a tensor `latent_avg`. Resolution, channel
plan, latent size and mapping depth are read off the tensors.
"""

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tenshot.errors import TenshotError
from tenshot.files import told_as_sentence
from tenshot.models import Model, fill
from tenshot.nets import Discriminator, DiscriminatorSpec, Generator, GeneratorSpec, pixel_sizes
from tenshot.sampling import measure_latent_avg_

_KERNEL = re.compile(r"\.kernel$|^noises\.noise_\d+$")


def convert(path: Path) -> Model:
    """Read a rosinality-style checkpoint. Raises TenshotError with one sentence per fault."""
    checkpoint = _read(path)
    missing = [key for key in ("g_ema", "d") if key not in checkpoint]
    if missing:
        raise TenshotError(
            f"{path} has no {' and no '.join(missing)}, only {', '.join(map(str, checkpoint)) or 'nothing'}: adaptation needs "
            "the averaged generator and its discriminator; save both, as rosinality's training script does"
        )
    g_tensors = _tensors(checkpoint["g_ema"], f"{path}, g_ema")
    d_tensors = _tensors(checkpoint["d"], f"{path}, d")

    generator = Generator(_generator_spec(g_tensors, f"{path}, g_ema"))
    latent_avg = checkpoint.get("latent_avg")
    given = {"latent_avg": latent_avg.float().flatten()} if isinstance(latent_avg, Tensor) else {}
    gates = {k: v for k, v in generator.state_dict().items() if k.endswith(".gate") or k == "latent_avg"}
    fill(generator, {**gates, **g_tensors, **given}, f"{path}, g_ema")
    if not given:
        measure_latent_avg_(generator)

    discriminator = Discriminator(_discriminator_spec(d_tensors, f"{path}, d"))
    gates = {k: v for k, v in discriminator.state_dict().items() if k.endswith(".gate")}
    fill(discriminator, {**gates, **d_tensors}, f"{path}, d")
    if generator.spec.resolution != discriminator.spec.resolution:
        raise TenshotError(
            f"{path}: the generator makes {generator.spec.resolution} px, the discriminator judges "
            f"{discriminator.spec.resolution} px: they do not belong together"
        )
    return Model(generator.eval(), discriminator, {"kind": "source", "name": path.stem})


def _read(path: Path) -> dict[str, Any]:
    with told_as_sentence("read", path):
        if not path.is_file():
            raise TenshotError(f"there is no file {path}")
        is_zip = zipfile.is_zipfile(path)
    try:
        # A torch file is a zip; older ones are a bare pickle, which weights_only reads as safely.
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise TenshotError(
            f"{path} asks to run code or holds objects other than tensors; it was not opened. "
            "Save plain state dicts under g, g_ema and d"
        ) from error
    except Exception as error:
        kind = "a damaged torch file" if is_zip else "not a torch checkpoint"
        raise TenshotError(f"{path} is {kind} ({type(error).__name__})") from error
    if not isinstance(checkpoint, dict):
        raise TenshotError(f"{path} holds a {type(checkpoint).__name__}, not the state dicts g, g_ema and d")
    return checkpoint


def _tensors(state: Any, where: str) -> dict[str, Tensor]:
    """The state dict's tensors in float32, without fixed blur kernels and fixed noise, which tenshot does not store."""
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) and isinstance(k, str) for k, v in state.items()):
        raise TenshotError(f"{where} is not a state dict of tensors")
    expected = torch.outer(*[torch.tensor([1.0, 3.0, 3.0, 1.0])] * 2)
    for name, tensor in state.items():
        if name.endswith(".kernel"):
            kernel = tensor.float()
            if kernel.shape != (4, 4) or not torch.allclose(kernel / kernel.sum() * 64, expected, atol=1e-2):
                raise TenshotError(f"{where}: {name} is not the [1, 3, 3, 1] low-pass filter; it cannot be converted")
    return {name: tensor.float() for name, tensor in state.items() if not _KERNEL.search(name)}


def _generator_spec(tensors: dict[str, Tensor], where: str) -> GeneratorSpec:
    constant = _need(tensors, "input.input", 4, where)
    latent_size = _need(tensors, "conv1.conv.modulation.weight", 2, where).shape[1]
    depth = len([name for name in tensors if re.fullmatch(r"style\.\d+\.weight", name)])
    channels = [constant.shape[1]]
    while (name := f"convs.{2 * len(channels) - 2}.conv.weight") in tensors:
        channels.append(_need(tensors, name, 5, where).shape[1])
    return GeneratorSpec(_resolution(len(channels), where), tuple(channels), latent_size, depth)


def _discriminator_spec(tensors: dict[str, Tensor], where: str) -> DiscriminatorSpec:
    channels = [_need(tensors, "convs.0.0.weight", 4, where).shape[0]]
    while (name := f"convs.{len(channels)}.skip.1.weight") in tensors:
        channels.append(_need(tensors, name, 4, where).shape[0])
    return DiscriminatorSpec(_resolution(len(channels), where), tuple(channels[::-1]))


def _need(tensors: dict[str, Tensor], name: str, dimensions: int, where: str) -> Tensor:
    if name not in tensors:
        some = ", ".join(sorted(tensors)[:3]) or "nothing"
        raise TenshotError(f"{where} has no {name}: not a StyleGAN2 in rosinality's layout (it begins with {some})")
    if tensors[name].dim() != dimensions:
        raise TenshotError(f"{where}: {name} has {tensors[name].dim()} dimensions, expected {dimensions}")
    return tensors[name]


def _resolution(sizes: int, where: str) -> int:
    resolution = 4 * 2 ** (sizes - 1)
    try:
        pixel_sizes(resolution)
    except ValueError as error:
        raise TenshotError(f"{where}: {error}") from error
    return resolution
