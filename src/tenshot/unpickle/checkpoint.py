"""A checkpoint's content, whichever of three formats it has. The content decides which, never the file's name.

a zip                what torch writes since 1.6: a pickle, and an entry for each storage
several pickles      what torch wrote before: a magic number, two more, the content, its storages' names, their bytes
a single pickle      what NVIDIA writes: modules, each storage inside as a torch file of its own
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tenshot.files import told_as_sentence
from tenshot.unpickle.allowed import NAMES, STORAGES, Allowed, Names
from tenshot.unpickle.archive import entries
from tenshot.unpickle.machine import Machine
from tenshot.unpickle.reading import Reading, shown
from tenshot.unpickle.tensors import Storage, new_storage, put_data

LARGEST = 8 * 2**30
"""Bytes. The largest published networks, with their optimisers' state, are a tenth of it."""

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001


def read_checkpoint(path: Path) -> Any:
    """The content of a torch file or of NVIDIA's pickle. Nothing in it is executed, whatever it says.

    Containers are dict, list, tuple and set, tensors are `StoredTensor`, other objects `Record`. Raises TenshotError.
    """
    with told_as_sentence("read", path), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > LARGEST:
            raise Reading(str(path), 0).refuse(f"has {size:,} bytes, more than any checkpoint ({LARGEST:,} at most)")
        data = file.read(size)
    return read(data, str(path))


def read(data: bytes, name: str) -> Any:
    """As `read_checkpoint`; `name` begins every sentence. At most SPARE + TIMES * len(data) bytes are taken."""
    reading = Reading(name, len(data))
    return _read(reading, memoryview(data), _ALL)


def _read(reading: Reading, data: memoryview, names: Names) -> Any:
    if data[:4] == b"PK\3\4":
        return _read_zip(reading, data, names)
    if data[:1] != b"\x80":
        raise reading.refuse("is not a torch checkpoint: nothing can be read from it")
    machine = Machine(reading, data, 0, names)
    if not _is_old(data):
        content = machine.run()
        if machine.at != len(data):
            raise reading.damaged(f"{len(data) - machine.at:,} bytes follow its pickle")
        return content
    return _read_old(reading, data, names)


def _is_old(data: memoryview) -> bool:
    """Whether the first pickle is the magic number and nothing else."""
    return data[2:14] == b"\x8a\x0a" + _MAGIC.to_bytes(10, "little")


def _read_zip(reading: Reading, data: memoryview, names: Names) -> Any:
    files = entries(reading, data)
    if "data.pkl" not in files:
        raise reading.damaged("a zip without data.pkl")
    if bytes(files.get("byteorder", b"little")[:8]) != b"little":
        raise reading.refuse("was written on a big-endian computer: save it again on a little-endian one")
    storages: dict[str, Storage] = {}

    def persistent(key: str, dtype: Any, numel: Any) -> Storage:
        if key not in storages:
            if f"data/{key}" not in files:
                raise reading.damaged(f"it has no storage {shown(key)}")
            storages[key] = new_storage(reading, dtype, numel)
            put_data(reading, storages[key], files[f"data/{key}"])
        return storages[key]

    machine = Machine(reading, files["data.pkl"], 0, names, _by_key(reading, persistent, rest=0))
    content = machine.run()
    if machine.at != len(files["data.pkl"]):
        raise reading.damaged("something follows the pickle in its zip")
    return content


def _read_old(reading: Reading, data: memoryview, names: Names) -> Any:
    storages: dict[str, Storage] = {}

    def persistent(key: str, dtype: Any, numel: Any) -> Storage:
        if key not in storages:
            storages[key] = new_storage(reading, dtype, numel)
        return storages[key]

    at, values = 0, []
    for allowed in ({}, {}, {}, names, {}):  # magic number, version, the writing computer, content, storages' keys
        machine = Machine(reading, data, at, allowed, _by_key(reading, persistent, rest=1) if allowed else None)
        values.append(machine.run())
        at = machine.at
    _, version, computer, content, keys = values
    if version != _VERSION or not isinstance(computer, dict) or computer.get("little_endian") is not True:
        raise reading.damaged("an old torch file of unknown version or byte order")
    if type(keys) is not list or not all(type(k) is str for k in keys) or sorted(keys) != sorted(storages):
        raise reading.damaged("the storages of the old torch file are not those that its pickle names")
    for key in keys:
        storage = storages[key]
        if int.from_bytes(data[at : at + 8], "little") != storage.numel or len(data) < at + 8 + storage.size:
            raise reading.damaged(f"it ends at byte {len(data):,}, or a storage has not the size it should have")
        put_data(reading, storage, data[at + 8 : at + 8 + storage.size])
        at += 8 + storage.size
    if at != len(data):
        raise reading.damaged(f"{len(data) - at:,} bytes follow its storages")
    return content


def _by_key(reading: Reading, storage: Callable[[str, Any, Any], Storage], *, rest: int) -> Callable[[Any], Storage]:
    """The reader of persistent ids `("storage", type, key, place, numel)`, in old files with a view that is None."""

    def persistent(identity: Any) -> Storage:
        match identity:
            case ("storage", Allowed(value=dtype), str(key), str(), int(numel), *views) if views == [None] * rest:
                found = storage(key, dtype, numel)
                if found.dtype is not dtype or found.numel != numel:
                    raise reading.damaged(f"the storage {shown(key)} is of two types or sizes")
                return found
        raise reading.damaged("a reference to something that is no storage")

    return persistent


def _load_from_bytes(reading: Reading, arguments: tuple[Any, ...]) -> Storage:
    """`torch.storage._load_from_bytes(data)`: a torch file with one storage, which can hold no further file."""
    if len(arguments) != 1 or not isinstance(arguments[0], memoryview | bytes):
        raise reading.damaged("a storage that is not stored as bytes")
    reading.go_through(len(arguments[0]))
    storage = _read(reading, memoryview(arguments[0]), STORAGES)
    if type(storage) is not Storage:
        raise reading.damaged("a torch file that was to hold one storage holds something else")
    return storage


_ALL: Names = {
    **NAMES,
    ("torch.storage", "_load_from_bytes"): Allowed("torch.storage._load_from_bytes", _load_from_bytes),
}
