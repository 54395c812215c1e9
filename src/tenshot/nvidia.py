"""NVIDIA's StyleGAN2 of the PyTorch era (stylegan2-ada-pytorch, stylegan3) in our names and layout.

Both write config F of arXiv:1912.04958. Orientation and scale of the stored weights are those of rosinality's layout:
convolutions are stored as correlations, the one that doubles the size as the weight of a transposed convolution, all
at the equalised learning rate. So tensors are renamed and given their extra dimensions, and only a mapping network
of another learning-rate multiplier is scaled. The fused and the plain modulated convolution are one function.

What agrees to rounding only: demodulation adds 1e-8 before, not after, the equalised scale; blocks that ran in half
precision run in single precision. `conv_clamp` (normally 256) is not applied: activations in single precision stay
far below it. What is not stored: the noise of `noise_mode="const"`; tenshot draws noise by seed.

The classes' source text is not looked at. A fork that changed a forward function under the same names and numbers
cannot be told from the original; the grid of images beside a converted model can.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tenshot.errors import TenshotError
from tenshot.unpickle import Record, StoredTensor, read_all, shown, some

_MOST_MODULES, _DEEPEST = 500, 5
_MOST_TENSORS = 5000
_MAPPING_RATE = 0.01
_GROUP = 4  # images that tenshot's discriminator compares

Tensors = dict[str, StoredTensor]


@dataclass(frozen=True)
class Networks:
    """Tensors under rosinality's names; of the generator also `latent_avg`, where it was tracked."""

    generator: dict[str, Tensor]
    discriminator: dict[str, Tensor]
    notes: tuple[str, ...]
    """Sentences on what is known to differ."""


def is_nvidia(content: Any) -> bool:
    """Whether a checkpoint's content is a dictionary of NVIDIA's modules."""
    return isinstance(content, dict) and any(isinstance(content.get(key), Record) for key in ("G", "D", "G_ema"))


def translate(content: dict[str, Any], where: str) -> Networks:
    """The averaged generator and the discriminator. Raises TenshotError with one sentence per fault."""
    missing = [key for key in ("G_ema", "D") if not isinstance(content.get(key), Record)]
    if missing:
        raise TenshotError(
            f"{where} has no {' and no '.join(missing)}, only {some(content)}: adaptation "
            "needs the averaged generator and its discriminator"
        )
    g_where, d_where = f"{where}, G_ema", f"{where}, D"
    g, d = _modules(content["G_ema"], g_where), _modules(content["D"], d_where)
    _check_kind(g, g_where)
    _check_layers(g, g_where, "skip")
    _check_layers(d, d_where, "resnet")
    notes = (*_notes(g, "generator"), *_notes(d, "discriminator"), *_check_groups(d, d_where))
    return Networks(_generator(g, g_where), _discriminator(d, d_where), notes)


def _modules(network: Record, where: str) -> dict[str, Record]:
    """Every module by its dotted name, the network itself under ""."""
    found: dict[str, Record] = {}
    waiting: list[tuple[str, Any]] = [("", network)]
    while waiting:
        name, module = waiting.pop()
        if not isinstance(module, Record) or not isinstance(module.state, dict):
            raise TenshotError(f"{where}: {shown(name)} is not a module")
        if len(found) == _MOST_MODULES or name.count(".") == _DEEPEST:
            raise TenshotError(f"{where} has more modules than a StyleGAN2, or nests them deeper")
        found[name] = module
        for key, child in _named(module, "_modules", f"{where}: {shown(name)}"):
            waiting.append((f"{name}.{key}" if name else key, child))
    return found


def _named(module: Record, part: str, where: str) -> Iterator[tuple[str, Any]]:
    """The modules, parameters or buffers of a module that are not None."""
    values = module.state.get(part)
    if not isinstance(values, dict) or not all(isinstance(k, str) and k.isidentifier() for k in values):
        raise TenshotError(f"{where} has no {part}: not a module of torch")
    yield from ((key, value) for key, value in values.items() if value is not None)


def _check_kind(g: dict[str, Record], where: str) -> None:
    if "synthesis.input" in g or any(module.name == "SynthesisInput" for module in g.values()):
        raise TenshotError(f"{where} is a StyleGAN3 generator: tenshot adapts StyleGAN2; train or find a StyleGAN2")
    if "synthesis.b4" not in g or "mapping" not in g:
        raise TenshotError(f"{where} is a network {shown(g[''].name)}, not a StyleGAN2 generator of NVIDIA's layout")


def _check_layers(modules: dict[str, Record], where: str, expected: str) -> None:
    """Refuse what is under the same names another function."""
    top = modules[""].state
    if top.get("c_dim") or "mapping.embed" in modules or ("b4" in modules and "mapping" in modules):
        raise TenshotError(
            f"{where} is conditional (c_dim {shown(top.get('c_dim'))}): tenshot adapts networks without labels"
        )
    if top.get("img_channels", 3) != 3:
        raise TenshotError(f"{where} has images of {shown(top['img_channels'])} channels: tenshot reads RGB")
    for name, module in modules.items():
        architecture = module.state.get("architecture")
        if architecture is not None and architecture != expected:
            raise TenshotError(
                f"{where}: {shown(name)} has the architecture {shown(architecture)}: tenshot knows the skip generator "
                "and the residual discriminator of StyleGAN2 (configurations E and F)"
            )
        activation = module.state.get("activation")
        is_linear = name.endswith((".affine", ".skip", ".out"))
        if activation is not None and activation != ("linear" if is_linear else "lrelu"):
            raise TenshotError(
                f"{where}: {shown(name)} has the activation {shown(activation)}, StyleGAN2 the leaky ReLU"
            )


def _notes(modules: dict[str, Record], what: str) -> Iterator[str]:
    clamps = {clamp for m in modules.values() if isinstance(clamp := m.state.get("conv_clamp"), int | float)}
    if clamps:
        yield f"the {what} clamped activations at {shown(min(clamps))}, tenshot does not"
    if any(module.state.get("use_fp16") is True for module in modules.values()):
        yield f"blocks of the {what} ran in half precision, here all run in single precision"


def _check_groups(d: dict[str, Record], where: str) -> Iterator[str]:
    """The minibatch statistics: a note where groups are not of tenshot's size."""
    if (layer := d.get("b4.mbstd")) is None or layer.state.get("num_channels") != 1:
        raise TenshotError(f"{where} has no minibatch statistics of one channel, as StyleGAN2's discriminator has")
    size = layer.state.get("group_size")
    if size is not None and (type(size) is not int or size < 1):
        raise TenshotError(f"{where} compares images in groups of {shown(size)}")
    if size != _GROUP:
        told = "whole batches" if size is None else f"groups of {size} images"
        same = min(size or _GROUP, _GROUP)
        yield f"the discriminator compared {told}, here groups of {_GROUP}: the same for batches of up to {same}"


def _tensors(modules: dict[str, Record], where: str) -> Tensors:
    """Every parameter and buffer by its dotted name, without low-pass filters (checked) and constant noise."""
    found: Tensors = {}
    for path, module in modules.items():
        for part in ("_parameters", "_buffers"):
            for key, value in _named(module, part, f"{where}: {shown(path)}"):
                name = f"{path}.{key}" if path else key
                if not isinstance(value, StoredTensor):
                    raise TenshotError(f"{where}: {shown(name)} is not a tensor")
                if key == "resample_filter":
                    _check_filter(value, f"{where}: {shown(name)}")
                elif key != "noise_const":
                    if len(found) == _MOST_TENSORS:
                        raise TenshotError(f"{where} has more tensors than a StyleGAN2")
                    found[name] = value
    _check_scales(modules, found, where)
    return found


def _check_filter(given: StoredTensor, where: str) -> None:
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    if given.shape != (4, 4) or not torch.allclose(given.read().float(), torch.outer(taps, taps), atol=1e-4):
        raise TenshotError(f"{where} is not the [1, 3, 3, 1] low-pass filter; it cannot be converted")


def _check_scales(modules: dict[str, Record], tensors: Tensors, where: str) -> None:
    """`weight_gain` of a layer must be that of the equalised learning rate; only the mapping may have another rate."""
    for path, module in modules.items():
        gain, rate = module.state.get("weight_gain"), _rate(module, where, path)
        if rate != 1 and not path.startswith("mapping.fc"):
            raise TenshotError(f"{where}: {shown(path)} scales its bias by {rate:.6g}, expected 1")
        weight = tensors.get(f"{path}.weight")
        if gain is None or weight is None:
            continue
        expected = rate / math.sqrt(max(1, math.prod(weight.shape[1:])))
        if not isinstance(gain, float) or not math.isclose(gain, expected, rel_tol=1e-4):
            raise TenshotError(f"{where}: {shown(path)} scales its weights by {shown(gain)}, expected {expected:.6g}")


def _rate(module: Record, where: str, path: str) -> float:
    """The learning-rate multiplier of a layer; its bias is used times this."""
    rate = module.state.get("bias_gain", _MAPPING_RATE if path.startswith("mapping.fc") else 1.0)
    if not isinstance(rate, int | float) or not 1e-6 <= rate <= 1e6:
        raise TenshotError(f"{where}: {shown(path)} scales its bias by {shown(rate)}")
    return float(rate)


_IN_STYLED = {
    "weight": "conv.weight",
    "bias": "activate.bias",
    "noise_strength": "noise.weight",
    "affine.weight": "conv.modulation.weight",
    "affine.bias": "conv.modulation.bias",
}
_IN_RGB = {key: _IN_STYLED[key] for key in ("weight", "affine.weight", "affine.bias")} | {"bias": "bias"}
_G_ONCE = {"mapping.w_avg": "latent_avg", "synthesis.b4.const": "input.input"}
_D_ONCE = {
    f"b4.{ours}.{key}": f"{theirs}{key}"
    for ours, theirs in (("fc", "final_linear.0."), ("out", "final_linear.1."))
    for key in ("weight", "bias")
} | {"b4.conv.weight": "final_conv.0.weight", "b4.conv.bias": "final_conv.1.bias"}
_D_LAYERS = {
    "conv0.weight": "conv1.0.weight",
    "conv0.bias": "conv1.1.bias",
    "conv1.weight": "conv2.1.weight",
    "conv1.bias": "conv2.2.bias",
    "skip.weight": "skip.1.weight",
}


def _generator(modules: dict[str, Record], where: str) -> dict[str, Tensor]:
    tensors = _tensors(modules, where)
    for name, stored in tensors.items():
        if name.startswith("mapping.fc") and len(set(stored.shape)) != 1:
            raise TenshotError(
                f"{where}: {name} has shape {list(stored.shape)}; z, w and all between must be of one size"
            )
    for size in _sizes(modules, "synthesis.b"):
        layers = ("conv1", "torgb") if size == 4 else ("conv0", "conv1", "torgb")
        _need(tensors, [f"synthesis.b{size}.{layer}.{key}" for layer in layers for key in _IN_RGB], where)
    translated = read_all(_renamed(tensors, _generator_name, where), where)
    for name, tensor in translated.items():
        is_one = name.endswith(".noise.weight") and tensor.dim() == 0
        if is_one or name == "input.input" or name.endswith(".conv.weight"):
            translated[name] = tensor[None]
        elif re.fullmatch(r"to_rgb1\.bias|to_rgbs\.[0-9]+\.bias", name) and tensor.dim() == 1:
            translated[name] = tensor[None, :, None, None]
    for path, module in modules.items():
        if path.startswith("mapping.fc") and (rate := _rate(module, where, path)) != _MAPPING_RATE:
            for key in ("weight", "bias"):
                if (name := _generator_name(f"{path}.{key}")) and name in translated:
                    translated[name] = translated[name] * (rate / _MAPPING_RATE)
        if module.state.get("use_noise") is False and (name := _generator_name(f"{path}.noise_strength")):
            translated[name] = torch.zeros(1)
    return translated


def _discriminator(modules: dict[str, Record], where: str) -> dict[str, Tensor]:
    tensors = _tensors(modules, where)
    sizes = _sizes(modules, "b")
    for size in sizes[1:]:
        _need(tensors, [f"b{size}.{key}" for key in _D_LAYERS], where)
    _need(tensors, [*_D_ONCE, f"b{sizes[-1]}.fromrgb.weight", f"b{sizes[-1]}.fromrgb.bias"], where)
    top = _level(str(sizes[-1]))
    return read_all(_renamed(tensors, lambda name: _discriminator_name(name, top), where), where)


def _sizes(modules: dict[str, Record], prefix: str) -> list[int]:
    """4, 8, ... up to the largest block."""
    levels = [_level(name.removeprefix(prefix)) for name in modules if name.startswith(prefix)]
    return [2**level for level in range(2, max([2, *levels]) + 1)]


def _need(tensors: Tensors, names: list[str], where: str) -> None:
    if missing := [name for name in names if name not in tensors]:
        raise TenshotError(f"{where}: {some(missing)} {'is' if len(missing) == 1 else 'are'} missing")


def _renamed(tensors: Tensors, rename: Callable[[str], str | None], where: str) -> Tensors:
    renamed: Tensors = {}
    for name, tensor in tensors.items():
        if (ours := rename(name)) is None:
            raise TenshotError(f"{where}: {shown(name)} is not part of a StyleGAN2 in NVIDIA's layout")
        renamed[ours] = tensor
    return renamed


def _generator_name(name: str) -> str | None:
    if name in _G_ONCE:
        return _G_ONCE[name]
    if match := re.fullmatch(r"mapping\.fc(0|[1-9][0-9]?)\.(weight|bias)", name):
        return f"style.{int(match[1]) + 1}.{match[2]}"
    if not (match := re.fullmatch(r"synthesis\.b([0-9]{1,4})\.(conv0|conv1|torgb)\.(.+)", name)):
        return None
    level, layer = _level(match[1]), match[2]
    inside = (_IN_RGB if layer == "torgb" else _IN_STYLED).get(match[3])
    if inside is None or level < 2 or (level == 2 and layer == "conv0"):
        return None
    if layer == "torgb":
        return f"to_rgb1.{inside}" if level == 2 else f"to_rgbs.{level - 3}.{inside}"
    return f"conv1.{inside}" if level == 2 else f"convs.{2 * (level - 3) + (layer == 'conv1')}.{inside}"


def _discriminator_name(name: str, top: int) -> str | None:
    """`top`: log2 of the images' size."""
    if name in _D_ONCE:
        return _D_ONCE[name]
    if match := re.fullmatch(r"b([0-9]{1,4})\.fromrgb\.(weight|bias)", name):
        number = {"weight": 0, "bias": 1}[match[2]]
        return f"convs.0.{number}.{match[2]}" if _level(match[1]) == top else None
    if match := re.fullmatch(r"b([0-9]{1,4})\.((?:conv0|conv1|skip)\..+)", name):
        level, inside = _level(match[1]), _D_LAYERS.get(match[2])
        return f"convs.{top - level + 1}.{inside}" if inside and level > 2 else None
    return None


def _level(size: str) -> int:
    """log2 of a block's size in pixels; 0 for one that no StyleGAN2 has."""
    return int(size).bit_length() - 1 if size in ("4", "8", "16", "32", "64", "128", "256", "512", "1024") else 0
