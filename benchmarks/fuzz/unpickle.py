"""Feed the reader of foreign checkpoints inputs that nobody wrote: each must end in a model or a sentence.

    python benchmarks/fuzz/unpickle.py [--inputs 100000] [--engine atheris|mutate] [--seed 0]

`atheris` (pip install atheris) is guided by coverage; `mutate` needs nothing and exchanges, moves, doubles and deletes
parts of good files. The first byte of an input says what the rest is: a file as it is, the pickle in a torch zip, the
pickle in an old torch file, or a nested storage; so checksums and magic numbers do not keep mutations out.
Prints inputs, seconds, how inputs ended, and the peak of memory above what was in use at the start. Ends with 1 at the
first input that leads to anything but a model or a TenshotError, whose bytes are kept in `crash.bin`.
"""

import argparse
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

SAMPLE = 50  # every 50th input is measured by tracemalloc, which is slow
GUIDED = ("tenshot.unpickle", "tenshot.nvidia", "tenshot.convert")


def wrap(data: bytes) -> bytes:
    """An input as a file."""
    import hostile

    kind, rest = data[:1], data[1:]
    if kind == b"z":
        return hostile.torch_zip(rest)
    if kind == b"o":
        return hostile.old_torch(rest, ["7"], (16).to_bytes(8, "little") + bytes(64))
    if kind == b"n":
        size = len(rest).to_bytes(4, "little")
        call = hostile.call("torch.storage", "_load_from_bytes", b"B" + size + rest)
        return hostile.framed(hostile.in_dictionary(call), 3)
    return rest


def read_one(data: bytes) -> str:
    """What an input led to: "model", or the kind of sentence."""
    from tenshot.convert import model_of
    from tenshot.errors import TenshotError
    from tenshot.unpickle import read

    try:
        model_of(read(data, "in"), Path("in"))
    except TenshotError as error:
        return " ".join(re.sub(r"0x\w+|[\d,]+|'.*'", "_", str(error)).split()[1:12])
    return "model"


def seeds() -> list[bytes]:
    """Small pickles of every kind, then whole files."""
    import io

    import torch

    import hostile
    import tiny
    from reference.nvidia_pickle import contents, dump, module, networks
    from test_convert import rosinality

    layer = module("FullyConnectedLayer", parameters={"weight": torch.ones(2, 2)}, bias_gain=1.0, activation="lrelu")
    trees = [dump({"G_ema": layer, "D": layer}, protocol=p, is_old=p < 4) for p in (2, 3, 4, 5)]
    state = {"g_ema": {"a": torch.ones(2, 3)}, "d": {}, "latent_avg": torch.zeros(4)}
    new, old = io.BytesIO(), io.BytesIO()
    torch.save(state, new)
    torch.save(state, old, _use_new_zipfile_serialization=False)
    pickled = hostile.framed(b"}" + hostile.text("g_ema") + hostile.FLOATS + b"s")
    views = [hostile.framed(hostile.in_dictionary(body)) for _, body, _ in hostile.tensors()]
    small = [*(b"f" + tree for tree in trees), b"f" + new.getvalue(), b"f" + old.getvalue(), b"z" + pickled]
    small += [b"z" + view for view in views] + [
        b"o" + view.replace(hostile.text("0"), hostile.text("7")) for view in views
    ]
    small += [
        b"n" + old.getvalue(),
        b"n" + hostile.old_torch(hostile.framed(hostile.persistent("7")), ["7"], bytes(72)),
    ]
    checkpoint = rosinality(tiny.tiny_model(channels=(2, 2, 2), latent_size=4))
    whole = io.BytesIO()
    torch.save(checkpoint, whole)
    large = [hostile.old_file(checkpoint), whole.getvalue(), dump(contents(*networks(16, 32, 2, w_dim=4)))]
    return small + [b"f" + data for data in large]


def mutated(rng: random.Random, corpus: list[bytes]) -> bytes:
    """One of the corpus with one to eight parts exchanged, moved, doubled, deleted or taken from another."""
    data = bytearray(rng.choice(corpus if rng.random() < 0.1 else corpus[:-3]))
    for _ in range(rng.choice([1, 1, 1, 2, 4, 8])):
        at, length = rng.randrange(1, len(data) + 1), rng.choice([1, 1, 1, 2, 4, 8, 16, 64])
        match rng.randrange(7):
            case 0:
                data[at : at + length] = rng.randbytes(length)
            case 1:
                data[at : at + length] = b""
            case 2:
                data[at:at] = rng.randbytes(length)
            case 3:
                data[at:at] = data[at : at + length] * rng.choice([1, 2, 100])
            case 4:
                data[at : at + 1] = bytes(
                    [rng.choice(b"N}])(tuseaqhrjRb\x81\x85\x86\x87\x90\x94\x93Q.cXBCJKMG\x8a\x8c")]
                )
            case 5:
                other = rng.choice(corpus[:-3])
                start = rng.randrange(len(other))
                data[at:at] = other[start : start + rng.choice([8, 32, 128])]
            case 6:
                data[at : at + 4] = rng.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 255]).to_bytes(4, "little")
    return bytes(data)


def in_use() -> int:
    """Peak resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def run_mutations(inputs: int, seed: int) -> int:
    rng, corpus = random.Random(seed), seeds()
    for data in corpus:
        read_one(wrap(data))
    before, start, most = in_use(), time.perf_counter(), 0
    ends: Counter[str] = Counter()
    for i in range(inputs):
        data = mutated(rng, corpus)
        file = wrap(data)
        is_sample = i % SAMPLE == 0
        if is_sample:
            tracemalloc.start()
        try:
            ends[read_one(file)] += 1
        except BaseException:
            Path("crash.bin").write_bytes(data)
            print(f"input {i} is neither a model nor a sentence; its bytes are in crash.bin")
            raise
        if is_sample:
            most = max(most, tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    seconds = time.perf_counter() - start
    print(f"{inputs:,} inputs in {seconds:.0f} s, {len(ends)} kinds of end, {ends['model']:,} models, 0 crashes")
    print(f"peak memory {in_use() - before} MB above the start; at most {most / 2**20:.1f} MB for one input")
    for end, count in ends.most_common(12):
        print(f"{count:8,}  {end}")
    return 0


def run_atheris(inputs: int, seed: int) -> int:
    """In a process of its own, since libFuzzer ends the one it runs in."""
    with tempfile.TemporaryDirectory() as folder:
        for i, data in enumerate(seeds()):
            (Path(folder) / f"{i}").write_bytes(data)
        options = [f"-atheris_runs={inputs}", f"-seed={seed + 1}", "-max_len=16384", "-verbosity=1"]
        options += ["-rss_limit_mb=2048", "-timeout=20", "-artifact_prefix=crash-", folder]
        command = [sys.executable, __file__, "--guided", *options]
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
    said = done.stdout + done.stderr
    before = int(next(line.split()[1] for line in said.splitlines() if line.startswith("before:")))
    grown = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024 - before
    print("\n".join(line for line in said.splitlines() if line.startswith(("INFO: Loaded", "Done")) or "pulse" in line))
    print(f"{seconds:.0f} s with loading, peak memory {grown} MB above the start, ended with {done.returncode}")
    if done.returncode:
        print(said[-3000:])
    return done.returncode


def guided() -> None:
    import atheris

    with atheris.instrument_imports(include=list(GUIDED)):
        import tenshot.convert
        import tenshot.nvidia
        import tenshot.unpickle  # noqa: F401
    for data in seeds():
        read_one(wrap(data))
    print(f"before: {in_use()} MB", flush=True)
    atheris.Setup([sys.argv[0], *sys.argv[2:]], lambda data: read_one(wrap(data)) and None)
    atheris.Fuzz()


def main() -> int:
    if sys.argv[1:2] == ["--guided"]:
        guided()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--engine", choices=["atheris", "mutate"], default="mutate")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    run = run_atheris if options.engine == "atheris" else run_mutations
    return run(options.inputs, options.seed)


if __name__ == "__main__":
    sys.exit(main())
