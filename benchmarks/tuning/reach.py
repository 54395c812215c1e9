"""Where on the line from source to adapted generator is a domain nearest? `dap` adapts once; each place is then scored.

    python benchmarks/tuning/reach.py DATA sketch 1 --gains 0,38 --spreads 1,1.15,1.3 --places 0.6,0.8,1

gains: settings of `reach`, 0 = none, each with every one of `spreads`. places: one reach for all layers. Scores are
`fd_efflite_2k` and `intra_dist_1k` with 1,000 fakes; DATA holds `<domain>.zip` with shots/ and heldout/. Only for the
tune domains: sketch, toonHead, bottts.
"""

import argparse
import itertools
from dataclasses import replace
from pathlib import Path

import torch

from tenshot.adaptation import begin
from tenshot.data import load_images
from tenshot.lacking import without
from tenshot.metrics import score
from tenshot.models import load_model
from tenshot.presets import preset_config
from tenshot.reach import extend
from tenshot.sampling import generate
from tenshot.step import run_step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("domain", choices=("sketch", "toonHead", "bottts"))
    parser.add_argument("seed", type=int)
    parser.add_argument("--gains", type=numbers, default=[0.0, 38.0])
    parser.add_argument("--spreads", type=numbers, default=[1.0, 1.15])
    parser.add_argument("--places", type=numbers, default=[])
    parser.add_argument("--most", type=float, default=1.25, help="max_reach")
    parser.add_argument("--most-of-layer", type=float, default=2.0, help="max_layer_reach")
    parser.add_argument("--half-life", type=int, default=200, help="of the average, in images")
    parser.add_argument("--steps", type=int, default=600)
    options = parser.parse_args()
    torch.set_num_threads(1)
    archive, source = options.data / f"{options.domain}.zip", load_model("faces64")
    shots = load_images(archive / "shots", source.resolution).images
    reals = load_images(archive / "heldout", source.resolution, limit=2000).images
    settings = {"steps": options.steps, "seed": options.seed, "precision": "bfloat16"}
    config = preset_config(options.domain, "dap", **settings, ema_half_life=options.half_life)
    run = begin(config, source, shots)
    for step in range(config.steps):
        run_step(run, step)

    def told(what: str, generator) -> None:
        fakes = torch.cat(list(generate(generator, range(1000))))
        found = score(fakes, reals, shots, names=("fd_efflite_2k", "intra_dist_1k"))
        fd, variety = (found[name]["value"] for name in ("fd_efflite_2k", "intra_dist_1k"))
        print(f"{options.domain} seed {options.seed} {what}: {fd:.1f}, variety {variety:.3f}", flush=True)

    bounds = {"max_reach": options.most, "max_layer_reach": options.most_of_layer}
    for gain, spread in itertools.product(options.gains, options.spreads):
        method = replace(config.method, reach=gain, spread=spread, **bounds)
        state = {key: value for key, value in run.state.items() if gain or not key.endswith("/information")}
        places = {name: round(place, 2) for name, place in method.reaches(state).items()}
        told(f"reach {gain:g} {places}, spread {spread:g}", method.averaged(run.nets, state))
    for place in options.places:
        reaches = dict.fromkeys(config.method.reaches(run.state), place)
        result = extend(run.nets.source, run.nets.ema, reaches, {}, {}, [])
        told(f"all layers at {place:g}", without(result, run.state))


def numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


if __name__ == "__main__":
    main()
