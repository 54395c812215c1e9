"""Make a source's images more varied: every layer's styles as far from those of the mean latent as a factor says.

    python widen.py SOURCE FACTOR OUT

SOURCE: a model file. FACTOR: above 1 for more variety and less precision, as truncation below 1 is for the opposite.
OUT: a model file in float16, its discriminator SOURCE's, its mean latent measured anew. It is the spread
of DAP's results (docs/methods.md, step 9), without training.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

import tenshot
from tenshot.reach import extend
from tenshot.sampling import measure_latent_avg_


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("factor", type=float)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    model = tenshot.load(options.source)
    still = dict.fromkeys(model.generator.blocks().keys() - {"style"}, 1.0)
    factors = dict.fromkeys(still, options.factor)
    wide = extend(model.generator, model.generator, still, factors, {}, [])
    measure_latent_avg_(wide)  # a checkpoint's average still has the one of its source
    tenshot.save(options.out, replace(model, generator=wide), dtype=torch.float16)


if __name__ == "__main__":
    main()
