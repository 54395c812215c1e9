"""Kill runs with SIGKILL, go on with them, and compare what comes out with the unbroken run, bit for bit.

    python benchmarks/reliability/kill9.py --out RESULTS.json [--kills 200] [--signals 50] [--operations 0]

saves       a checkpoint is written over and over, each time killed before another file operation of the writing; what
            is loaded then must be this checkpoint or the one before it, whole
operations  a run (16 px, 8 steps, checkpoints every 2) is killed before a file operation from its first to its last,
            then resumed; all of them, or --operations so many, evenly spread
kills       runs are killed at random moments again and again until they are through, --kills times in all
signals     the same with SIGTERM and SIGINT, --signals times in all: exit codes 143 and 130, and how long it took

A folder that was killed before it had a config.json is started anew, as tenshot says then; every other is resumed. A
whole run is compared: model, best model, checkpoints, manifest, shots, sheets, settings, journals (without seconds).
OUT is written after every run, and one that was broken off goes on there. One core is enough: taskset -c 1.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]
os.environ["OMP_NUM_THREADS"] = "1"  # children are forked, which threads do not survive

import torch  # noqa: E402

from killing import KILLED, die_at, live  # noqa: E402
from tenshot import result, scoring  # noqa: E402
from tenshot.__main__ import main as tenshot  # noqa: E402
from tenshot.cli import adapt  # noqa: E402
from tenshot.config import RunConfig  # noqa: E402
from tenshot.files import is_temporary, write_atomically  # noqa: E402
from tenshot.manifest import Checkpoints  # noqa: E402
from tenshot.methods import Dap  # noqa: E402
from tenshot.models import file_digest, save_model  # noqa: E402
from tenshot.result import save_shots  # noqa: E402
from tenshot.runs import RunDir  # noqa: E402
from tiny import QUICK, tiny_model, tiny_shots  # noqa: E402

STEPS = 8
SETTINGS: dict[str, Any] = {
    "steps": STEPS, "batch": 2, "path_every": 2, "r1_every": 3,
    "checkpoint_every": 2, "sample_every": 4, "eval_every": 3, "keep_best": "fd_efflite_500",
}  # fmt: skip


def stand_in(fakes: Any, reals: Any, shots: Any, names: list[str], keep_going: bool) -> dict[str, dict[str, Any]]:
    """A score that depends on the images and needs no weights."""
    images = next(iter(fakes)).double()
    return {name: {"value": (images.std() + len(name)).item()} for name in names}


class Place:
    """A working folder with source, shots and the unbroken run."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "log.txt"
        self.lives = 0
        source, shots = folder / "tiny.safetensors", RunDir(folder / "given")
        save_model(source, tiny_model())
        shots.shots.mkdir(parents=True)
        save_shots(tiny_shots(), shots)
        config = RunConfig(str(shots.shots), str(source), Dap(**QUICK["dap"]), eval_real=str(shots.shots), **SETTINGS)
        self.config = folder / "settings.json"
        self.config.write_text(config.to_json())
        self.whole = folder / "whole"
        with (folder / "whole.txt").open("w") as told, redirect_stdout(told):
            if self.run(self.whole):  # here, so that what is imported late is there when children begin
                raise SystemExit("the unbroken run failed")
        code, self.seconds = live(lambda: self.run(folder / "again"), self.log)
        if code or faults_of(folder / "again", self.whole):
            raise SystemExit(f"a run is not the same twice: {self.log.read_text()}")

    def run(self, out: Path) -> int:
        """One life of a run, as a user begins or resumes it."""
        if (out / "config.json").exists():
            return tenshot(["adapt", "--resume", str(out)])
        return tenshot(["adapt", "--config", str(self.config), "--out", str(out)])

    def new(self) -> Path:
        self.lives += 1
        return self.folder / f"run{self.lives}"


def state_of(out: Path) -> str:
    """Where a kill hit, as far as the folder tells."""
    run = RunDir(out)
    if not run.config.exists():
        return "before config.json"
    if run.model.exists():
        return "after the result"
    if any(is_temporary(path.name) for path in out.rglob("*")):
        return "while a file was written"
    noted = json.loads(run.saved.manifest.read_text()) if run.saved.manifest.exists() else {}
    if noted and not (run.checkpoints / max(noted)).exists():
        return "between manifest and checkpoint"
    return "between writes" if run.saved.steps() else "before the first checkpoint"


def contents(out: Path) -> dict[str, Any]:
    """All that a finished run left, in a form that can be compared; but for the lock, which a kill after the result
    leaves behind, free."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file() and path.name != "run.lock"):
        name = path.relative_to(out).as_posix()
        if path.suffix == ".jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{key: value for key, value in line.items() if key != "seconds"} for line in lines]
        elif path.name == "manifest.json":
            there = {key: value for key, value in json.loads(path.read_text()).items() if (path.parent / key).exists()}
            found[name] = {key: {k: v for k, v in value.items() if k != "before"} for key, value in there.items()}
        else:
            found[name] = file_digest(path)
    return found


def faults_of(out: Path, whole: Path) -> list[str]:
    """Names of what differs from the unbroken run."""
    one, other = contents(whole), contents(out)
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def killed_at(place: Place, number: int) -> dict[str, Any]:
    """A run killed at one file operation, then resumed."""
    out = place.new()

    def life() -> int:
        counted = die_at(number, out)
        place.run(out)
        print(f"operations {counted()}")
        return 0

    code, _ = live(life, place.log)
    if code != KILLED:
        return {"operation": number, "ended": place.log.read_text()}
    record = {"operation": number, "hit": state_of(out), "faults": []}
    if record["hit"] != "after the result" and (code := live(lambda: place.run(out), place.log)[0]):
        record["faults"] = [f"exit code {code}: {place.log.read_text()[-500:]}"]
    record["faults"] += faults_of(out, place.whole)
    shutil.rmtree(out)
    return record


def operations(place: Place, wanted: int, results: dict[str, Any], save: Any) -> None:
    """All operations of a run, or `wanted` of them."""
    counting = killed_at(place, -1)
    total = int(counting["ended"].split("operations ")[-1])
    results["operations_of_a_run"] = total
    numbers = list(range(1, total + 1))
    if 0 < wanted < total:
        numbers = [1 + i * (total - 1) // max(1, wanted - 1) for i in range(wanted)]
    done = {record["operation"] for record in results["operations"]}
    for number in (number for number in numbers if number not in done):
        record = killed_at(place, number)
        if "ended" in record:
            record = {"operation": number, "hit": "never", "faults": ["it was not killed"]}
        results["operations"].append(record)
        save()


def again_and_again(place: Place, seed: int, most: int) -> dict[str, Any]:
    """A run killed at random moments until it is through; after `most` kills it is left alone."""
    rng, out = random.Random(seed), place.new()
    hits: list[str] = []
    while True:
        after = rng.uniform(0, 1.2 * place.seconds) if len(hits) < most else None
        code, _ = live(lambda: place.run(out), place.log, after=after)
        if code != KILLED:
            break
        hits.append(state_of(out))
        if hits[-1] == "after the result":
            break
    faults = [f"exit code {code}: {place.log.read_text()[-500:]}"] if code not in (0, KILLED) else []
    faults += faults_of(out, place.whole)
    shutil.rmtree(out)
    return {"seed": seed, "hits": hits, "faults": faults}


def signalled(place: Place, seed: int, most: int) -> dict[str, Any]:
    """A run that is sent SIGTERM and SIGINT in turns at random moments until it is through."""
    rng, out = random.Random(seed), place.new()
    seconds: list[float] = []
    faults: list[str] = []
    while not (out / "model.safetensors").exists():
        by = (signal.SIGTERM, signal.SIGINT)[len(seconds) % 2]
        after = rng.uniform(0, 1.2 * place.seconds) if len(seconds) < most else None
        code, taken = live(lambda: place.run(out), place.log, after=after, by=by)
        is_early = code == -by and not (out / "run.lock").exists()  # while arguments are read, nobody listens yet
        if code == 128 + by or is_early:
            seconds.append(round(taken, 2))
        elif code:
            faults.append(f"exit code {code} after signal {by}: {place.log.read_text()[-500:]}")
            break
    faults += faults_of(out, place.whole)
    shutil.rmtree(out)
    return {"seed": seed, "seconds": seconds, "faults": faults}


def saves(folder: Path) -> dict[str, Any]:
    """Writing a checkpoint over two others, killed at each of its file operations; and in another's place."""
    states = {step: {"a": torch.full([1000], float(step)), "b": torch.arange(step)} for step in (1, 2, 3, 4)}
    told: dict[str, Any] = {"operations": 0, "loaded": Counter(), "faults": []}
    for again in (False, True):  # a new step, or step 2 anew with other values
        number = 0
        while True:
            number += 1
            shelf = Checkpoints(folder / f"{again}{number}")
            shelf.folder.mkdir(parents=True)
            for step in (1, 2):
                shelf.save(step, states[step], {}, keep=2)

            def life(shelf: Checkpoints = shelf, number: int = number, again: bool = again) -> int:
                die_at(number, shelf.folder)
                shelf.save(2 if again else 3, states[4 if again else 3], {}, keep=2)
                return 0

            code, _ = live(life, folder / "log.txt")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the one that was not written
                tensors, header = shelf.load()
            values = int(tensors["a"][0])
            allowed = {2: 2, 4: 2} if again else {2: 2, 3: 3}
            if allowed.get(values) != header["step"] or not torch.equal(tensors["a"], states[values]["a"]):
                told["faults"].append(f"operation {number}: step {header['step']} with the values of {values}")
            told["loaded"]["the new one" if values > 2 else "the one before"] += 1
            if code != KILLED:
                break
        told["operations"] += number - 1
    return told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--signals", type=int, default=50)
    parser.add_argument("--operations", type=int, default=0, help="how many; 0 = all of a run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="a file that is there is gone on with")
    options = parser.parse_args()
    scoring.score = stand_in
    adapt._say_what_is_there = lambda out: None  # the report is no part of a run
    result.SHEET_SEEDS = range(4)  # small sheets, so that saving is a larger share of the time
    results: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    results = {"torch": torch.__version__, "seconds": 0, "operations": [], "runs": [], "signals": [], **results}
    started = time.monotonic() - results["seconds"]

    def save() -> None:
        hits = Counter(hit for run in results["runs"] for hit in run["hits"])
        records = [*results["operations"], *results["runs"], *results["signals"], results["saves"]]
        seconds = [taken for run in results["signals"] for taken in run["seconds"]]
        results["summary"] = {
            "kills at random moments": sum(hits.values()),
            "where they hit": dict(hits.most_common()),
            "kills at operations of a run": len(results["operations"]),
            "kills at operations of a save": results["saves"]["operations"],
            "signals at random moments": len(seconds),
            "seconds from a signal to the end, at most": max(seconds, default=0),
            "runs that differ or could not be resumed": sum(bool(record["faults"]) for record in records),
        }
        results["seconds"] = round(time.monotonic() - started)
        write_atomically(options.out, (json.dumps(results, indent=1) + "\n").encode())

    with tempfile.TemporaryDirectory() as folder:
        results["saves"] = saves(Path(folder) / "saves")
        place = Place(Path(folder))
        while (done := sum(len(run["hits"]) for run in results["runs"])) < options.kills:
            seed = options.seed + len(results["runs"])
            results["runs"].append(again_and_again(place, seed, options.kills - done))
            save()
        while (done := sum(len(run["seconds"]) for run in results["signals"])) < options.signals:
            seed = options.seed + 1000 + len(results["signals"])
            results["signals"].append(signalled(place, seed, options.signals - done))
            save()
        operations(place, options.operations, results, save)
    print(json.dumps(results["summary"], indent=1))
    return int(results["summary"]["runs that differ or could not be resumed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
