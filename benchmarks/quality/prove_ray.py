"""Proof that a matrix survives a cluster: two Ray nodes on this machine, one killed with all its workers on the way.

    pip install "tenshot[cluster,bench]"
    python benchmarks/quality/prove_ray.py [--keep FOLDER]

Six tiny runs (16 px, random networks and images; real loop, checkpoints and metrics, on coarse colours) are spread over
two nodes of one processor each, started as processes of their own beside a head without processors. As soon as both are
training, one node is killed with SIGKILL. Afterwards each run must have exactly one result, equal to the bit to that of
an unbroken run here, every step must stand once in its journal, and the run that was under way on the killed node must
have gone on from its checkpoint on the other. Takes about two minutes on two cores; prints what it found, and exits
with 1 if anything is not so.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path

TESTS = Path(__file__).parents[2] / "tests"
sys.path.insert(0, str(TESTS))
PORT = 6391
STEPS = 120
SPEC = {
    "settings": {"source": "tiny.safetensors", "steps": STEPS, "batch": 2, "checkpoint_every": 10, "sample_every": 0},
    "variants": {"finetune": {}, "dap": {"dap": {"every": 5, "prune_mass": 0.1, "guards": {"min_alive": 2}}}},
    "domains": ["dots"],
    "seeds": [0, 1, 2],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="folder for data, runs and results; default: a temporary one")
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="tenshot-ray-"))
    folder.mkdir(parents=True, exist_ok=True)
    import quick_bench
    from tenshot.bench.cluster import Cluster
    from tenshot.bench.spread import spread

    jobs, places = prepare(folder)
    nodes = [start_node(folder, "--head", "--include-dashboard=false", f"--port={PORT}", "--num-cpus=0")]
    try:
        wait_for_head()
        pool = Cluster(f"127.0.0.1:{PORT}", places, work=quick_bench.slow)
        for count in (1, 2):
            nodes.append(joined(folder, pool, count))
        killer = Killer(nodes[2], jobs, places)
        killer.start()
        state = spread(jobs, places, pool, told(jobs, places))
        pool.stop()
    finally:
        for node in nodes:
            kill(node)
    faults = judge(jobs, places, state, killer)
    print("\n".join(faults) if faults else "nothing lost, nothing run twice")
    if not options.keep:
        shutil.rmtree(folder, ignore_errors=True)
    raise SystemExit(bool(faults))


def prepare(folder: Path):
    """A source, a domain and the jobs."""
    from tenshot.bench.specs import read_spec
    from tenshot.bench.work import Places
    from tenshot.models import save_model
    from tenshot.sampling import generate_images
    from tenshot.sheets import png, to_pillow
    from tiny import tiny_model

    data, source = folder / "data", tiny_model()
    data.mkdir(exist_ok=True)
    save_model(data / "tiny.safetensors", source)
    with zipfile.ZipFile(data / "dots.zip", "w") as archive:
        for part, seeds in (("shots", range(5)), ("heldout", range(100, 112))):
            for i, image in enumerate(generate_images(source, seeds)):
                archive.writestr(f"{part}/{i}.png", png(to_pillow(image)))
    (folder / "spec.json").write_text(json.dumps(SPEC), encoding="utf-8")
    places = Places(data, folder / "work", folder / "results")
    places.work.mkdir(exist_ok=True)
    return read_spec(folder / "spec.json").jobs, places


def start_node(folder: Path, *arguments: str) -> subprocess.Popen:
    """`ray start --block` in a process group of its own."""
    path = os.pathsep.join([str(TESTS.parent / "src"), str(TESTS), os.environ.get("PYTHONPATH", "")])
    ray = Path(sys.executable).with_name("ray")
    with (folder / "nodes.log").open("ab") as log:
        return subprocess.Popen(
            [str(ray), "start", "--block", "--disable-usage-stats", *arguments],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def wait_for_head() -> None:
    import socket

    for _ in range(120):
        with socket.socket() as door:
            if door.connect_ex(("127.0.0.1", PORT)) == 0:
                return
        time.sleep(0.5)
    raise SystemExit("the head node did not start")


def joined(folder: Path, pool, count: int) -> subprocess.Popen:
    """One more node, the cluster's `count`-th; a slow machine may need a few tries to start one."""
    for _ in range(5):
        node = start_node(folder, f"--address=127.0.0.1:{PORT}", "--num-cpus=1")
        while node.poll() is None:
            if pool.free() == count:
                return node
            time.sleep(0.5)
    raise SystemExit(f"no node would start: see {folder / 'nodes.log'}")


def descendants(pid: int) -> list[int]:
    """A process and all below it, from /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, waiting = [], [pid]
    while waiting:
        found.append(waiting.pop())
        waiting += children.get(found[-1], [])
    return found


def kill(node: subprocess.Popen) -> None:
    """SIGKILL for a node and everything it started."""
    for pid in descendants(node.pid) if node.poll() is None else []:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    node.wait()


class Killer(threading.Thread):
    """Waits until both nodes are past a checkpoint, then kills one."""

    def __init__(self, node: subprocess.Popen, jobs, places) -> None:
        super().__init__(daemon=True)
        self.node, self.jobs, self.places = node, jobs, places
        self.is_done = False
        self.under_way: list[str] = []

    def run(self) -> None:
        while not self.is_done:
            time.sleep(0.2)
            self.under_way = [
                self.places.name(job)
                for job in self.jobs
                if any((self.places.run(job) / "checkpoints").glob("*.safetensors"))
                and not self.places.result(job).exists()
            ]
            if len(self.under_way) == 2:
                workers = set(descendants(self.node.pid))
                kill(self.node)
                self.is_done = True
                print(
                    f"killed a node with {len(workers)} processes; under way: {', '.join(self.under_way)}", flush=True
                )


def told(jobs, places):
    """A line for each beginning and end."""

    def watch(state, job, outcome) -> None:
        if job is not None:
            what = f"{outcome.state} {outcome.reason}" if outcome else "handed out"
            print(f"[{len(state.done)}/{len(jobs)}] {places.name(job)} {what}", flush=True)

    return watch


def judge(jobs, places, state, killer: Killer) -> list[str]:
    """All that is not as it must be."""
    import quick_bench
    from tenshot.bench.results import read_result
    from tenshot.bench.work import Places
    from tenshot.runs import RunDir

    faults = [] if killer.is_done else ["no node was killed: there was nothing to prove"]
    faults += [f"failed: {name}: {reason}" for name, reason in state.failed.items()]
    written = sorted(path.relative_to(places.results).with_suffix("") for path in places.results.glob("*/*.json"))
    if [str(name) for name in written] != sorted(places.name(job) for job in jobs):
        faults.append(f"results are {written}")
    unbroken = Places(places.data, places.work / "unbroken", places.work / "unbroken-results")
    unbroken.work.mkdir(exist_ok=True)
    taken_up = 0
    for job in jobs if not faults else ():
        values, name = read_result(places.result(job)).values, places.name(job)
        taken_up += len(values["parts"]) - 1
        print(f"{name}: taken up at steps {values['parts']}")
        if [line["step"] for line in RunDir(places.run(job)).read("stats")] != list(range(1, STEPS + 1)):
            faults.append(f"{name}: its journal has not every step once")
        if values["parts"][0] != 0 or (len(values["parts"]) > 1 and name not in killer.under_way):
            faults.append(f"{name}: taken up at {values['parts']}, though no one killed it")
        if len(values["parts"]) > 1 and 0 in values["parts"][1:]:
            faults.append(f"{name}: its checkpoint was lost")
        quick_bench.quick(job, unbroken, 1)
        if read_result(unbroken.result(job)).values["sha256"] != values["sha256"]:
            faults.append(f"{name}: differs from the unbroken run")
    if not faults and taken_up != 1:
        faults.append(f"{taken_up} runs were taken up again, not the one of the killed node")
    return faults


if __name__ == "__main__":
    main()
