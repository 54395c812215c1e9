"""A finished generator made smaller for use elsewhere, and the proof of what that gained and changed.

load ----> cut what is pruned ------------------------> guard: not slower ----> file, proof
   \\-----> cut more (shrink, mend) ----> fine-tune (distil) ----> scores -----/
"""

import copy
import json
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tenshot.bench.machine import facts
from tenshot.compact import MULTIPLE, blocks, compact, kept_channels, layers_of, silent_channels
from tenshot.distil import Distillation, distil_
from tenshot.errors import TenshotError
from tenshot.files import write_atomically
from tenshot.mend import mended
from tenshot.metrics import METRICS, efflite, score
from tenshot.models import Model, file_digest
from tenshot.nets import Generator
from tenshot.proof import BATCHES, NOISE, milliseconds, pixel_differences, size
from tenshot.rounding import stored_as
from tenshot.sampling import generate
from tenshot.settings import check_types, require
from tenshot.shrink import choose, sensitivity
from tenshot.watch import Watch

METRIC = "fd_efflite_2k"
"""What fine-tuning is judged by."""

DTYPES = {"float32": torch.float32, "float16": torch.float16}
"""Of the numbers in a file."""

Speeds = dict[int, list[float]]
"""By batch, milliseconds per image: the uncut generator's, then the cut one's."""


@dataclass(frozen=True)
class Cut:
    """How much is cut, and what follows."""

    target_ratio: float = 0.0
    """Share of all channels to cut, pruned ones included; 0 = only what is pruned, and no pixel changes."""
    multiple: int = MULTIPLE
    """Kept channels of a layer are filled up to a multiple of this with silent ones."""
    min_alive: int = 4
    """Channels of a layer that always stay."""
    distillation: Distillation = Distillation()
    """The fine-tuning after `target_ratio` has cut living channels."""

    def __post_init__(self) -> None:
        check_types(self)
        require(self, "", "target_ratio", 0 <= self.target_ratio < 1, "a share, at least 0 and below 1")
        require(self, "", "multiple", self.multiple >= 1, "at least 1")
        require(self, "", "min_alive", self.min_alive >= 1, "at least 1")


@dataclass
class Compacted:
    """A generator and its smaller twin."""

    dense: Generator
    small: Generator
    """`dense` itself where nothing could be cut."""
    speeds: Speeds
    notes: list[str] = field(default_factory=list)
    """What a user should know, in sentences."""
    finetune: dict[str, Any] | None = None
    """What fine-tuning did, for the proof; None without."""


def compacted(
    model: Model, cut: Cut, *, real: Tensor | None = None, watch: Watch | None = None, scores: bool = True
) -> Compacted:
    """Cut a model's generator, which stays as it is; on a machine where it would be slower, less is cut or nothing.

    real: held-out images uint8 `[n 3 r r]` to judge a fine-tuned generator by; None = images of the uncut one. scores:
    whether to judge it at all. Raises TenshotError.
    """
    dense = model.generator
    share = 1 - sum(int((block.gate != 0).sum()) for _, block in blocks(dense)) / sum(dense.spec.outputs)
    if cut.target_ratio > share:
        return _shrunk(dense, cut, real, watch, scores)
    found = _guarded(dense, cut.multiple)
    if cut.target_ratio:
        found.notes.insert(0, f"{share:.1%} of the channels are gone already, so there is nothing to fine-tune")
    return found


def _guarded(dense: Generator, multiple: int) -> Compacted:
    """What is pruned cut out, in coarser and coarser multiples until the machine is not slower than before."""
    if not (silent := sum(map(len, silent_channels(dense).values()))):
        return Compacted(dense, dense, {}, ["there is nothing to cut: no channel of the generator is pruned"])
    notes: list[str] = []
    before = None
    for step in (multiple, *(2**k for k in range(3, 11) if 2**k > multiple)):
        kept = kept_channels(dense, step)
        counts = [len(indices) for indices in kept.values()]
        if counts == before:
            continue
        before = counts
        small = compact(dense, kept)
        if small.spec == dense.spec:
            break
        speeds = _speeds(dense, small)
        if not _is_slower(speeds):
            return Compacted(dense, small, speeds, notes)
        notes.append(f"with {sum(counts)} channels it is slower here than uncut ({_told(speeds)}): less is cut")
    notes.append(
        f"nothing is cut, {silent} pruned channels stay: "
        + ("it would be slower here" if notes else "no layer has lost a multiple of channels; --multiple 1 cuts any")
    )
    return Compacted(dense, dense, {}, notes)


def _shrunk(dense: Generator, cut: Cut, real: Tensor | None, watch: Watch | None, scores: bool) -> Compacted:
    """Cut to `target_ratio` by sensitivity, mended, fine-tuned by distillation, and judged."""
    judge = _Judge(dense, real, watch) if scores else None
    importance = sensitivity(dense, watch=watch)
    kept = choose(importance, dense, cut.target_ratio, multiple=cut.multiple, min_alive=cut.min_alive)
    small = mended(dense, kept, watch=watch)
    if small.spec == dense.spec:
        raise TenshotError(
            f"--target-ratio {cut.target_ratio:g} cuts nothing here: every layer would lose less than a multiple of "
            "channels; give a higher ratio, or --multiple 1"
        )
    speeds = _speeds(dense, small)
    if _is_slower(speeds):
        raise TenshotError(f"cut to --target-ratio {cut.target_ratio:g} it is slower here than uncut ({_told(speeds)})")
    ratio = 1 - sum(small.spec.kept) / sum(small.spec.outputs)
    told: dict[str, Any] = {"target_ratio": cut.target_ratio, "ratio": ratio}
    if judge:
        told["scores"] = {"against": judge.against, "metric": METRIC, "uncut": judge(dense), "cut": judge(small)}
    started = time.perf_counter()
    losses = distil_(small, dense, kept, cut.distillation, watch)
    told |= {"steps": cut.distillation.steps, "lr": cut.distillation.lr, "batch": cut.distillation.batch}
    told |= {"features": cut.distillation.features}
    told |= {"seconds": round(time.perf_counter() - started, 1), "loss": losses[:1] + losses[-1:]}
    if judge:
        told["scores"]["tuned"] = judge(small)
    notes: list[str] = []
    if ratio < cut.target_ratio - 0.02:
        notes.append(f"{ratio:.1%} of the channels are cut, not {cut.target_ratio:.1%}: the others must stay")
    return Compacted(dense, small, speeds, notes, told)


class _Judge:
    """`METRIC` of generators' images, seeds 0, 1, ..., against the same images every time."""

    def __init__(self, dense: Generator, real: Tensor | None, watch: Watch | None) -> None:
        n = METRICS[METRIC].n
        self.against = "held-out images" if real is not None else "the uncut generator's own images of other seeds"
        self.reals = torch.cat(list(generate(dense, range(n, 2 * n)))) if real is None else real
        self.extractor = {"efflite": efflite.load()}
        self.watch = watch

    def __call__(self, generator: Generator) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # fewer held-out images than the name promises: as many at each look
            fakes = generate(generator, range(METRICS[METRIC].n))
            result = score(fakes, self.reals, None, [METRIC], extractors=self.extractor, watch=self.watch)
        return float(result[METRIC]["value"])


def _speeds(dense: Generator, small: Generator) -> Speeds:
    return {batch: milliseconds([dense, small], batch) for batch in BATCHES}


def _is_slower(speeds: Speeds) -> bool:
    return any(after > before * NOISE for before, after in speeds.values())


def _told(speeds: Speeds) -> str:
    return ", ".join(
        f"{after:.2f} ms an image, not {before:.2f}, at batch {n}" for n, (before, after) in speeds.items()
    )


def as_stored(generator: Generator, dtype: str) -> Generator:
    """The generator as it comes back from a file of `dtype`: its numbers rounded. A copy."""
    copied = copy.deepcopy(generator)
    for name, tensor in copied.state_dict().items():
        tensor.copy_(stored_as(tensor.cpu(), DTYPES[dtype], f"generator.{name}"))
    return copied


def prove(
    found: Compacted, name: str, out: Path, dtype: str, *, latents: int, watch: Watch | None = None
) -> dict[str, Any]:
    """What a file that has been written holds, measured, fit for JSON. name: the model it was made from.

    Pixels are those of a model file's rounded numbers; of an ONNX file those of the cut alone, since what its dtype
    changes is in the proof of its own (`onnx_export.proof_path`).
    """
    stored = as_stored(found.small, "float32" if out.suffix == ".onnx" else dtype)
    dense, small = size(found.dense), size(stored)
    return {
        "model": name,
        "file": {
            "name": out.name,
            "sha256": file_digest(out),
            "bytes": out.stat().st_size,
            "dtype": dtype,
        },
        "channels": {
            block: {"designed": n, "alive": a, "kept": k} for block, n, a, k in layers_of(found.dense, stored)
        },
        "uncut": dense,
        "compact": small,
        "milliseconds": {str(n): {"uncut": a, "compact": b} for n, (a, b) in found.speeds.items()},
        "pixels": pixel_differences(found.dense, stored, latents, watch),
        "finetune": found.finetune,
        "notes": found.notes,
        "threads": torch.get_num_threads(),
        **facts(),
    }


def cut_proof_path(path: Path) -> Path:
    """FILE.proof.json of FILE.safetensors, FILE.onnx.proof.json of FILE.onnx."""
    return path.with_name(f"{path.name.removesuffix('.safetensors')}.proof.json")


def write_proof(proof: dict[str, Any], out: Path) -> Path:
    """Beside the file, as `cut_proof_path` says; its path. Raises TenshotError."""
    path = cut_proof_path(out)
    write_atomically(path, (json.dumps(proof, indent=2) + "\n").encode())
    return path
