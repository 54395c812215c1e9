"""Reads files while an audit hook watches, in a process of its own because a hook cannot be taken away.

    python guarded.py convert GOOD... -- BAD...    what `convert` says of each bad file, and of each good file cut off
                                                   at every kilobyte, as JSON
    python guarded.py unpickle -- BAD...           what Python's own unpickler does

Good files are converted first, unwatched, so that whatever Python and torch load on first use is there. Then the only
event allowed is opening the very file for reading.
"""

import importlib
import json
import os
import pickle
import resource
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from tenshot.errors import TenshotError

ROOM = 2**30  # bytes of address space above what is in use before the first hostile file
HARMLESS = {"object.__getattr__", "object.__setattr__", "object.__delattr__"}
seen: list[str] = []
watched: str | None = None


class Forbidden(BaseException):
    """Not an Exception, so that no `except Exception` hides it."""


def watch(event: str, arguments: tuple) -> None:
    if watched is None or event in HARMLESS:
        return
    is_the_file = event == "open" and arguments[0] == watched and arguments[1] in ("r", "rb", None)
    if is_the_file and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        return
    if event == "pickle.find_class" and sys.argv[1] == "unpickle":
        return  # what matters there is what comes next
    seen.append(event)
    raise Forbidden(event)


def told(action, path: str) -> str:
    """The sentence that refuses a file, or what went wrong, after an exclamation mark."""
    global watched
    seen.clear()
    watched = path
    try:
        action()
    except TenshotError as error:
        sentence = str(error)
    except Forbidden as error:
        sentence = f"!{error}"
    except BaseException as error:
        watched = None
        sentence = f"!{type(error).__name__}: {error}\n{traceback.format_exc()[-600:]}"
    else:
        sentence = "!accepted"
    watched = None
    return f"!{','.join(seen)}" if seen else sentence


def unpickled(bad: list[str]) -> Iterator[tuple[str, str]]:
    for name in ("ctypes", "encodings.idna", "runpy", "shutil", "socket", "subprocess", "webbrowser"):
        importlib.import_module(name)  # so that what is seen is what comes after the import

    def unpickle(path: str) -> None:
        with open(path, "rb") as file:
            pickle.load(file)

    sys.addaudithook(watch)
    yield from ((path, told(lambda path=path: unpickle(path), path)) for path in bad)


def converted(good: list[str], bad: list[str]) -> Iterator[tuple[str, str]]:
    from tenshot.convert import convert, model_of
    from tenshot.unpickle import read

    contents = {path: Path(path).read_bytes() for path in good}
    for path in good:
        convert(Path(path))
    told(lambda: convert(Path(bad[0])), bad[0])
    in_use = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + ROOM, in_use + ROOM))
    sys.addaudithook(watch)
    yield from ((path, told(lambda path=path: convert(Path(path)), path)) for path in bad)
    for path, data in contents.items():
        for cut in range(0, len(data), 1024):
            action = lambda data=data, cut=cut, path=path: model_of(read(data[:cut], path), Path(path))  # noqa: E731
            yield f"{path}[:{cut}]", told(action, path)


def main() -> None:
    mode, *paths = sys.argv[1:]
    good, bad = paths[: paths.index("--")], paths[paths.index("--") + 1 :]
    print(json.dumps(dict(unpickled(bad) if mode == "unpickle" else converted(good, bad))))


if __name__ == "__main__":
    main()
