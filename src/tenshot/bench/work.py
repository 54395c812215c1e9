"""One job from claim to result, in whatever process: adapt, or go on where a killed process stopped, then score."""

import json
import os
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from tenshot import loop
from tenshot.bench import machine
from tenshot.bench.claims import claimed
from tenshot.bench.results import write_result
from tenshot.bench.sources import source_name, source_sha256
from tenshot.bench.specs import Job
from tenshot.data import ImageSet, load_images
from tenshot.devices import find_device
from tenshot.errors import TenshotError
from tenshot.files import make_folder, told_as_sentence
from tenshot.metrics import METRICS, evaluate
from tenshot.metrics.evaluation import SharedImages
from tenshot.models import load_model
from tenshot.runs import RunDir


@dataclass(frozen=True)
class Places:
    """Where things lie; absolute paths."""

    data: Path
    """`<domain>.zip` with shots/ and heldout/."""
    work: Path
    """Run folders, claims and features; may be deleted when nothing runs."""
    results: Path

    def name(self, job: Job) -> str:
        """Raises TenshotError if the job's source is nowhere."""
        if (digest := source_sha256(job, self.data)) is None:
            raise TenshotError(f"the source {job.config.source} is neither embedded nor in {self.data}")
        return job.name(digest)

    def run(self, job: Job) -> Path:
        return self.work / "runs" / self.name(job)

    def claim(self, job: Job) -> Path:
        return self.work / "claims" / f"{self.name(job)}.lock"

    def parts(self, job: Job) -> Path:
        """JSON lines: what each process that took the job up has to leave behind."""
        return self.work / "claims" / f"{self.name(job)}.jsonl"

    def result(self, job: Job) -> Path:
        return self.results / f"{self.name(job)}.json"


@dataclass(frozen=True)
class Outcome:
    """How a job ended in a worker."""

    state: Literal["done", "claimed", "stopped", "failed", "died"]
    """claimed: another process is at it. died: the worker ended without a word."""
    reason: str = ""
    result: dict[str, Any] | None = None
    """What was written, for a caller who does not see the same disk."""


def carry_out(job: Job, places: Places, threads: int = 1) -> Outcome:
    """Claim a job, run it or go on with it, score it, write its result. Never raises for a job's own failure."""
    torch.set_num_threads(threads)
    try:
        with claimed(places.claim(job)) as is_ours, _stop_signals() as stop:
            if not is_ours:
                return Outcome("claimed")
            path = places.result(job)
            if path.exists():
                return Outcome("done", result=json.loads(path.read_text(encoding="utf-8")))
            with _inside(places.data), warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # a result says how many images there were
                warnings.simplefilter("error", SharedImages)
                _adapt(job, places, stop)
                values = _score(job, places, stop)
            write_result(path, values)
            _note(job, places, {"scored": True})
            shutil.rmtree(RunDir(places.run(job)).checkpoints, ignore_errors=True)
            return Outcome("done", result=values)
    except loop.Stopped as stopped:
        return Outcome("stopped", str(stopped))
    except Exception as error:
        return Outcome("failed", str(error) if isinstance(error, TenshotError) else f"{type(error).__name__}: {error}")


def _adapt(job: Job, places: Places, stop: threading.Event) -> None:
    """From the newest checkpoint, or from the start; nothing if only the score is missing."""
    run = RunDir(places.run(job))
    if any("scored" in note for note in _notes(job, places)):  # whoever took the result away wants another run
        shutil.rmtree(run.path, ignore_errors=True)
        places.parts(job).unlink(missing_ok=True)
    if run.model.is_file():
        return
    newest = run.latest_checkpoint()
    _note(job, places, {"from": int(newest.stem) if newest else 0, "pid": os.getpid(), "where": _where(job)})

    def watch(now: loop.Progress) -> bool:
        return stop.is_set() and now.step < now.steps

    if newest:
        loop.resume(run.path, watch=watch, intake=None if run.kept_shots else _shots(job, places))
    else:
        shutil.rmtree(run.path, ignore_errors=True)
        config = replace(job.config, source=source_name(job, places.data))
        loop.start(config, out=run.path, watch=watch, intake=_shots(job, places))
    _note(job, places, {"peak_mb": machine.peak_mb()})


def _shots(job: Job, places: Places) -> ImageSet:
    """Raises TenshotError if there are fewer than the job asks for."""
    resolution = load_model(source_name(job, places.data)).resolution
    found = load_images(job.config.shots, resolution, limit=job.first or None)
    if job.first > len(found):
        raise TenshotError(f"{job.config.shots} has {len(found)} usable images, not the {job.first} that are asked for")
    return found


def _where(job: Job) -> dict[str, Any]:
    """Threads, versions, machine and commit of this process."""
    return {"threads": torch.get_num_threads(), **machine.facts(find_device(job.config.device))}


def _notes(job: Job, places: Places) -> list[dict[str, Any]]:
    """What the processes that had the job left behind."""
    path = places.parts(job)
    if not path.is_file():
        return []
    with told_as_sentence("read", path):
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _note(job: Job, places: Places, entry: dict[str, Any]) -> None:
    """A line that outlives the process: `from` which step it went on and `where`, `peak_mb` once the training is done,
    `scored` once there is a result."""
    path = places.parts(job)
    make_folder(path.parent)
    with told_as_sentence("write", path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def _score(job: Job, places: Places, stop: threading.Event) -> dict[str, Any]:
    """The result: numbers, and all that they depend on."""
    run, started = RunDir(places.run(job)), time.perf_counter()

    def watch(what: str, done: int, total: int) -> None:
        if stop.is_set():
            raise loop.Stopped(f"{run.path} was stopped while it was scored")

    shots, features = run.kept_shots or _shots(job, places), places.work / "features"
    found = evaluate(
        run.path,
        real=job.held_out,
        shots=shots,
        metrics=job.metrics,
        cache=features,
        device=job.config.device,
        watch=watch,
    )
    watch("", 0, 0)  # what was raised while reals were encoded has become a metric's failure
    for name, result in found["metrics"].items():
        if "failed" in result:
            raise TenshotError(f"{name} could not be measured: {result['failed']}")
    notes = _notes(job, places)
    stats = run.read("stats")
    last = stats[-max(1, len(stats) // 10) :]
    looks = [{"step": look["step"], **_values(look["metrics"])} for look in run.read("metrics")]
    return {
        "method": job.config.method.name,
        "domain": job.domain,
        "seed": job.config.seed,
        "first": job.first,
        "config": json.loads(job.config.to_json()),
        "metrics": found["metrics"],
        **({"looks": looks, "best": _best(looks)} if looks else {}),
        "losses": _means(last, ("d", "g")),
        "pruned": _pruned(run.read("decisions")),
        "seconds": {
            "train": round(sum(s["seconds"] for s in stats), 1),
            "score": round(time.perf_counter() - started, 1),
        },
        "peak_mb": {
            "train": next((note["peak_mb"] for note in notes if "peak_mb" in note), None),
            "score": machine.peak_mb(),
        },
        "parts": [note["from"] for note in notes if "from" in note],
        **next((note["where"] for note in reversed(notes) if "where" in note), _where(job)),
        "sha256": {
            "source": source_sha256(job, places.data),
            "shots": found["shots"]["sha256"],
            "held_out": found["real"]["sha256"],
            "model": found["model"]["sha256"],
        },
    }


def _means(entries: list[dict[str, float]], names: tuple[str, ...]) -> dict[str, float]:
    """Over those that have the number: a step whose update was left out has none."""
    found = {name: [entry[name] for entry in entries if name in entry] for name in names}
    return {name: round(sum(values) / len(values), 4) for name, values in found.items() if values}


def _values(metrics: dict[str, dict[str, Any]]) -> dict[str, float]:
    return {name: metric["value"] for name, metric in metrics.items() if metric.get("value") is not None}


def _best(looks: list[dict[str, float]]) -> dict[str, Any]:
    """Of the metrics looked at, the best value and its step: selection on the held-out images, so beside the last."""
    best = {}
    for name in sorted({name for look in looks for name in look} - {"step"}):
        choose = min if METRICS[name].better == "lower" else max
        look = choose((look for look in looks if name in look), key=lambda look: look[name])
        best[name] = {"value": look[name], "step": look["step"]}
    return best


def _pruned(decisions: list[dict[str, Any]]) -> dict[str, Any]:
    """By network: the steps of the decisions, and each layer's share of pruned filters after them."""
    found: dict[str, Any] = {}
    for entry in decisions:
        for name, layer in entry.get("layers", {}).items():
            network = found.setdefault(entry["network"], {"steps": [], "layers": {}})
            network["layers"].setdefault(name, []).append(layer["pruned"])
        if "layers" in entry:
            found[entry["network"]]["steps"].append(entry["step"])
    return found


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Paths in configurations are relative to the folder of data, so that they mean the same on every machine."""
    before = Path.cwd()
    with told_as_sentence("look into", folder):
        os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Set by Ctrl-C and SIGTERM: the run ends after the step under way, at a checkpoint. A second one ends it now."""
    stop = threading.Event()

    def ask(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    if threading.current_thread() is not threading.main_thread():  # where no signal arrives
        yield stop
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
