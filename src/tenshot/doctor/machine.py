"""What tenshot runs on: processors, memory, bfloat16, decoders of images, locks, and the sources that ship with it."""

import os
import re
from pathlib import Path

import torch
from PIL import features
from torch.nn import functional as F

from tenshot import lock
from tenshot.doctor.finding import Finding, fault, ok, warning
from tenshot.errors import TenshotError
from tenshot.models import EMBEDDED, file_digest, load_model
from tenshot.sampling import synthesise

HASHES = EMBEDDED / "SHA256SUMS"
"""What `sha256sum *.safetensors` printed where the sources were made."""

ENOUGH = 1.5
"""GiB. A run of the embedded source at batch 4 takes 1."""

_MEMORY = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_LIMITS = {"memory.max": "memory.current", "memory/memory.limit_in_bytes": "memory/memory.usage_in_bytes"}
"""A container's limit and what is used of it, versions 2 and 1."""
_PROCESSOR = Path("/proc/cpuinfo")
_DECODERS = {"zlib": "PNG", "jpg": "JPEG", "webp": "WebP"}


def check_machine() -> list[Finding]:
    """All but the packages, in a second or two."""
    return [_threads(), _memory(), _bfloat16(), _decoders(), _locks(), *check_sources(EMBEDDED, HASHES)]


def _threads() -> Finding:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    told = f"torch uses {threads} thread{'s' * (threads != 1)}, {usable} of {os.cpu_count()} CPUs can be used"
    if threads > usable:
        return warning("threads", f"{told}: more threads than CPUs are slow; set OMP_NUM_THREADS={usable}")
    return ok("threads", told)


def _memory() -> Finding:
    free = free_memory()
    if free is None:
        return ok("memory", "this system does not tell how much is free")
    if free < ENOUGH * 2**30:
        return warning(
            "memory",
            f"{free / 2**30:.1f} GiB are free, and a run of the embedded source takes about 1: end other programs, or "
            "give --micro-batch 1",
        )
    return ok("memory", f"{free / 2**30:.1f} GiB are free")


def free_memory() -> int | None:
    """Bytes a process can get, as far as the system or its container's limit tells; None where they do not."""
    found = []
    for limit, usage in _LIMITS.items():
        most, used = (_text(_CGROUP / name).strip() for name in (limit, usage))
        if most.isdecimal():
            found.append(max(0, int(most) - (int(used) if used.isdecimal() else 0)))
    if match := re.search(r"^MemAvailable: +(\d+) kB$", _text(_MEMORY), re.MULTILINE):
        found.append(1024 * int(match[1]))
    return min(found, default=None)


def _bfloat16() -> Finding:
    """Whether it works, and whether it pays (docs/architecture.md has the figures)."""
    x = torch.linspace(-1, 1, 2 * 8 * 8).view(1, 2, 8, 8)
    weight = torch.linspace(0, 1, 2 * 2 * 3 * 3).view(2, 2, 3, 3)
    wide = F.conv2d(x, weight)
    try:
        narrow = F.conv2d(x.bfloat16(), weight.bfloat16()).float()
    except RuntimeError as error:
        return warning("bfloat16", f"torch cannot convolve in it here ({error}): leave out --precision bfloat16")
    if not (narrow - wide).abs().max() <= 0.02 * wide.abs().max():
        return warning("bfloat16", "it is wrong by more than it may be: leave out --precision bfloat16")
    flags = set(_text(_PROCESSOR).split())
    if "amx_bf16" in flags:
        return ok("bfloat16", "it works, and this CPU has AMX: --precision bfloat16 makes steps faster")
    if "avx512_bf16" in flags:
        return ok("bfloat16", "it works, and this CPU has instructions for it, though no AMX: try both precisions")
    return ok("bfloat16", "it works; nothing says that this CPU has AMX, without which float32 is usually faster")


def _decoders() -> Finding:
    if missing := [name for key, name in _DECODERS.items() if not features.check(key)]:
        return fault("images", f'Pillow was built without {", ".join(missing)}: pip install --force-reinstall "pillow"')
    return ok("images", f"Pillow reads {', '.join(_DECODERS.values())}")


def _locks() -> Finding:
    if lock.fcntl is None:
        return warning("locks", "this system has none of the kind that tenshot uses: let one process work on a run")
    return ok("locks", "two processes cannot work on one run")


def check_sources(folder: Path, hashes: Path) -> list[Finding]:
    """The embedded sources: there, unchanged, loadable, and what they draw is finite."""
    lines = re.findall(r"^([0-9a-f]{64})  (\S+)\.safetensors$", _text(hashes), re.MULTILINE)
    published = {name: digest for digest, name in lines}
    if not published:
        return [fault("sources", f"{hashes} is missing or damaged: install tenshot again")]
    return [
        _source(folder, name, published.get(name))
        for name in sorted({*published, *(p.stem for p in folder.glob("*.safetensors"))})
    ]


def _source(folder: Path, name: str, published: str | None) -> Finding:
    path, check = folder / f"{name}.safetensors", f"source {name}"
    if not path.is_file():
        return fault(check, f"{path} is missing: install tenshot again")
    try:
        digest, model = file_digest(path), load_model(path)
    except TenshotError as error:
        return fault(check, f"{error}; install tenshot again")
    if digest != published:
        was = f"the published one is {published}" if published else "none was published"
        return fault(check, f"the sha256 of {path} is {digest}, {was}: install tenshot again")
    (image,) = synthesise(model.generator, [0], batch=1)
    if not torch.isfinite(image).all() or image.std() < 0.01:
        return fault(check, "what it draws is not finite, or empty: torch computes wrongly here; install it again")
    size = f"{model.resolution} px, {path.stat().st_size / 1e6:.1f} MB"
    return ok(check, f"{size}, sha256 as published, draws finite images")


def _text(path: Path) -> str:
    """A small file of the system; nothing where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
