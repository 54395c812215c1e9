"""An interpreter of pickle opcodes (protocols 2 to 5, PEP 307, 3154 and 574) that only moves data about.

It knows the opcodes that pickles of state dicts and modules consist of, no others. What a pickle calls is looked up
in a table of our own builders (`allowed`). It never recurses, copies no bytes out of the file, and charges every step
to the file's budget, so a pickle that multiplies itself ends where the budget does. Keys are texts and small
integers: nothing else is hashed or compared.
"""

import struct
from collections.abc import Callable
from typing import Any

from tenshot.unpickle.allowed import TENSORFLOW, Allowed, Names
from tenshot.unpickle.reading import Reading, Record, shown

STEP = 256
"""Bytes charged for one opcode: an object, its place on the stack, in a container and in the memo."""

_LONGEST_NAME = 256
_LONGEST_INTEGER = 16

Persistent = Callable[[Any], Any]


class Machine:
    """One pickle: `data` from `at` on. After `run`, `at` is the place behind it."""

    def __init__(
        self, reading: Reading, data: memoryview, at: int, names: Names, persistent: Persistent | None = None
    ) -> None:
        self.reading, self.data, self.at = reading, data, at
        self.names, self.persistent = names, persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []  # heights of the stack
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """What the pickle describes: plain containers, text, numbers, tensors, records. Raises TenshotError."""
        if self.raw(1) != b"\x80" or self.raw(1)[0] not in (2, 3, 4, 5):
            raise self.reading.damaged("a pickle that does not begin with its protocol, 2 to 5")
        while (code := self.raw(1)[0]) != _STOP:
            step = _STEPS.get(code)
            if step is None:
                raise self.reading.refuse(
                    f"uses the pickle opcode {code:#04x} at byte {self.at - 1:,}, which no checkpoint needs, "
                    "and was not opened"
                )
            self.reading.take(STEP)
            step(self)
        result = self.pop()
        if self.stack or self.marks:
            raise self.reading.damaged("a pickle that leaves something over")
        return result

    def raw(self, count: int) -> memoryview:
        """The next bytes of the file, not copied."""
        if count > len(self.data) - self.at:
            raise self.reading.damaged(f"it ends at byte {len(self.data):,}, in the middle of a pickle")
        self.at += count
        return self.data[self.at - count : self.at]

    def integer(self, size: int) -> int:
        return int.from_bytes(self.raw(size), "little")

    def text(self, size: int) -> str:
        data = self.raw(size)
        self.reading.take(4 * size)
        try:
            return str(data, "utf-8")
        except UnicodeDecodeError:
            raise self.reading.damaged("a text that is not UTF-8") from None

    def line(self) -> str:
        """A name up to the next line break."""
        near = bytes(self.data[self.at : self.at + _LONGEST_NAME])
        if (length := near.find(b"\n")) < 0:
            raise self.reading.damaged("a name without end")
        name = self.text(length)
        self.raw(1)
        return name

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def top(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise self.reading.damaged("a pickle that takes more than it has")
        return self.stack[-1]

    def pop(self) -> Any:
        self.top()
        return self.stack.pop()

    def pop_marked(self) -> list[Any]:
        """All above the last mark."""
        if not self.marks:
            raise self.reading.damaged("a pickle that misses a mark")
        height = self.marks.pop()
        items = self.stack[height:]
        del self.stack[height:]
        return items

    def push_tuple(self, count: int) -> None:
        self.push(tuple(reversed([self.pop() for _ in range(count)])))

    def remember(self, index: int) -> None:
        self.memo[index] = self.top()

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise self.reading.damaged("a pickle that refers to nothing")
        self.push(self.memo[index])

    def append(self, items: list[Any]) -> None:
        target = self.top()
        if type(target) is not list:
            raise self.reading.damaged("something is appended to what is no list")
        target.extend(items)

    def add(self, items: list[Any]) -> None:
        target = self.top()
        if type(target) is not set:
            raise self.reading.damaged("something is added to what is no set")
        target.update(item for item in items if type(item) is str)

    def set_items(self, items: list[Any]) -> None:
        target, keys = self.top(), items[::2]
        if type(target) is not dict or len(items) % 2:
            raise self.reading.damaged("an item is set in what is no dictionary")
        if not all(type(key) is str or (type(key) is int and abs(key) < 2**31) for key in keys):
            raise self.reading.damaged("a dictionary with keys that are neither texts nor small integers")
        target.update(zip(keys, items[1::2], strict=True))

    def long(self) -> None:
        size = self.integer(1)
        if size > _LONGEST_INTEGER:
            raise self.reading.damaged(f"an integer of {size} bytes")
        self.push(int.from_bytes(self.raw(size), "little", signed=True))

    def frame(self) -> None:
        if self.integer(8) > len(self.data) - self.at:
            raise self.reading.damaged(f"it ends at byte {len(self.data):,}, in the middle of a pickle")

    def look_up(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise self.reading.damaged("a name that is no text")
        if (module, name) == TENSORFLOW:
            raise self.reading.refuse(
                "is a pickle of NVIDIA's TensorFlow era: StyleGAN1, which is another network, or StyleGAN2 before its "
                "PyTorch version; convert the latter with legacy.py of stylegan2-ada-pytorch first"
            )
        found = self.names.get((module, name))
        if found is None:
            raise self.reading.refuse(
                f"asks for {shown(f'{module}.{name}')}: it holds objects other than tensors, or code, "
                "and was not opened. Save plain state dicts under g_ema and d"
            )
        self.push(found)

    def call(self) -> None:
        """REDUCE and NEWOBJ: our builder for a name of the table, with the arguments from the file."""
        arguments, function = self.pop(), self.pop()
        if type(function) is not Allowed or function.build is None or type(arguments) is not tuple:
            raise self.reading.refuse("calls what is not to be called, and was not opened")
        self.push(function.build(self.reading, arguments))

    def build(self) -> None:
        """BUILD: the state of a record; what is set on a dictionary as an object (`_metadata`) is dropped."""
        state, target = self.pop(), self.top()
        if type(target) is Record and target.state is None:
            target.state = state
        elif type(target) is not dict or type(state) is not dict:
            raise self.reading.refuse("changes an object that is not to be changed, and was not opened")

    def persist(self) -> None:
        if self.persistent is None:
            raise self.reading.refuse("refers to storage outside of itself, and was not opened")
        self.push(self.persistent(self.pop()))


_STOP = ord(".")

_STEPS: dict[int, Callable[[Machine], None]] = {
    0x95: Machine.frame,
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("J"): lambda m: m.push(int.from_bytes(m.raw(4), "little", signed=True)),
    ord("K"): lambda m: m.push(m.integer(1)),
    ord("M"): lambda m: m.push(m.integer(2)),
    0x8A: Machine.long,
    ord("G"): lambda m: m.push(struct.unpack(">d", m.raw(8))[0]),
    ord("X"): lambda m: m.push(m.text(m.integer(4))),
    0x8C: lambda m: m.push(m.text(m.integer(1))),
    0x8D: lambda m: m.push(m.text(m.integer(8))),
    ord("B"): lambda m: m.push(m.raw(m.integer(4))),
    ord("C"): lambda m: m.push(m.raw(m.integer(1))),
    0x8E: lambda m: m.push(m.raw(m.integer(8))),
    ord("}"): lambda m: m.push({}),
    ord("]"): lambda m: m.push([]),
    ord(")"): lambda m: m.push(()),
    0x8F: lambda m: m.push(set()),
    ord("("): lambda m: m.marks.append(len(m.stack)),
    ord("t"): lambda m: m.push(tuple(m.pop_marked())),
    0x85: lambda m: m.push_tuple(1),
    0x86: lambda m: m.push_tuple(2),
    0x87: lambda m: m.push_tuple(3),
    ord("a"): lambda m: m.append([m.pop()]),
    ord("e"): lambda m: m.append(m.pop_marked()),
    ord("s"): lambda m: m.set_items([m.pop(), m.pop()][::-1]),
    ord("u"): lambda m: m.set_items(m.pop_marked()),
    0x90: lambda m: m.add(m.pop_marked()),
    ord("q"): lambda m: m.remember(m.integer(1)),
    ord("r"): lambda m: m.remember(m.integer(4)),
    0x94: lambda m: m.remember(len(m.memo)),
    ord("h"): lambda m: m.recall(m.integer(1)),
    ord("j"): lambda m: m.recall(m.integer(4)),
    ord("c"): lambda m: m.look_up(m.line(), m.line()),
    0x93: lambda m: m.look_up(*[m.pop(), m.pop()][::-1]),
    ord("R"): Machine.call,
    0x81: Machine.call,
    ord("b"): Machine.build,
    ord("Q"): Machine.persist,
}
"""Opcode -> what it does, in the order of the format's description. All others are refused."""
