"""What a new run replaces: set aside in its folder until the new one has a checkpoint, put back if it gets none.

.moving      on its way aside or back: some files are here, the others in their places; a kill here is put back
.replaced    all of the run before
.dropped     on its way out
"""

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tenshot.files import told_as_sentence

NAMES = (".moving", ".replaced", ".dropped")


class Aside:
    """The run before, in the folder of the new one. Whoever calls these holds the folder's lock."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        """names: of the files and folders that make a run, the one without which it is none first."""
        self.folder, self.names = folder, names
        self.moving, self.replaced, self.dropped = (folder / name for name in NAMES)

    @property
    def is_there(self) -> bool:
        return os.path.isdir(self.replaced)

    @property
    def holds(self) -> bool:
        """Whether anything of the run before is here, all or some of it."""
        return self.is_there or os.path.isdir(self.moving)

    def set(self) -> None:
        """All files of the run in the folder go aside, or none. Raises TenshotError."""
        with told_as_sentence("set aside the run in", self.folder):
            try:
                self.moving.mkdir()
                _move(self.names, self.folder, self.moving)
                self.moving.rename(self.replaced)
            except BaseException:
                self._arrive()
                raise

    def put_back(self) -> None:
        """The run before takes its place again, where nothing of a newer one may lie any more. Raises TenshotError."""
        with told_as_sentence("put back the run in", self.folder):
            self.replaced.rename(self.moving)
            self._arrive()

    def drop(self) -> None:
        """The run before is not needed any more; what cannot be deleted now is at the next start."""
        with suppress(OSError):
            self.replaced.rename(self.dropped)
        shutil.rmtree(self.dropped, ignore_errors=True)

    def mend(self) -> None:
        """Bring to an end what a killed process had begun. Raises TenshotError."""
        with told_as_sentence("put back the run in", self.folder):
            if os.path.isdir(self.moving):
                self._arrive()
        shutil.rmtree(self.dropped, ignore_errors=True)

    def _arrive(self) -> None:
        if os.path.isdir(self.moving):
            _move(self.names[::-1], self.moving, self.folder)
            self.moving.rmdir()


def _move(names: Sequence[str], here: Path, there: Path) -> None:
    for name in names:
        if os.path.lexists(here / name):
            os.rename(here / name, there / name)
