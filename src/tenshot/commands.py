"""Commands that a user copies into a shell."""

import shlex
from os import PathLike


def argument(path: str | PathLike[str]) -> str:
    """A path as a command takes it: quoted for a shell, and no option where its name begins with a hyphen."""
    name = str(path)
    return shlex.quote(f"./{name}" if name.startswith("-") else name)
