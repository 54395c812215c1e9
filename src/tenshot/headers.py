"""The header of a .safetensors file, checked before anything is allocated for what it announces.

The format is 8 bytes of length, that many bytes of JSON, then all tensors without a gap.
"""

import json
import math
import os
from pathlib import Path
from typing import Any

from tenshot.commands import argument
from tenshot.errors import TenshotError
from tenshot.files import told_as_sentence

LARGEST = 8 * 2**20
"""Bytes of a header. One of a run of 1024 px, with its optimisers' state, is a twentieth of it."""

_BRACKETS = 200_000  # each makes a container; Python's take far more memory than the two characters
_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_FOREIGN = {b"PK": "a zip", b"\x80": "a pickle"}


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as a .safetensors does, not as a zip or a pickle. Raises TenshotError."""
    with told_as_sentence("read", path), path.open("rb") as file:
        start, size = file.read(9), os.fstat(file.fileno()).st_size
    is_other = start.startswith(tuple(_FOREIGN)) and int.from_bytes(start[:8], "little") >= size
    return start[8:] == b"{" and not is_other


def check_header(path: Path) -> None:
    """Raises TenshotError unless every tensor has a known type, the size of its shape, and its place in the file."""
    with told_as_sentence("read", path), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        length = int.from_bytes(start, "little")
        text = file.read(length) if length <= min(size - 8, LARGEST) else b""
    for mark, kind in _FOREIGN.items():
        if start.startswith(mark) and text[:1] != b"{":
            raise TenshotError(
                f"{path} is a checkpoint of another program ({kind}): "
                f"first run `tenshot convert {argument(path)} OUT.safetensors`"
            )
    if fault := _fault(text, size - 8 - length):
        raise TenshotError(f"{path} is damaged or not a .safetensors file ({fault})")


def _fault(text: bytes, room: int) -> str | None:
    """What is wrong with a header in front of `room` bytes of tensors."""
    if text[:1] != b"{":
        return "it does not begin with the size of a header and a header of that size"
    if text.count(b"{") + text.count(b"[") > _BRACKETS:
        return "its header has too many parts"
    try:
        header = json.loads(text, object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError) as error:
        return f"its header is no JSON: {error}"
    header.pop("__metadata__", None)
    try:
        spans = sorted(_span(name, entry) for name, entry in header.items())
    except ValueError as error:
        return str(error)
    end = 0
    for start, behind in spans:
        if start != end:
            return "its tensors overlap or have gaps between them"
        end = behind
    return None if end == room else f"its tensors take {end:,} bytes, and it has {room:,} for them"


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name occurs twice")
    return values


def _span(name: str, entry: Any) -> tuple[int, int]:
    """(first byte, byte behind the last) of a tensor. Raises ValueError."""
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [start, end], **rest} if not rest:
            if not (name.isascii() and name.isprintable() and len(name) <= 200):
                raise ValueError(f"{name[:80]!a} is no name of a tensor")
            if dtype not in _SIZES:
                raise ValueError(f"{name[:80]!a} is of type {dtype[:20]!a}")
            are_counts = all(type(n) is int and 0 <= n < 2**53 for n in (*shape, start, end))
            if are_counts and len(shape) <= 8 and math.prod(shape) * _SIZES[dtype] == end - start:
                return start, end
    raise ValueError(f"the size of {name[:80]!a} is not that of its shape")
