"""How long `tenshot --help` and `import tenshot` take in a fresh process, and that torch is not imported.

python -m benchmarks.speed.startup
"""

import subprocess
import sys
from collections.abc import Sequence

from benchmarks.speed.measure import ROOT, machine, parser, publish, read, spread, take_turns

COMMANDS = {
    "python alone": ["-c", "pass"],
    "import tenshot": ["-c", "import tenshot"],
    "tenshot --help": ["-m", "tenshot", "--help"],
}
_HELP = "import sys, tenshot.__main__ as shell; shell.main(['--help']); "
_LOADED = "print('torch' in sys.modules, file=sys.stderr)"
IMPORTS = {
    "import tenshot": f"import sys, tenshot; {_LOADED}",
    "tenshot --help": _HELP + _LOADED,
}


def run(arguments: Sequence[str]) -> str:
    """What a fresh Python writes to stderr. Raises CalledProcessError."""
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stderr.strip()


def main(arguments: Sequence[str] | None = None) -> None:
    flags = read(parser(__doc__ or "", rounds=15), arguments)
    before = machine()
    taken = take_turns({name: lambda command=command: run(command) for name, command in COMMANDS.items()}, flags.rounds)
    imports = {name: run(["-c", code]).splitlines()[-1] == "True" for name, code in IMPORTS.items()}
    rows = [
        {"command": name, "ms": spread(times, 1000), "imports torch": imports.get(name, False)}
        for name, times in taken.items()
    ]
    publish("startup", flags, rows, machine=before)


if __name__ == "__main__":
    main()
