"""Teach a source's generator to draw images from their latents, without a discriminator: what is where, quickly.

    python distil_pairs.py SOURCE PAIRS OUT --steps 3000 [--lr 0.003] [--fall 0]

SOURCE: a model file. PAIRS: as `tenshot pretrain --pretrain.pairs` takes them, truncated to 0.8. OUT: a model file, the
average of the last hundred steps or so; its discriminator is SOURCE's. Loss: mean absolute differences at 32, 16 and
8 px, so grain is lost; `tenshot pretrain` with `--pretrain.pair-coarse` brings it back. Prints the loss of each part
of the run, divided by three.
"""

import argparse
import copy
from dataclasses import replace
from pathlib import Path

import torch

import tenshot
from tenshot.distil import halved, pyramid_distance
from tenshot.pairs import load_pairs

BATCH, TRUNCATION, AVERAGE, PART = 16, 0.8, 0.01, 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("pairs")
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--lr", type=float, default=0.003)
    parser.add_argument("--fall", type=float, default=0.0, help="share of the steps in which the rate falls to 0")
    options = parser.parse_args()
    model = tenshot.load(options.source)
    pairs = load_pairs(options.pairs, model.resolution, TRUNCATION)
    student, average = model.generator, copy.deepcopy(model.generator)
    trained = [p.requires_grad_() for name, p in student.named_parameters() if not name.startswith("style.")]
    optimiser = torch.optim.Adam(trained, options.lr, betas=(0.9, 0.99))
    rng = torch.Generator().manual_seed(0)
    total = 0.0
    for step in range(options.steps):
        left = (1 - step / options.steps) / options.fall if options.fall else 1.0
        optimiser.param_groups[0]["lr"] = options.lr * min(1.0, (step + 1) / 50, left)
        chosen = torch.randint(len(pairs.ws), (BATCH,), generator=rng)
        with torch.autocast("cpu", torch.bfloat16):
            made = student.synthesise(student.spread(pairs.ws[chosen]), student.draw_noise(BATCH, rng))
        wanted = pairs.images[chosen].float() / 127.5 - 1
        loss = pyramid_distance(halved(made.float()), halved(wanted))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(student.parameters()), AVERAGE)
        total += loss.item()
        if (step + 1) % PART == 0:
            print(step + 1, f"{total / PART / 3:.4f}", flush=True)
            total = 0.0
    tenshot.save(options.out, replace(model, generator=average.requires_grad_(False)))


if __name__ == "__main__":
    main()
