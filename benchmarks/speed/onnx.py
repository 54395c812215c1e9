"""Milliseconds per image of ONNX files in onnxruntime against the same generator in torch, taking turns.

    python -m benchmarks.speed.onnx MODEL FILE.onnx [FILE.onnx ...] [--batches 1 8] [--rounds 30] [--threads N]

Files are those of `tenshot export MODEL --format onnx`, with z and truncation as inputs.
"""

import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.speed.measure import machine, on_threads, parser, publish, ratios, read, spread, take_turns
from tenshot.models import load_model
from tenshot.nets import Generator
from tenshot.onnx_export import onnx_runtime
from tenshot.randomness import generator_for
from tenshot.sampling import latents


def sessions_of(files: Sequence[Path], threads: int) -> tuple[dict[str, Any], dict[str, float]]:
    """onnxruntime's sessions by file name, and the milliseconds that opening each took."""
    runtime = onnx_runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    sessions, opening = {}, {}
    for path in files:
        start = time.perf_counter()
        sessions[path.name] = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        opening[path.name] = round(1000 * (time.perf_counter() - start), 1)
    return sessions, opening


@torch.no_grad()
def times_of(generator: Generator, sessions: dict[str, Any], batch: int, rounds: int) -> dict[str, list[float]]:
    noise = generator.draw_noise(1, generator_for(0, "noise"))
    z = latents(range(batch), generator.spec.latent_size)

    def in_torch():
        w = generator.truncate(generator.map(z), 0.8)
        generator.synthesise(generator.spread(w), [layer.expand(len(z), -1, -1, -1) for layer in noise])

    def in_onnxruntime(session):
        return lambda: session.run(None, {"z": z.numpy(), "truncation": np.array(0.8, np.float32)})

    return take_turns({"torch": in_torch, **{name: in_onnxruntime(s) for name, s in sessions.items()}}, rounds)


def main(arguments: Sequence[str] | None = None) -> None:
    made = parser(__doc__ or "", rounds=30, threads=(torch.get_num_threads(),))
    made.add_argument("model")
    made.add_argument("files", nargs="+", type=Path)
    made.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    flags = read(made, arguments)
    flags.source = flags.model
    before, rows, generator = machine(), [], load_model(flags.model).generator.eval()
    for threads in flags.threads:
        sessions, opening = sessions_of(flags.files, threads)
        with on_threads(threads):
            for batch in flags.batches:
                taken = times_of(generator, sessions, batch, flags.rounds)
                rows += [
                    {
                        "threads": threads,
                        "batch": batch,
                        "way": name,
                        "ms": spread(times, 1000 / batch),
                        "over torch": ratios(times, taken["torch"]),
                        "opening ms": opening.get(name),
                    }
                    for name, times in taken.items()
                ]
    publish("onnx", flags, rows, onnxruntime=version("onnxruntime"), machine=before)


if __name__ == "__main__":
    main()
