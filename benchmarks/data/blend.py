"""Mix two generators of which one was trained on from the other: every weight goes a share of the way between them.

    python blend.py SOURCE OTHER SHARE OUT

SOURCE, OTHER: model files of the same architecture. SHARE: 0 is SOURCE, 1 is OTHER. OUT: a model file, its
discriminator SOURCE's. Weights between a network and one that was trained on from it give working networks (WiSE-FT,
arXiv:2109.01903). With OTHER from before training against D and SOURCE from after it, a small share takes blemishes of
D's grain away, and some variety with them.
"""

import argparse
import copy
from dataclasses import replace
from pathlib import Path

import torch

import tenshot


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("other")
    parser.add_argument("share", type=float)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    model, other = tenshot.load(options.source), tenshot.load(options.other)
    if model.generator.spec != other.generator.spec:
        parser.error(f"{options.source} and {options.other} are of different architectures")
    mixed = copy.deepcopy(model.generator)
    with torch.no_grad():
        for here, there in zip(mixed.parameters(), other.generator.parameters(), strict=True):
            here.lerp_(there, options.share)
    tenshot.save(options.out, replace(model, generator=mixed))


if __name__ == "__main__":
    main()
