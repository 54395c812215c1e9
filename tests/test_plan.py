"""What --dry-run tells of a run's time."""

import pytest

from tenshot import plan
from tenshot.adaptation import begin
from tenshot.config import RunConfig
from tenshot.methods import Cdc, Finetune
from tiny import tiny_model, tiny_shots


def begun(method, r1_every=16):
    return begin(RunConfig("tiny", method=method, steps=100, batch=2, r1_every=r1_every), tiny_model(), tiny_shots())


@pytest.mark.parametrize("every", [0, 1, 2, 3, 8, 16])
def test_the_step_with_r1_counts_as_often_as_it_comes(monkeypatch, every):
    clock = [0.0]

    def step_of(run, step):
        clock[0] += 17.0 if every and step % every == 0 else 1.0

    monkeypatch.setattr(plan.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(plan, "run_step", step_of)
    assert plan._seconds_a_step(begun(Finetune(), every)) == pytest.approx(1.0 + 16.0 / every if every else 1.0)


def test_what_trains_beside_the_networks_is_listed():
    rows = [row for row in plan._layers(begun(Cdc())) if row[1] == "patch heads"]
    assert rows and rows[0][3] == "all"
    assert not any(row[1] == "patch heads" for row in plan._layers(begun(Finetune())))
