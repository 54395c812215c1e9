"""The names that a checkpoint may ask for. Behind each is an inert value or a builder of ours; nothing is imported.

A name that is not here ends the reading. There is no way to add one from outside.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tenshot.unpickle.reading import Reading, Record
from tenshot.unpickle.tensors import DTYPES, rebuild_parameter, rebuild_tensor

Builder = Callable[[Reading, tuple[Any, ...]], Any]


@dataclass(frozen=True, eq=False)
class Allowed:
    """One name: what calling it builds, if it can be called, and what it is as a value."""

    name: str
    build: Builder | None = None
    value: Any = None


Names = Mapping[tuple[str, str], Allowed]
"""(module, name) -> what stands for it."""

TENSORFLOW = ("dnnlib.tflib.network", "Network")
"""Asked for by NVIDIA's pickles of the TensorFlow era: StyleGAN1, StyleGAN2, StyleGAN2-ADA."""


def _mapping(reading: Reading, arguments: tuple[Any, ...]) -> dict[Any, Any]:
    if arguments:
        raise reading.damaged("a dictionary that is made of arguments")
    return {}


def _namespace(reading: Reading, arguments: tuple[Any, ...]) -> Record:
    return Record("argparse.Namespace", arguments)


def _set(reading: Reading, arguments: tuple[Any, ...]) -> set[Any]:
    """Sets hold names of buffers; of what else they hold, no one asks."""
    if len(arguments) != 1 or type(arguments[0]) is not list:
        raise reading.damaged("a set that is not made of a list")
    reading.take(128 * len(arguments[0]))
    return {item for item in arguments[0] if type(item) is str}


def _bytes(reading: Reading, arguments: tuple[Any, ...]) -> bytes:
    """Protocol 2 has no bytes and writes them as text in Latin-1."""
    if len(arguments) != 2 or type(arguments[0]) is not str or arguments[1] != "latin1":
        raise reading.damaged("bytes that are not written as Latin-1")
    reading.take(len(arguments[0]))
    try:
        return arguments[0].encode("latin-1")
    except UnicodeEncodeError:
        raise reading.damaged("bytes that are not written as Latin-1") from None


def _dtype(reading: Reading, arguments: tuple[Any, ...]) -> Record:
    return Record("numpy.dtype", arguments)


def _array(reading: Reading, arguments: tuple[Any, ...]) -> Record:
    """No network of ours has NumPy arrays: they stay closed."""
    return Record("numpy.ndarray", arguments)


_NUMBERS = {"f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "i2": "h", "i1": "b"}
_NUMBERS |= {"u8": "Q", "u4": "I", "u2": "H", "u1": "B", "b1": "?"}


def _scalar(reading: Reading, arguments: tuple[Any, ...]) -> float | int | bool:
    """A NumPy scalar, as gains of layers are stored: a dtype and its bytes."""
    match arguments:
        case (
            Record(name="numpy.dtype", arguments=(str(kind), *_), state=(_, "<" | "|", *_)),
            bytes() | memoryview() as data,
        ) if kind in _NUMBERS and len(data) == int(kind[1:]):
            return struct.unpack(f"<{_NUMBERS[kind]}", data)[0]
    raise reading.damaged("a NumPy scalar that is not one little-endian number")


def _persistent(reading: Reading, arguments: tuple[Any, ...]) -> Record:
    """`torch_utils.persistence` of NVIDIA: class name and state are kept, the source text of the class is not."""
    match arguments:
        case ({"type": "class", "class_name": str(name), "state": dict(state)},):
            return Record(name, state=state)
    raise reading.damaged("a persistent object without class name and state")


_ENTRIES: dict[str, Builder | None] = {
    "collections.OrderedDict": _mapping,
    "dnnlib.util.EasyDict": _mapping,
    "argparse.Namespace": _namespace,
    "builtins.set": _set,
    "__builtin__.set": _set,
    "_codecs.encode": _bytes,
    "numpy.dtype": _dtype,
    "numpy.ndarray": None,
    "torch._utils._rebuild_tensor_v2": rebuild_tensor,
    "torch._utils._rebuild_parameter": rebuild_parameter,
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent,
}
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):  # before and since NumPy 2
    _ENTRIES |= {f"{_module}._reconstruct": _array, f"{_module}.scalar": _scalar}

STORAGES: Names = {("torch", name): Allowed(f"torch.{name}", value=dtype) for name, dtype in DTYPES.items()}
"""All that the pickle of a single storage may ask for."""

NAMES: Names = {
    **STORAGES,
    **{(n.rpartition(".")[0], n.rpartition(".")[2]): Allowed(n, build) for n, build in _ENTRIES.items()},
}
"""All that the pickle of a checkpoint may ask for."""
