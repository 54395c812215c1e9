"""Milliseconds per image of ONNX files in onnxruntime against the same generator in torch, taking turns.

    python benchmarks/speed/onnx.py MODEL FILE.onnx [FILE.onnx ...] [--batches 1 8] [--rounds 30] [--threads N]

Files are those of `tenshot export MODEL --format onnx`, with z and truncation as inputs. Prints one JSON line:
medians and quartiles of the rounds, by batch, and how long onnxruntime takes to open each file.
"""

import argparse
import json
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from tenshot.bench.machine import facts
from tenshot.models import load_model
from tenshot.randomness import generator_for
from tenshot.sampling import latents


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    generator = load_model(flags.model).generator.eval()
    noise = generator.draw_noise(1, generator_for(0, "noise"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = flags.threads
    sessions, opening = {}, {}
    for path in flags.files:
        start = time.perf_counter()
        sessions[path.name] = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        opening[path.name] = round(1000 * (time.perf_counter() - start), 1)

    def in_torch(z):
        w = generator.truncate(generator.map(z), 0.8)
        generator.synthesise(generator.spread(w), [layer.expand(len(z), -1, -1, -1) for layer in noise])

    def in_onnxruntime(session):
        return lambda z: session.run(None, {"z": z.numpy(), "truncation": np.array(0.8, np.float32)})

    ways = {"torch": in_torch, **{name: in_onnxruntime(session) for name, session in sessions.items()}}
    found = {}
    with torch.no_grad():
        for batch in flags.batches:
            z = latents(range(batch), generator.spec.latent_size)
            taken = {name: [] for name in ways}
            for k in range(flags.rounds + 3):
                for name, way in ways.items():
                    start = time.perf_counter()
                    way(z)
                    if k >= 3:  # the first rounds prepare kernels and memory
                        taken[name].append(1000 * (time.perf_counter() - start) / batch)
            found[batch] = {
                name: [round(x, 3) for x in (statistics.median(times), *np.quantile(times, [0.25, 0.75]))]
                for name, times in taken.items()
            }
    told = {"milliseconds an image: median, quartiles": found, "opening, ms": opening, "threads": flags.threads}
    print(json.dumps({**told, "onnxruntime": version("onnxruntime"), "rounds": flags.rounds, **facts()}))


if __name__ == "__main__":
    main()
