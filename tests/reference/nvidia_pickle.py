"""Writes pickles with the structure of NVIDIA's: modules that carry their source text, storages as nested torch files.

`networks` builds the module trees of a StyleGAN2 with random numbers: names, attributes and shapes as published, no
forward functions. `dump` writes them as `torch_utils.persistence` does: each module as a call of
`_reconstruct_persistent_obj` with a dictionary of type, version, source text, class name and state.
"""

import contextlib
import io
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

SOURCE = "raise SystemExit('the source text of a pickle was executed')\n" * 200
FILTER = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])) / 64


class Persistent(nn.Module):
    """A module that is pickled with its source text."""

    kind: str


class EasyDict(dict):
    """Stands for `dnnlib.util.EasyDict`."""


def module(
    kind: str,
    *,
    parameters: Mapping[str, Tensor] | None = None,
    buffers: Mapping[str, Tensor] | None = None,
    children: Mapping[str, nn.Module | None] | None = None,
    **attributes: Any,
) -> Persistent:
    made = Persistent()
    for name, value in attributes.items():
        setattr(made, name, value)
    for name, tensor in (buffers or {}).items():
        made.register_buffer(name, tensor)
    for name, tensor in (parameters or {}).items():
        made.register_parameter(name, nn.Parameter(tensor, requires_grad=False))
    for name, child in (children or {}).items():
        made.add_module(name, child) if child is not None else setattr(made, name, None)
    made.kind = kind
    made._init_args, made._init_kwargs = (), EasyDict(attributes)
    return made.eval()


def networks(
    resolution: int,
    base: int,
    cap: int,
    *,
    w_dim: int = 32,
    z_dim: int | None = None,
    c_dim: int = 0,
    depth: int = 2,
    rate: float = 0.01,
    colours: int = 3,
    g_architecture: str = "skip",
    d_architecture: str = "resnet",
    group: int | None = 4,
    half_blocks: int = 0,
    clamp: float | None = None,
    use_noise: bool = True,
    seed: int = 0,
) -> tuple[Persistent, Persistent]:
    """A generator and a discriminator; `min(base / size, cap)` channels in the block of each size."""
    rng = torch.Generator().manual_seed(seed)
    sizes = [4 * 2**k for k in range(resolution.bit_length() - 2)]
    channels = {size: min(base // size, cap) for size in sizes}
    first_half = max(resolution * 2 // 2**half_blocks, 8)

    def normal(*shape: int, mean: float = 0.0, spread: float = 1.0) -> Tensor:
        return mean + spread * torch.randn(shape, generator=rng)

    def dense(inputs: int, outputs: int, activation: str = "linear", rate: float = 1, mean: float = 0.0) -> Persistent:
        return module(
            "FullyConnectedLayer",
            parameters={
                "weight": normal(outputs, inputs) / rate,
                "bias": normal(outputs, mean=mean, spread=0.3) / rate,
            },
            activation=activation,
            weight_gain=rate / np.sqrt(inputs),
            bias_gain=rate,
        )

    def styled(inputs: int, outputs: int, size: int, up: int) -> Persistent:
        noisy = {"noise_strength": normal()} if use_noise else {}
        return module(
            "SynthesisLayer",
            parameters={"weight": normal(outputs, inputs, 3, 3), **noisy, "bias": normal(outputs, spread=0.3)},
            buffers={"resample_filter": FILTER.clone(), **({"noise_const": normal(size, size)} if use_noise else {})},
            children={"affine": dense(w_dim, inputs, mean=1.0)},
            resolution=size,
            up=up,
            use_noise=use_noise,
            activation="lrelu",
            conv_clamp=clamp,
            padding=1,
            act_gain=np.sqrt(2),
        )

    def to_rgb(inputs: int) -> Persistent:
        return module(
            "ToRGBLayer",
            parameters={"weight": normal(colours, inputs, 1, 1), "bias": normal(colours, spread=0.3)},
            children={"affine": dense(w_dim, inputs, mean=1.0)},
            conv_clamp=clamp,
            weight_gain=1 / np.sqrt(inputs),
        )

    def conv(inputs: int, outputs: int, kernel: int, *, down: int = 1, plain: bool = False) -> Persistent:
        return module(
            "Conv2dLayer",
            parameters={
                "weight": normal(outputs, inputs, kernel, kernel),
                **({} if plain else {"bias": normal(outputs, spread=0.3)}),
            },
            buffers={"resample_filter": FILTER.clone()},
            activation="linear" if plain else "lrelu",
            up=1,
            down=down,
            conv_clamp=clamp,
            padding=kernel // 2,
            weight_gain=1 / np.sqrt(inputs * kernel**2),
            act_gain=1 if plain else np.sqrt(2),
        )

    def g_block(size: int) -> Persistent:
        before, after = channels.get(size // 2, 0), channels[size]
        is_last = size == resolution
        first = {"conv0": styled(before, after, size, 2)} if before else {}
        last = {"torgb": to_rgb(after)} if is_last or g_architecture == "skip" else {}
        return module(
            "SynthesisBlock",
            parameters={} if before else {"const": normal(after, 4, 4)},
            buffers={"resample_filter": FILTER.clone()},
            children={**first, "conv1": styled(after, after, size, 1), **last},
            in_channels=before,
            w_dim=w_dim,
            resolution=size,
            img_channels=colours,
            is_last=is_last,
            architecture=g_architecture,
            use_fp16=size >= first_half and half_blocks > 0,
            num_conv=1 + (before > 0),
            num_torgb=1,
        )

    def d_block(size: int) -> Persistent:
        inside, after = channels[size], channels[size // 2]
        first = {"fromrgb": conv(colours, inside, 1)} if size == resolution else {}
        skip = {"skip": conv(inside, after, 1, down=2, plain=True)} if d_architecture == "resnet" else {}
        return module(
            "DiscriminatorBlock",
            buffers={"resample_filter": FILTER.clone()},
            children={**first, "conv0": conv(inside, inside, 3), "conv1": conv(inside, after, 3, down=2), **skip},
            in_channels=0 if size == resolution else inside,
            resolution=size,
            img_channels=colours,
            architecture=d_architecture,
            use_fp16=size >= first_half and half_blocks > 0,
        )

    widths = [z_dim or w_dim, *[w_dim] * depth]
    layers = {f"fc{i}": dense(widths[i], w_dim, "lrelu", rate) for i in range(depth)}
    embed = {"embed": dense(c_dim, w_dim)} if c_dim else {}
    mapping = module(
        "MappingNetwork",
        buffers={"w_avg": normal(w_dim, spread=0.5)},
        children={**embed, **layers},
        z_dim=z_dim or w_dim,
        c_dim=c_dim,
        w_dim=w_dim,
        num_ws=2 * len(sizes),
        num_layers=depth,
        w_avg_beta=0.995,
    )
    synthesis = module(
        "SynthesisNetwork",
        children={f"b{size}": g_block(size) for size in sizes},
        w_dim=w_dim,
        img_resolution=resolution,
        img_channels=colours,
        block_resolutions=sizes,
        num_ws=2 * len(sizes),
    )
    generator = module(
        "Generator",
        children={"synthesis": synthesis, "mapping": mapping},
        z_dim=z_dim or w_dim,
        c_dim=c_dim,
        w_dim=w_dim,
        img_resolution=resolution,
        img_channels=colours,
    )
    c4 = channels[4]
    epilogue = module(
        "DiscriminatorEpilogue",
        children={
            "mbstd": module("MinibatchStdLayer", group_size=group, num_channels=1),
            "conv": conv(c4 + 1, c4, 3),
            "fc": dense(c4 * 16, c4, "lrelu"),
            "out": dense(c4, 1),
        },
        in_channels=c4,
        cmap_dim=0,
        resolution=4,
        architecture=d_architecture,
    )
    discriminator = module(
        "Discriminator",
        children={**{f"b{size}": d_block(size) for size in reversed(sizes[1:])}, "b4": epilogue},
        c_dim=c_dim,
        img_resolution=resolution,
        img_channels=colours,
    )
    return generator, discriminator


def contents(generator: nn.Module, discriminator: nn.Module) -> dict[str, Any]:
    """The dictionary that NVIDIA's training loop pickles, here with another G than G_ema."""
    pipe = module(
        "AugmentPipe", buffers={"p": torch.zeros([]), "Hz_geom": torch.ones(12)}, xflip=1.0, brightness_std=0.2
    )
    data = {"class_name": "training.dataset.ImageFolderDataset", "path": "data.zip", "xflip": False, "max_size": None}
    untrained = module("Generator", buffers={"noise": torch.zeros(4, 4)})
    return {
        "training_set_kwargs": data,
        "G": untrained,
        "D": discriminator,
        "G_ema": generator,
        "augment_pipe": pipe,
    }


def dump(content: Any, *, protocol: int = 4, is_old: bool = False) -> bytes:
    """The pickle's bytes. `is_old`: as Python 3.7, torch 1.7 and NumPy 1 wrote it, with protocol 2 or 3."""
    buffer = io.BytesIO()
    with _pretended_modules() as reconstruct:

        class Pickler(pickle.Pickler):
            def reducer_override(self, obj: Any) -> Any:
                if not isinstance(obj, Persistent):
                    return NotImplemented
                state = dict(obj.__dict__)
                kind = state.pop("kind")
                if is_old:
                    for name in ("_parameters", "_buffers", "_modules"):
                        state[name] = OrderedDict(state[name])
                meta = {"type": "class", "version": 6, "module_src": SOURCE, "class_name": kind, "state": state}
                return reconstruct, (meta,), None

        Pickler(buffer, protocol).dump(content)
    data = buffer.getvalue()
    return data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n") if is_old else data


@contextlib.contextmanager
def _pretended_modules() -> Iterator[Any]:
    """`torch_utils.persistence` and `dnnlib.util`, so that the pickler finds what it names there."""

    def _reconstruct_persistent_obj(meta: dict[str, Any]) -> None:
        raise AssertionError("a pickle was executed")

    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    EasyDict.__module__ = "dnnlib.util"
    pretended = {
        name: types.ModuleType(name) for name in ("torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.util")
    }
    pretended["torch_utils.persistence"].__dict__["_reconstruct_persistent_obj"] = _reconstruct_persistent_obj
    pretended["dnnlib.util"].__dict__["EasyDict"] = EasyDict
    sys.modules.update(pretended)
    try:
        yield _reconstruct_persistent_obj
    finally:
        for name in pretended:
            del sys.modules[name]
