"""Tensors as a checkpoint describes them: a view of raw storage. Every bound is checked before one is believed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tenshot.errors import TenshotError
from tenshot.unpickle.reading import Reading, shown

DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
"""torch's names of typed storage, and what they hold."""

_DIMENSIONS = 8
_LARGEST = 2**40  # elements; Python's integers do not overflow, torch's do


@dataclass(eq=False)
class Storage:
    """Raw numbers of one type. `data` may come later: the oldest torch files put it after the pickle."""

    dtype: torch.dtype
    numel: int
    data: memoryview | None = None

    @property
    def size(self) -> int:
        """Bytes."""
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A view of a storage that lies inside it and never meets itself; `read` copies it out. Counts are elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        return self.storage.dtype

    def read(self) -> Tensor:
        """A contiguous tensor of its own memory."""
        if math.prod(self.shape) == 0:
            return torch.empty(self.shape, dtype=self.dtype)
        bits = np.dtype(f"<i{self.dtype.itemsize}")
        strides = [step * bits.itemsize for step in self.stride]
        array = np.ndarray(self.shape, bits, self.storage.data, self.offset * bits.itemsize, strides)
        return torch.from_numpy(array.copy()).view(self.dtype)


def read_all(tensors: Mapping[str, StoredTensor], where: str) -> dict[str, Tensor]:
    """Each tensor, copied out. Raises TenshotError if one stands under two names, where reading would multiply it."""
    names: dict[int, str] = {}
    for name, tensor in tensors.items():
        if (other := names.setdefault(id(tensor), name)) != name:
            raise TenshotError(f"{where}: {shown(other)} and {shown(name)} are one tensor")
    return {name: tensor.read() for name, tensor in tensors.items()}


def new_storage(reading: Reading, dtype: Any, numel: Any) -> Storage:
    """A storage without its data. Raises TenshotError for a size that none has."""
    if not isinstance(dtype, torch.dtype) or type(numel) is not int or not 0 <= numel <= _LARGEST:
        raise reading.damaged("a storage of no possible type or size")
    return Storage(dtype, numel)


def put_data(reading: Reading, storage: Storage, data: memoryview) -> None:
    """Give a storage its bytes. Raises TenshotError unless they are exactly as many as it announced."""
    if len(data) != storage.size:
        raise reading.damaged(f"a storage of {storage.size:,} bytes has {len(data):,}")
    storage.data = data


def rebuild_tensor(reading: Reading, arguments: tuple[Any, ...]) -> StoredTensor:
    """`torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)`.

    Raises TenshotError for a view that leaves its storage, or that counts an element of it twice.
    """
    if len(arguments) not in (6, 7):
        raise reading.damaged(f"a tensor of {len(arguments)} arguments")
    storage, offset, shape, stride = arguments[:4]
    is_view = isinstance(storage, Storage) and type(shape) is type(stride) is tuple and len(shape) == len(stride)
    if not is_view or len(shape) > _DIMENSIONS or not all(map(_is_count, (offset, *shape, *stride))):
        raise reading.damaged("a tensor that is not a view of a storage")
    if math.prod(size for size in shape if size) > _LARGEST:
        raise reading.damaged(f"a tensor of shape {list(shape)}")
    count = math.prod(shape)
    end = offset + (1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) if count else 0)
    if end > storage.numel:
        raise reading.damaged(f"a tensor that ends at {end:,} in a storage of {storage.numel:,}")
    if count and _meets_itself(shape, stride):
        raise reading.damaged(f"a tensor of shape {list(shape)} and stride {list(stride)} repeats its own memory")
    reading.take(count * storage.dtype.itemsize)
    return StoredTensor(storage, offset, shape, stride)


def rebuild_parameter(reading: Reading, arguments: tuple[Any, ...]) -> StoredTensor:
    """`torch._utils._rebuild_parameter(tensor, requires_grad, hooks)`: the tensor."""
    if len(arguments) != 3 or not isinstance(arguments[0], StoredTensor):
        raise reading.damaged("a parameter that is not a tensor")
    return arguments[0]


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST


def _meets_itself(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether two indices may mean one element: some dimension steps less than all smaller ones span."""
    span = 1
    for step, size in sorted((step, size) for step, size in zip(stride, shape, strict=True) if size > 1):
        if step < span:
            return True
        span = step * (size - 1) + span
    return False
