"""Try settings on the tune domains: adapt, score on held-out images, append one JSON line a run.

    python benchmarks/tuning/tune.py DATA RESULTS.jsonl SPECS.json [--threads 1]

DATA holds `<domain>.zip` with shots/ and heldout/. SPECS.json is a list of {"domain", "seed", "method", and any
setting of a run or, under the method's name, of the method}. A spec whose line is in RESULTS already is skipped, so a
broken-off matrix goes on where it stopped; several processes may share one RESULTS file.
"""

import argparse
import hashlib
import json
import os
import time
from pathlib import Path

import torch

from tenshot.adaptation import begin
from tenshot.config import RunConfig, build_method
from tenshot.data import load_images
from tenshot.metrics import score
from tenshot.models import load_model
from tenshot.sampling import generate
from tenshot.sheets import grid, save_png
from tenshot.step import run_step

NAMES = ("fd_efflite_2k", "kd_efflite_2k", "intra_dist_1k", "copy_rate_1k", "prdc_2k")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("specs", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for spec in json.loads(options.specs.read_text()):
        claim = Path(f"{options.results}.{hash_of(spec):x}.claim")
        if spec in done(options.results):
            continue
        try:
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        try:
            line = json.dumps(run(spec, options.data, options.results.parent / "cache"))
            with options.results.open("a") as file:
                file.write(line + "\n")
        finally:
            claim.unlink()


def hash_of(spec: dict) -> int:
    return int.from_bytes(hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).digest()[:6], "big")


def done(results: Path) -> list[dict]:
    return [json.loads(line)["spec"] for line in results.read_text().splitlines()] if results.exists() else []


def run(spec: dict, data: Path, cache: Path) -> dict:
    """One adaptation, scored at the end and at the steps listed under "score_at"."""
    cache.mkdir(exist_ok=True)
    settings = dict(spec)
    domain, score_at = settings.pop("domain"), settings.pop("score_at", [])
    name = settings.pop("method")
    method = build_method(name, settings.pop(name, {}))
    source = load_model(settings.get("source", "faces64"))
    shots = load_images(data / f"{domain}.zip" / "shots", source.resolution)
    config = RunConfig(shots=domain, method=method, **settings)
    run_ = begin(config, source, shots.images)
    decisions: list[dict] = []
    run_.record = decisions.append
    scores, started, losses = {}, time.perf_counter(), []
    for step in range(config.steps):
        losses.append(run_step(run_, step))
        if step + 1 in score_at or step + 1 == config.steps:
            elapsed = time.perf_counter() - started
            averaged = method.averaged(run_.nets, run_.state)
            scores[step + 1] = evaluate(averaged, shots.images, data / f"{domain}.zip", cache, elapsed)
            picture = f"{domain}-{name}-{hash_of(spec):x}-{step + 1}.png"
            save_png(grid(torch.cat(list(generate(averaged, range(40)))), 10), cache / picture)
            d_now = [entry["d"] for entry in losses[-50:]]
            print(json.dumps(spec), step + 1, scores[step + 1], f"d {sum(d_now) / len(d_now):.3f}", flush=True)
    last = {d["network"]: {k: [v["pruned"], v["preserved"]] for k, v in d["layers"].items()} for d in decisions}
    return {"spec": spec, "scores": scores, "fates": last, "seconds": round(time.perf_counter() - started, 1)}


def evaluate(generator, shots, archive: Path, cache: Path, elapsed: float) -> dict:
    reals = load_images(archive / "heldout", generator.spec.resolution, limit=2000).images
    fakes = torch.cat(list(generate(generator, range(2000))))
    found = score(fakes, reals, shots, names=NAMES, cache_dir=cache)
    numbers = {n: {k: v for k, v in r.items() if isinstance(v, float)} for n, r in found.items()}
    return {"elapsed": round(elapsed, 1), **numbers}


if __name__ == "__main__":
    main()
