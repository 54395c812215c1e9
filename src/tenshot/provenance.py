"""What must stay the same between the parts of a run, for the header of its checkpoints."""

import hashlib
import json
from typing import Any

import torch
from torch import Tensor

from tenshot.adaptation import Adaptation
from tenshot.config import differences, parse_config
from tenshot.errors import TenshotError
from tenshot.models import source_digest

PLACES = ("source", "shots", "eval_real")
"""Settings that say where something lies, as a method's `places` do. A run may go on when that has moved: what lies
there has a hash."""


def provenance(adaptation: Adaptation) -> dict[str, Any]:
    """Hashes of source, shots and what else the method reads, all settings, and what the last bits depend on: threads
    and kind of device."""
    further = adaptation.method.digest(adaptation.nets.generator.spec.resolution)
    return {
        **({"pairs": further} if further else {}),
        "source": source_digest(adaptation.config.source),
        "settings": json.loads(adaptation.config.to_json()),
        "shots": shots_digest(adaptation.shots),
        "threads": torch.get_num_threads(),
        "device": adaptation.nets.generator.latent_avg.device.type,
    }


def shots_digest(shots: Tensor) -> str:
    """sha256 of uint8 `[k 3 r r]`."""
    return hashlib.sha256(shots.contiguous().numpy().data).hexdigest()  # .data: no copy of them


def changes(now: dict[str, Any], before: dict[str, Any]) -> dict[str, str]:
    """What of source, settings and shots is no longer what a checkpoint's header says, and how settings differ.

    `{"settings": " (batch: 2 now, 4 before)"}`; empty where the run can go on.
    """
    settings = [_compared(each.get("settings")) for each in (now, before)]
    found = {what: "" for what in ("source", "shots") if now.get(what) != before.get(what)}
    if "pairs" in now and "pairs" in before and now["pairs"] != before["pairs"]:
        found["pairs"] = ""
    if settings[0] != settings[1]:
        told = differences(*settings)
        found["settings"] = f" ({'; '.join(told)})" if told else ""
    return found


def _compared(settings: Any) -> Any:
    """Without places, and those that are newer than the checkpoint at their defaults; as they are if they make none."""
    if not isinstance(settings, dict):
        return settings
    try:
        config = parse_config(settings)
    except TenshotError:
        return settings
    values = json.loads(config.to_json())
    for place in config.method.places:
        del values[config.method.name][place]
    return {name: value for name, value in values.items() if name not in PLACES}
