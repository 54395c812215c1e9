"""The zip that a .pt is, read by ourselves, more strictly than zip programs do.

torch writes one folder of uncompressed entries behind one another. Whatever else a zip can be (compressed, encrypted,
overlapping, with links, with names that leave the folder, with names twice, with something behind) is refused.
Nothing is copied: an entry is a view of the file.
"""

import stat
import struct
import zlib
from dataclasses import dataclass

from tenshot.unpickle.reading import Reading, shown

_END, _END64, _LOCATOR = struct.Struct("<4s4H2IH"), struct.Struct("<4sQ2H2I4Q"), struct.Struct("<4sIQI")
_CENTRAL, _LOCAL = struct.Struct("<4s6H3I5H2I"), struct.Struct("<4s5H3I2H")
_MOST = 100_000  # entries
_CHARGE = 1024  # bytes an entry
_FULL = 0xFFFFFFFF  # a number that is kept in the zip64 field instead


@dataclass(frozen=True)
class _Entry:
    name: str
    at: int
    size: int
    crc: int


def entries(reading: Reading, data: memoryview) -> dict[str, memoryview]:
    """The entries of a zip that torch wrote, name without the common folder -> content. Raises TenshotError."""
    found: dict[str, memoryview] = {}
    folders, behind = set(), 0
    for entry in sorted(_directory(reading, data), key=lambda entry: entry.at):
        if entry.at < behind:
            raise reading.damaged(f"the zip entry {shown(entry.name)} overlaps another")
        content, behind = _content(reading, data, entry)
        folder, slash, name = entry.name.partition("/")
        if not slash or not _is_plain(entry.name) or name in found:
            raise reading.damaged(f"the zip entry {shown(entry.name)} has no name that torch gives, or has it twice")
        if zlib.crc32(content) != entry.crc:
            raise reading.damaged(f"the zip entry {shown(entry.name)} fails its checksum")
        folders.add(folder)
        found[name] = content
    if len(folders) > 1:
        raise reading.damaged("its zip has several folders")
    return found


def _is_plain(name: str) -> bool:
    parts = name.split("/")
    return name.isprintable() and "\\" not in name and not {"", ".", ".."} & set(parts)


def _directory(reading: Reading, data: memoryview) -> list[_Entry]:
    """What the directory at the end of the zip lists."""
    count, size, at, end = _directory_bounds(reading, data)
    if at + size != end or count > _MOST or count * _CENTRAL.size > size:
        raise reading.damaged("its zip has no directory at its end, where torch writes it")
    reading.take(_CHARGE * count)
    listed = []
    for _ in range(count):
        entry, at = _listed(reading, data[:end], at)
        listed.append(entry)
    if at != end:
        raise reading.damaged("its zip directory is longer than its entries")
    return listed


def _directory_bounds(reading: Reading, data: memoryview) -> tuple[int, int, int, int]:
    """(number of entries, bytes, first byte, byte behind the last) of the directory."""
    end = len(data) - _END.size
    if end < 0:
        raise reading.damaged("it ends before its zip directory")
    mark, disk, first, here, count, size, at, comment = _END.unpack(data[end:])
    if mark != b"PK\5\6" or disk or first or here != count or comment:
        raise reading.damaged("its zip is cut off, or something follows it")
    locator = end - _LOCATOR.size
    if locator < 0 or data[locator : locator + 4] != b"PK\6\7":
        return count, size, at, end
    _, disk, at64, disks = _LOCATOR.unpack(data[locator:end])
    if disk or disks != 1 or at64 + _END64.size != locator:
        raise reading.damaged("its zip64 directory is not where it should be")
    mark, length, _, _, disk, first, here64, count64, size64, at_first = _END64.unpack(data[at64:locator])
    if mark != b"PK\6\6" or length != _END64.size - 12 or disk or first or here64 != count64:
        raise reading.damaged("its zip64 directory is broken")
    if count not in (count64, 0xFFFF) or size not in (size64, _FULL) or at not in (at_first, _FULL):
        raise reading.damaged("its two zip directories disagree")
    return count64, size64, at_first, at64


def _listed(reading: Reading, data: memoryview, at: int) -> tuple[_Entry, int]:
    """One line of the directory, and where the next begins."""
    if at + _CENTRAL.size > len(data):
        raise reading.damaged("its zip directory is cut off")
    fields = _CENTRAL.unpack(data[at : at + _CENTRAL.size])
    mark, _, _, flags, method, _, _, crc, packed, size, name_size, extra_size, note_size = fields[:13]
    disk, _, mode, start = fields[13:]
    name_at = at + _CENTRAL.size
    extra_at = name_at + name_size
    behind = extra_at + extra_size + note_size
    if mark != b"PK\1\2" or behind > len(data):
        raise reading.damaged("its zip directory is broken")
    reading.take(4 * name_size)
    try:
        name = str(data[name_at:extra_at], "utf-8")
    except UnicodeDecodeError:
        raise reading.damaged("a zip entry whose name is not UTF-8") from None
    size, packed, start = _wide(reading, data[extra_at : extra_at + extra_size], [size, packed, start])
    kind = stat.S_IFMT(mode >> 16)
    if flags & 1 or method or packed != size:
        raise reading.refuse(
            f"has the compressed or encrypted zip entry {shown(name)}, as torch writes none, and was not opened"
        )
    if disk or kind not in (0, stat.S_IFREG) or note_size:
        raise reading.damaged(f"the zip entry {shown(name)} is not a plain file")
    return _Entry(name, start, size, crc), behind


def _wide(reading: Reading, extra: memoryview, values: list[int]) -> list[int]:
    """Sizes and place of an entry; those too large for 32 bits are in its zip64 field."""
    missing = [i for i, value in enumerate(values) if value == _FULL]
    while missing and len(extra) >= 4:
        kind, length = struct.unpack("<2H", extra[:4])
        body, extra = extra[4 : 4 + length], extra[4 + length :]
        if kind == 1 and len(body) >= 8 * len(missing):
            for k, i in enumerate(missing):
                values[i] = int.from_bytes(body[8 * k : 8 * k + 8], "little")
            return values
    if missing:
        raise reading.damaged("a zip entry without its size")
    return values


def _content(reading: Reading, data: memoryview, entry: _Entry) -> tuple[memoryview, int]:
    """An entry's bytes, and where the next entry may begin at the earliest."""
    body = entry.at + _LOCAL.size
    if body > len(data):
        raise reading.damaged(f"the zip entry {shown(entry.name)} lies outside of the file")
    mark, _, flags, method, _, _, crc, packed, size, name_size, extra_size = _LOCAL.unpack(data[entry.at : body])
    name = bytes(data[body : body + name_size])
    at = body + name_size + extra_size
    is_later = bool(flags & 8)  # sizes and checksum follow the content
    agrees = is_later or ({packed, size} <= {entry.size, _FULL} and crc == entry.crc)
    if mark != b"PK\3\4" or method or flags & 1 or name != entry.name.encode() or not agrees:
        raise reading.damaged(f"the zip entry {shown(entry.name)} is not what the directory says")
    if entry.size > len(data) - at:
        raise reading.damaged(f"the zip entry {shown(entry.name)} lies outside of the file")
    return data[at : at + entry.size], at + entry.size
