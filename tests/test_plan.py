"""What --dry-run tells of a run's time."""

from tenshot import plan
from tenshot.adaptation import begin
from tenshot.config import RunConfig
from tenshot.methods import Cdc, Finetune
from tiny import tiny_model, tiny_shots


def begun(method):
    return begin(RunConfig("tiny", method=method, steps=100, batch=2, r1_every=16), tiny_model(), tiny_shots())


def test_the_step_with_r1_counts_as_often_as_it_comes(monkeypatch):
    clock = [0.0]

    def step_of(run, step):
        clock[0] += 17.0 if step % 16 == 0 else 1.0

    monkeypatch.setattr(plan.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(plan, "run_step", step_of)
    assert plan._seconds_a_step(begun(Finetune())) == 2.0


def test_what_trains_beside_the_networks_is_listed():
    rows = [row for row in plan._layers(begun(Cdc())) if row[1] == "patch heads"]
    assert rows and rows[0][3] == "all"
    assert not any(row[1] == "patch heads" for row in plan._layers(begun(Finetune())))
