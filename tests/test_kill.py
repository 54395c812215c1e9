"""Kill -9 at any moment: what `benchmarks/reliability/kill9.py` does, in small."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_runs_killed_and_signalled_anywhere_are_resumed_to_the_same_bits(tmp_path):
    command = ROOT / "benchmarks" / "reliability" / "kill9.py"
    few = ["--kills", "3", "--signals", "2", "--operations", "5"]
    done = subprocess.run(
        [sys.executable, str(command), *few, "--out", str(tmp_path / "results.json")],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["summary"]["runs that differ or could not be resumed"] == 0
    assert results["summary"]["kills at random moments"] == 3
    assert len(results["operations"]) == 5 and {record["faults"] == [] for record in results["operations"]} == {True}
    assert results["saves"]["operations"] > 20 and results["saves"]["faults"] == []
    assert min(results["saves"]["loaded"].values()) > 0
