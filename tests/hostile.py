"""Files that mean harm, or that nobody could have written: name -> (content, words of the sentence that refuses it).

Built from opcodes by hand where no pickler would write them. Every pickle that calls something also stands inside an
otherwise good checkpoint, where it is one value among many.
"""

import builtins
import io
import json
import os
import pickle
import struct
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import torch

Corpus = dict[str, tuple[bytes, str]]

ASKS, CALLS = "asks for ", "calls what is not to be called"
OPCODE, REFERS = "uses the pickle opcode ", "refers to storage outside of itself"
DAMAGED, MEMORY = "is a damaged or foreign torch file: ", "asks for far more memory than a file of its size may need"
HUGE = 2**40


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(10, "little", signed=True)
    return b"\x8a\x0a" + data


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def call(module: str, attribute: str, *arguments: bytes) -> bytes:
    return name(module, attribute) + b"(" + b"".join(arguments) + b"tR"


def framed(body: bytes, protocol: int = 2) -> bytes:
    return b"\x80" + bytes([protocol]) + body + b"."


def in_dictionary(body: bytes) -> bytes:
    """The body as the value of `args` in what looks like a checkpoint."""
    return b"}(" + text("g_ema") + b"}" + text("d") + b"}" + text("args") + body + b"u"


class Reduced:
    """Pickled by Python itself as a call."""

    def __init__(self, function: Callable, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce_ex__(self, protocol: int) -> tuple:
        return self.function, self.arguments


def calls() -> Iterator[tuple[str, bytes, str]]:
    """Pickles that run code when Python's unpickler reads them: name, body, words."""
    yield "posix.system", call("posix", "system", text("true")), ASKS + "posix.system: "
    yield "os.system", call("os", "system", text("true")), ASKS + "os.system: "
    yield "builtins.eval", call("builtins", "eval", text("1")), ASKS + "builtins.eval: "
    yield "builtins.exec", call("builtins", "exec", text("1")), ASKS + "builtins.exec: "
    yield "compile", call("builtins", "compile", text("1"), text("a"), text("eval")), ASKS + "builtins.compile: "
    yield "import", call("builtins", "__import__", text("antigravity")), ASKS + "builtins.__import__: "
    yield "importlib", call("importlib", "import_module", text("this")), ASKS + "importlib.import_module: "
    yield "runpy", call("runpy", "run_module", text("this")), ASKS + "runpy.run_module: "
    yield "open for writing", call("io", "open", text("/dev/null"), text("w")), ASKS + "io.open: "
    yield "popen", call("subprocess", "Popen", text("true")), ASKS + "subprocess.Popen: "
    chain = call("builtins", "getattr", call("builtins", "__import__", text("os")), text("system"))
    yield "getattr chain", chain + b"(" + text("true") + b"tR", ASKS + "builtins.getattr: "
    yield "dotted name", b"\x8c\x02os\x8c\x0bpath.os.sep\x93", ASKS + "os.path.os.sep: "
    yield "dotted system", b"\x8c\x08tempfile\x8c\x0d_os.system\x93\x8c\x04true\x85R".replace(b"\x0d", b"\x0a"), ASKS
    inner = framed(call("os", "system", text("true")))
    nested = b"B" + struct.pack("<I", len(inner)) + inner
    yield "pickle in a pickle", call("_pickle", "loads", nested), ASKS + "_pickle.loads: "
    yield "torch.load", call("torch.serialization", "load", text("/etc/hostname")), ASKS + "torch.serialization.load: "
    yield "numpy", call("numpy", "load", text("/etc/hostname")), ASKS + "numpy.load: "
    yield "webbrowser", call("webbrowser", "open", text("about:blank")), ASKS + "webbrowser.open: "
    yield "shutil", call("shutil", "rmtree", text("/nowhere")), ASKS + "shutil.rmtree: "
    address = text("127.0.0.1") + number(9) + b"\x86"
    yield "socket", call("socket", "create_connection", address), ASKS + "socket.create_connection: "
    yield "ctypes", call("ctypes", "CDLL", text("libc.so.6")), ASKS + "ctypes.CDLL: "


def abuses() -> Iterator[tuple[str, bytes, str]]:
    """Opcodes in places where no pickler puts them."""
    storage, ordered = name("torch", "FloatStorage"), name("collections", "OrderedDict")
    yield "storage called", storage + number(HUGE) + b"\x85R", CALLS
    yield "storage made", storage + number(HUGE) + b"\x85\x81", CALLS
    yield "bytearray", call("builtins", "bytearray", number(HUGE)), ASKS + "builtins.bytearray: "
    yield "text called", text("os.system") + text("true") + b"\x85R", CALLS
    yield "dictionary called", b"})R", CALLS
    yield "arguments in a list", ordered + b"]R", CALLS
    yield "ordered dictionary of a list", ordered + b"]\x85R", DAMAGED + "a dictionary that is made of arguments"
    yield "build of a class", ordered + b"}" + text("__reduce__") + text("x") + b"sb", "changes an object"
    yield "build with slots", ordered + b")R" + b"N}" + text("__class__") + text("x") + b"s\x86b", "changes an object"
    yield "build of a list", b"]}b", "changes an object"
    twice = name("argparse", "Namespace") + b")\x81" + b"}b" + b"}b"
    yield "build twice", twice, "changes an object"
    yield "newobj of a dictionary", b"})\x81", CALLS
    yield "newobj_ex", ordered + b")}\x92", OPCODE + "0x92"
    yield "inst", b"(" + text("true") + b"ios\nsystem\n", OPCODE + "0x69"
    yield "obj", b"(" + name("os", "system") + text("true") + b"o", ASKS + "os.system: "
    yield "obj of an allowed class", b"(" + ordered + b"o", OPCODE + "0x6f"
    yield "ext1", b"\x82\x01", OPCODE + "0x82"
    yield "ext2", b"\x83\x01\x00", OPCODE + "0x83"
    yield "ext4", b"\x84\x01\x00\x00\x00", OPCODE + "0x84"
    yield "persid", b"Pos.system\n", OPCODE + "0x50"
    yield "binpersid", text("os.system") + b"Q", REFERS
    yield "next_buffer", b"\x97", OPCODE + "0x97"
    yield "dup", b"]2", OPCODE + "0x32"
    yield "put by text", b"]p0\n", OPCODE + "0x70"
    yield "long by text", b"L" + b"9" * 5000 + b"L\n", OPCODE + "0x4c"
    yield "persistent of a function", call(*PERSISTENT, text("os.system")), "a persistent object without class name"
    meta = b"}" + text("type") + text("function") + b"s" + text("class_name") + text("eval") + b"s"
    yield "persistent of another type", call(*PERSISTENT, meta), "a persistent object without class name and state"
    yield "name that is no text", b"NN\x93", DAMAGED + "a name that is no text"
    yield "name without end", b"c" + b"a" * 300, DAMAGED + "a name without end"
    yield "name with escapes", name("os\x1b[2J", "system"), ASKS + "os\\x1b[2J.system: "
    yield "stack empty", b"0.", OPCODE + "0x30"
    yield "tuple of nothing", b"\x87", DAMAGED + "a pickle that takes more than it has"
    yield "pop below a mark", b"N(\x85", DAMAGED + "a pickle that takes more than it has"
    yield "no mark", b"]Ne", DAMAGED + "a pickle that misses a mark"
    yield "left over", b"NN", DAMAGED + "a pickle that leaves something over"
    yield "recall of nothing", b"h\x07", DAMAGED + "a pickle that refers to nothing"
    yield "append to a text", text("a") + b"Na", DAMAGED + "something is appended to what is no list"
    yield "item of a list", b"]NNs", DAMAGED + "an item is set in what is no dictionary"
    yield "odd items", b"}(NNNu", DAMAGED + "an item is set in what is no dictionary"
    yield "set of a number", name("builtins", "set") + b"K\x01\x85R", DAMAGED + "a set that is not made of a list"
    yield "set of tuples", b"\x8f(N\x85\x90" + b"Na", DAMAGED + "something is appended to what is no list"
    yield "bytes in another code", call("_codecs", "encode", text("a"), text("rot13")), DAMAGED + "bytes that are not"
    yield "protocol 0 inside", b"S'a'\n", OPCODE + "0x53"
    kind = name("numpy", "dtype") + text("O8") + b"\x89\x88\x87R(K\x03" + text("|") + b"NNNJ\xff\xff\xff\xff" * 1
    kind += b"J\xff\xff\xff\xffK\x3ftb"
    scalar = call("numpy.core.multiarray", "scalar", kind, b"C\x08" + bytes(8))
    yield "scalar that is an object", scalar, DAMAGED + "a NumPy scalar that is not one little-endian number"


PERSISTENT = ("torch_utils.persistence", "_reconstruct_persistent_obj")


def sizes() -> Iterator[tuple[str, bytes, str]]:
    """Numbers that would take memory, time or the C stack."""
    yield "long4", b"\x8b" + struct.pack("<i", 2**31 - 1), OPCODE + "0x8b"
    yield "long1", b"\x8a\xff" + b"\x01" * 255, DAMAGED + "an integer of 255 bytes"
    yield "text of 2^63", b"\x8d" + struct.pack("<Q", 2**63), DAMAGED + "it ends at byte"
    yield "text of 4 GiB", b"X" + struct.pack("<I", 2**32 - 1), DAMAGED + "it ends at byte"
    yield "bytes of 2^62", b"\x8e" + struct.pack("<Q", 2**62), DAMAGED + "it ends at byte"
    yield "bytearray of 2^62", b"\x96" + struct.pack("<Q", 2**62), OPCODE + "0x96"
    yield "frame of 2^62", b"\x95" + struct.pack("<Q", 2**62), DAMAGED + "it ends at byte"
    yield "a million dictionaries", b"(" + b"}" * 10**6 + b"t", MEMORY
    yield "a million sets", b"(" + b"\x8f" * 10**6 + b"t", MEMORY
    yield "a million marks", b"(" * 10**6, MEMORY
    yield "a million memos", b"N" + b"\x94" * 10**6, MEMORY
    yield "far memos", b"N" + b"".join(b"r" + struct.pack("<I", i * 997) for i in range(200_000)), MEMORY
    yield "a million lists in one another", b"]" * 10**6 + b"a" * (10**6 - 1), MEMORY
    yield "deep lists", b"]" * 50_000 + b"a" * 49_999, "holds a list, not the state dicts"
    yield "deep tuples", b")" + b"\x85" * 100_000, "holds a tuple, not the state dicts"
    yield "deep key", b"})" + b"\x85" * 100_000 + b"Ns", DAMAGED + "a dictionary with keys that are neither"
    yield "keys that collide", b"}" + number(2**61 - 1) + b"Ns", DAMAGED + "a dictionary with keys that are neither"
    yield "key that is a list", b"}]Ns", DAMAGED + "a dictionary with keys that are neither"
    laughs = b"]\x94" + b"".join(b"](" + b"h" + bytes([i]) * 1 + (b"h" + bytes([i])) * 9 + b"e\x94" for i in range(100))
    yield "billion laughs", laughs.replace(b"](", b"](", 1), "leaves something over"
    inner = b"]q\x00N" + b"a" + b"".join(b"](" + (b"h" + bytes([i])) * 10 + b"eq" + bytes([i + 1]) for i in range(100))
    yield "billion laughs as a list", b"(" + inner + b"l", OPCODE + "0x6c"
    top = b"(" + inner + b"t"
    yield "billion laughs as a tuple", top, "holds a tuple, not the state dicts"
    yield "billion laughs as a state", b"}(" + text("g_ema") + top + text("d") + b"}u", "g_ema is not a state dict"
    yield "list in itself", b"]q\x00h\x00a", "holds a list, not the state dicts"
    yield "dictionary in itself", b"}q\x00" + text("g_ema") + b"h\x00s" + text("d") + b"h\x00s", "is not a state dict"
    in_itself = b"](" + b")" * 1000 + b"eq\x00" + (name("builtins", "set") + b"h\x00\x85R0") * 1
    yield "set of a list, dropped", in_itself, OPCODE + "0x30"
    many = b"](" + text("a") * 1000 + b"eq\x00(" + (name("builtins", "set") + b"h\x00\x85R") * 2000 + b"t"
    yield "two thousand sets of one list", many, MEMORY
    yield "one storage four hundred times", _again_and_again(), "has the same bytes read again and again"


def _again_and_again() -> bytes:
    """One storage of 100 kB, in a file of its own as NVIDIA's pickles have it, which 400 calls read."""
    storage = zipped([("data.pkl", framed(persistent("0", count=25_000))), ("data/0", bytes(100_000))])
    once = name("torch.storage", "_load_from_bytes") + b"h\x00\x85R"
    return b"(B" + struct.pack("<I", len(storage)) + storage + b"q\x00" + once * 400 + b"t"


def tensors() -> Iterator[tuple[str, bytes, str]]:
    """Views that leave their storage or multiply it. The storage "0" has 16 floats."""

    def view(offset: int, size: tuple[int, ...], stride: tuple[int, ...], storage: bytes = FLOATS) -> bytes:
        counts = [b"(" + b"".join(map(number, counts)) + b"t" for counts in (size, stride)]
        arguments = (storage, number(offset), *counts, b"\x89", name("collections", "OrderedDict") + b")R")
        return call("torch._utils", "_rebuild_tensor_v2", *arguments)

    outside = DAMAGED + "a tensor that ends at "
    yield "offset outside", view(16, (1,), (1,)), outside
    yield "offset of 2^39", view(2**39, (1,), (1,)), outside
    yield "negative offset", view(-1, (4,), (1,)), DAMAGED + "a tensor that is not a view of a storage"
    yield "negative stride", view(8, (4,), (-1,)), DAMAGED + "a tensor that is not a view of a storage"
    yield "one too many", view(0, (17,), (1,)), outside
    yield "stride of 2^40", view(0, (2,), (2**39,)), outside
    yield "2^40 elements", view(0, (2**20, 2**20), (1, 1)), outside
    yield "2^80 elements", view(0, (2**40, 2**40), (0, 0)), DAMAGED + "a tensor of shape"
    yield "2^40 of one element", view(0, (2**40,), (0,)), DAMAGED + "a tensor of shape [1099511627776] and stride [0]"
    yield "overlapping rows", view(0, (4, 4), (2, 1)), "repeats its own memory"
    yield "overlapping columns", view(0, (4, 4), (1, 3)), "repeats its own memory"
    yield "more strides than sizes", view(0, (4,), (4, 1)), DAMAGED + "a tensor that is not a view of a storage"
    yield "nine dimensions", view(0, (1,) * 9, (1,) * 9), DAMAGED + "a tensor that is not a view of a storage"
    yield "tensor of a text", view(0, (4,), (1,), text("0")), DAMAGED + "a tensor that is not a view of a storage"
    few = call("torch._utils", "_rebuild_tensor_v2", FLOATS)
    yield "tensor of too little", few, DAMAGED + "a tensor of 1 arguments"
    parameter = call("torch._utils", "_rebuild_parameter", text("x"), b"\x88", b"}")
    yield "parameter of a text", parameter, DAMAGED + "a parameter that is not a tensor"
    yield "ten thousand views", b"(" + view(0, (16,), (1,)) * 10_000 + b"t", MEMORY
    for words, key, kind, count in (
        ("storage of 2^40", "0", "FloatStorage", HUGE),
        ("storage of another size", "0", "FloatStorage", 17),
        ("storage of another type", "0", "DoubleStorage", 16),
        ("negative storage", "0", "FloatStorage", -1),
        ("storage that is not there", "1", "FloatStorage", 16),
        ("storage outside of the folder", "../../../etc/passwd", "FloatStorage", 16),
    ):
        yield words, persistent(key, kind, count), DAMAGED
    yield "reference to a module", b"(" + text("module") + name("os", "system") + text("a") * 2 + b"tQ", ASKS
    yield "reference to a list", b"]Q", DAMAGED + "a reference to something that is no storage"


def persistent(key: str, kind: str = "FloatStorage", count: int = 16) -> bytes:
    return b"(" + text("storage") + name("torch", kind) + text(key) + text("cpu") + number(count) + b"tQ"


FLOATS = persistent("0")


def zipped(entries: list[tuple[str, bytes]], *, method: int = zipfile.ZIP_STORED, folder: str = "a/") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for path, content in entries:
            archive.writestr(zipfile.ZipInfo(folder + path), content, method)
    return buffer.getvalue()


def torch_zip(pickled: bytes, **how: Any) -> bytes:
    return zipped([("data.pkl", pickled), ("data/0", bytes(64)), ("version", b"3\n")], **how)


def old_torch(pickled: bytes, keys: list[str], storages: bytes, *, version: int = 1001, little: bool = True) -> bytes:
    """The format before torch 1.6."""
    head = [0x1950A86A20F9469CFC6C, version, {"protocol_version": version, "little_endian": little, "type_sizes": {}}]
    return b"".join(pickle.dumps(part, 2) for part in head) + pickled + pickle.dumps(keys, 2) + storages


def zips() -> Iterator[tuple[str, bytes, str]]:
    """Zips that torch never writes."""
    empty = framed(b"}")
    good = torch_zip(empty)
    for path in ("../x", "../../etc/passwd", "/etc/passwd", "b/./c", "..\\x", "b//c", "", "b\x1b[2J"):
        content = zipped([("data.pkl", empty), (path, b"x")])
        yield f"path {path!a}", content, "has no name that torch gives"
    yield "no folder", torch_zip(empty, folder=""), "has no name that torch gives"
    yield "several folders", zipped([("a/data.pkl", empty), ("b/x", b"x")], folder=""), "its zip has several folders"
    yield "no pickle", zipped([("x", b"x")]), DAMAGED + "a zip without data.pkl"
    double = zipped([("data.pkl", empty), ("data/0", bytes(64)), ("data/1", bytes(64))])
    yield "one name twice", double.replace(b"a/data/1", b"a/data/0"), "or has it twice"
    yield (
        "pickle twice",
        zipped([("data.pkl", empty), ("data.pkx", framed(b"]"))]).replace(b"pkx", b"pkl"),
        "has it twice",
    )
    yield "a link", linked(empty), "is not a plain file"
    yield (
        "bomb",
        zipped([("data.pkl", empty), ("data/0", bytes(10**7))], method=zipfile.ZIP_DEFLATED),
        "has the compressed",
    )
    yield "packed harder", torch_zip(empty, method=zipfile.ZIP_LZMA), "has the compressed or encrypted zip entry"
    yield "encrypted", flagged(good, 1), "has the compressed or encrypted zip entry"
    yield "wrong checksum", good.replace(empty, framed(b"]"), 1), "fails its checksum"
    yield "overlapping", overlapping(empty), "overlaps another"
    start = len(good) - 22
    yield "cut off", good[:-1], "its zip is cut off"
    yield "something behind", good + b"\0", "its zip is cut off, or something follows it"
    yield "a comment", good[:-2] + b"\1\0x", "its zip is cut off, or something follows it"
    yield "something between", good[:start] + b"x" + good[start:], "its zip has no directory at its end"
    yield "60,000 entries", good[: start + 8] + struct.pack("<2H", 60_000, 60_000) + good[start + 12 :], "no directory"
    yield "directory of 4 GiB", good[: start + 12] + b"\xff" * 4 + good[start + 16 :], "no directory at its end"
    yield "entry at 4 GiB", at_offset(good, 2**32 - 2), "lies outside of the file"
    yield "entry of 2 GiB", of_size(good, 2**31, everywhere=True), "lies outside of the file"
    yield "two sizes", of_size(good, 65), "is not what the directory says"
    yield "zip in a zip", torch_zip(torch_zip(empty)), "a pickle that does not begin with its protocol"
    yield "pickle longer than its end", torch_zip(empty + b"x"), "something follows the pickle in its zip"
    big = zipped([("data.pkl", empty), ("byteorder", b"big")])
    yield "big-endian", big, "was written on a big-endian computer"
    yield "only an end", b"PK\5\6" + bytes(18), "is not a torch checkpoint"
    yield "only a beginning", b"PK\3\4", "it ends before its zip directory"
    fake64 = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, HUGE, HUGE, HUGE, HUGE)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, start, 1)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 2**32 - 1, 2**32 - 1, 0)
    yield "zip64 of 2^40 entries", good[:start] + fake64 + locator + end, "its zip has no directory"
    yield (
        "zip64 elsewhere",
        good[:start] + struct.pack("<4sIQI", b"PK\6\7", 0, HUGE, 1) + end,
        "its zip64 directory is not",
    )


def linked(pickled: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        link = zipfile.ZipInfo("a/data/0")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    return buffer.getvalue()


def _entries(data: bytes) -> list[tuple[int, int]]:
    """(place in the directory, place in the file) of every entry."""
    count, _, at = struct.unpack("<H2I", data[-12:-2])
    found = []
    for _ in range(count):
        lengths = struct.unpack("<3H", data[at + 28 : at + 34])
        found.append((at, struct.unpack("<I", data[at + 42 : at + 46])[0]))
        at += 46 + sum(lengths)
    return found


def _with(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def flagged(data: bytes, flags: int) -> bytes:
    for listed, placed in _entries(data):
        data = _with(_with(data, listed + 8, struct.pack("<H", flags)), placed + 6, struct.pack("<H", flags))
    return data


def at_offset(data: bytes, offset: int) -> bytes:
    return _with(data, _entries(data)[1][0] + 42, struct.pack("<I", offset))


def of_size(data: bytes, size: int, *, everywhere: bool = False) -> bytes:
    listed, placed = _entries(data)[1]
    data = _with(data, listed + 20, struct.pack("<2I", size, size))
    return _with(data, placed + 18, struct.pack("<2I", size, size)) if everywhere else data


def overlapping(pickled: bytes) -> bytes:
    """Two entries in the directory share the bytes of one: the way to a bomb without compression."""
    data = zipped([("data.pkl", pickled), ("data/0", bytes(64)), ("data/1", bytes(64))])
    (_, first), (second, _) = _entries(data)[1:]
    return _with(data, second + 42, struct.pack("<I", first + 8))


def safetensors(header: Any, body: bytes = bytes(64)) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + body


def headers() -> Iterator[tuple[str, bytes, str]]:
    """.safetensors whose headers lie."""

    def one(**change: Any) -> dict[str, Any]:
        return {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64], **change}

    no_size, fault = "that of its shape", "is damaged or not a .safetensors file"
    yield "header of 2^60", struct.pack("<Q", 2**60) + b"{}" + bytes(64), fault
    yield "header longer than the file", struct.pack("<Q", 67) + b"{}" + bytes(64), fault
    yield "shape of 2^40", safetensors({"a": one(shape=[2**20, 2**20])}), no_size
    yield "shape of 2^400", safetensors({"a": one(shape=[2**200, 2**200])}), no_size
    yield "negative shape", safetensors({"a": one(shape=[-4, -4])}), no_size
    yield "shape of truth", safetensors({"a": one(shape=[True, 16])}), no_size
    yield "offset of 2^40", safetensors({"a": one(data_offsets=[HUGE, HUGE + 64])}), "overlap or have gaps"
    yield "tensors that overlap", safetensors({"a": one(), "b": one()}), "overlap or have gaps"
    yield "tensors that overlap by half", safetensors({"a": one(), "b": one(data_offsets=[32, 96])}), "overlap or have"
    yield "a gap", safetensors({"a": one(data_offsets=[4, 68])}, bytes(68)), "overlap or have gaps"
    yield "bytes left", safetensors({"a": one()}, bytes(65)), "take 64 bytes, and it has 65"
    yield "bytes missing", safetensors({"a": one()}, bytes(63)), "take 64 bytes, and it has 63"
    yield "unknown type", safetensors({"a": one(dtype="F99")}), "is of type 'F99'"
    yield "escapes in a name", safetensors({"a\x1b[2J": one()}), "is no name of a tensor"
    yield "an extra field", safetensors({"a": one(code="x")}), no_size
    double = b'{"a":' + json.dumps(one()).encode() + b',"a":' + json.dumps(one()).encode() + b"}"
    yield "a name twice", safetensors(double), "a name occurs twice"
    yield "deep", safetensors(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "its header is no JSON"
    yield "wide", safetensors(b'{"a":[' + b"[]," * 300_000 + b"[]]}"), "its header has too many parts"
    yield "no numbers", safetensors(b'{"a":NaN}'), no_size
    yield "a long number", safetensors(b'{"a":' + b"9" * 5000 + b"}"), "its header is no JSON"
    yield "no dictionary", safetensors(b"{1}"), "its header is no JSON"
    yield "of another program", safetensors({"a": one()}), "it has no tenshot header"


def corpus(nvidia: bytes, pt: bytes) -> Corpus:
    """All of them; `nvidia` and `pt` are good files to hide things in."""
    files: Corpus = {}
    for title, body, words in (*calls(), *abuses(), *sizes()):
        files[f"pkl, {title}"] = framed(body, 4), words
    for title, body, words in (*calls(), *abuses()):
        if title not in ("binpersid", "tuple of nothing", "no mark", "left over"):  # inside, the next opcode differs
            files[f"pt, {title}"] = torch_zip(framed(in_dictionary(body))), words
            files[f"old pt, {title}"] = old_torch(framed(in_dictionary(body)), [], b""), words
    for title, body, words in tensors():
        files[f"pt, {title}"] = torch_zip(framed(in_dictionary(body))), words
    files |= {f"zip, {title}": (data, words) for title, data, words in zips()}
    files |= {f"safetensors, {title}": (data, words) for title, data, words in headers()}
    files |= {f"other, {title}": (data, words) for title, data, words in others(nvidia, pt)}
    return files


def others(nvidia: bytes, pt: bytes) -> Iterator[tuple[str, bytes, str]]:
    """Old torch files, nested storages, and good files with something wrong in them."""
    evil = Reduced(os.system, "true")
    for protocol in range(6):
        words = "is not a torch checkpoint" if protocol < 2 else ASKS + "posix.system: "
        yield f"reduced, protocol {protocol}", pickle.dumps({"g_ema": evil, "d": {}}, protocol), words
    yield "reduced eval", pickle.dumps([Reduced(builtins.eval, "1")], 4), ASKS + "builtins.eval: "
    yield "reduced run", pickle.dumps((Reduced(subprocess.run, ["true"]),), 4), ASKS + "subprocess.run: "

    ends = DAMAGED + "it ends at byte"
    floats = framed(b"(" + text("storage") + name("torch", "FloatStorage") + text("7") + text("cpu") + b"K\x10NtQ")
    data = struct.pack("<q", 16) + bytes(64)
    cases: list[tuple[str, bytes, str]] = [
        ("storage of 2^40", old_torch(floats.replace(b"K\x10", number(HUGE)), ["7"], struct.pack("<q", HUGE)), ends),
        ("two sizes", old_torch(floats, ["7"], struct.pack("<q", 17) + bytes(68)), ends),
        ("negative size", old_torch(floats, ["7"], struct.pack("<q", -1) + bytes(64)), ends),
        ("no key", old_torch(floats, [], data), "are not those that its pickle names"),
        ("another key", old_torch(floats, ["8"], data), "are not those that its pickle names"),
        ("a key twice", old_torch(floats, ["7", "7"], data * 2), "are not those that its pickle names"),
        ("something behind", old_torch(floats, ["7"], data + b"x"), "1 bytes follow its storages"),
        ("another version", old_torch(floats, ["7"], data, version=1002), "unknown version or byte order"),
        ("big-endian", old_torch(floats, ["7"], data, little=False), "unknown version or byte order"),
        ("a view of a view", old_torch(floats.replace(b"N", b")"), ["7"], data), "a reference to something that is no"),
        ("code in a later pickle", old_torch(floats, [evil], data), ASKS + "posix.system: "),
    ]
    for title, content, words in cases:
        yield f"old, {title}", content, words

    def nested(content: bytes) -> bytes:
        return framed(call("torch.storage", "_load_from_bytes", b"B" + struct.pack("<I", len(content)) + content), 3)

    storage = old_torch(floats, ["7"], data)
    yield "nested storage alone", nested(storage), "holds a Storage, not the state dicts"
    yield "nested in a nested", nested(old_torch(nested(storage), [], b"")), ASKS + "torch.storage._load_from_bytes: "
    yield "nested system", nested(old_torch(framed(call("os", "system", text("true"))), [], b"")), ASKS + "os.system: "
    yield "nested dictionary", nested(old_torch(framed(b"}"), [], b"")), "holds something else"
    yield "nested text", nested(b"import os"), "is not a torch checkpoint"
    yield "nested zip of code", nested(torch_zip(framed(call("os", "system", text("true"))))), ASKS + "os.system: "
    many = b"B" + struct.pack("<I", len(storage)) + storage + b"q\x00("
    many += (name("torch.storage", "_load_from_bytes") + b"h\x00\x85R") * 20_000 + b"t"
    yield "one storage loaded 20,000 times", framed(b"(" + many + b"t", 3), MEMORY
    yield "storage of nothing", framed(call("torch.storage", "_load_from_bytes", b"N"), 3), "not stored as bytes"

    itself = b"}q\x00(" + text("_modules") + b"}" + text("again") + module_of(b"h\x00") + b"s"
    itself += text("_parameters") + b"}" + text("_buffers") + b"}u"
    tree = b"}(" + text("G_ema") + module_of(itself) + text("D") + module_of(b"h\x00") + b"u"
    yield "module in itself", framed(tree, 3), "has more modules than a StyleGAN2, or nests them deeper"
    wide = b"}(" + b"".join(text(f"m{i}") + module_of(LEAF) for i in range(600)) + b"u"
    wide = b"}(" + text("_modules") + wide + text("_parameters") + b"}" + text("_buffers") + b"}u"
    tree = b"}(" + text("G_ema") + module_of(wide) + text("D") + module_of(LEAF) + b"u"
    yield "too many modules", framed(tree, 3), "has more modules than a StyleGAN2, or nests them deeper"

    yield "good pickle with code behind", nvidia + framed(call("os", "system", text("true"))), "bytes follow its pickle"
    yield "good pickle asks for more", nvidia.replace(b"_load_from_bytes", b"_load_frxm_bytes"), ASKS + "torch.storage."
    yield "good zip in a good pickle", nvidia[:-1] + pt + b".", OPCODE
    yield "good zip of another pickle", pt.replace(b"OrderedDict", b"defaultdict"), "fails its checksum"


def module_of(state: bytes) -> bytes:
    """A persistent module."""
    meta = b"}(" + text("type") + text("class") + text("class_name") + text("Generator") + text("state") + state + b"u"
    return call(*PERSISTENT, meta)


LEAF = b"}(" + text("_modules") + b"}" + text("_parameters") + b"}" + text("_buffers") + b"}u"


def old_file(checkpoint: Any) -> bytes:
    """A good checkpoint in the format before torch 1.6."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()
