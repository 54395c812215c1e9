"""One clock: what is due at which step, whatever the settings; and every method goes on from any step bit for bit."""

import itertools
import math
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tenshot import step as steps
from tenshot.adaptation import begin
from tenshot.augment import Augment
from tenshot.checkpoint import restore, snapshot
from tenshot.config import RunConfig, build_method
from tenshot.data import batch_indices
from tenshot.looks import is_due
from tenshot.methods import METHODS, Finetune
from tenshot.methods.adam import AdaM
from tenshot.methods.base import Clock
from tenshot.methods.rick import Rick
from tenshot.models import read_tensors, write_tensors
from tenshot.randomness import generator_for
from tenshot.recovery import PATIENCE, SITES, Health, way_back
from tenshot.step import lr_factor, run_step
from tiny import QUICK, tiny_model, tiny_shots

MANY = settings(max_examples=80, deadline=None)
counts = st.integers(1, 3000)


@MANY
@given(counts, st.floats(0.0, 1.0), st.data())
def test_the_learning_rate_never_rises_is_whole_until_the_decay_and_above_zero_at_every_step(length, decay, data):
    step = data.draw(st.integers(0, length - 1))
    now = lr_factor(step, length, decay)
    assert 0.0 < now <= 1.0 or (decay and decay * length == 0.0)
    assert lr_factor(step + 1, length, decay) <= now
    if step <= length - decay * length:
        assert now == 1.0
    elif decay * length > 1e-9:
        assert now == pytest.approx((length - step) / (decay * length))


@MANY
@given(st.integers(0, 5000), st.integers(0, 60))
def test_what_is_due_every_so_many_steps_is_due_once_in_each_of_them(step, every):
    window = [is_due(at, every) for at in range(step, step + every)]
    assert sum(window) == (1 if every else 0)
    assert not is_due(step, 0)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(r1=st.integers(0, 5), path=st.integers(0, 5), skips=st.sets(st.sampled_from(["d", "r1", "g", "path"])))
def test_phases_are_taken_in_order_when_due_and_not_left_out_by_the_method(monkeypatch, r1, path, skips):
    taken = []
    monkeypatch.setattr(steps, "_train", lambda phase, *_: (taken.append(phase), ({}, ""))[1])
    monkeypatch.setattr(Finetune, "skips", lambda self, phase, clock: phase in skips)
    run = begin(RunConfig("tiny", method=Finetune(), batch=1, r1_every=r1, path_every=path), tiny_model(), tiny_shots())
    for step in range(7):
        taken.clear()
        run_step(run, step)
        due = {"d": True, "r1": r1 and step % r1 == 0, "g": True, "path": path and step % path == 0}
        assert taken == [phase for phase, is_on in due.items() if is_on and phase not in skips]


@MANY
@given(st.integers(1, 3000), st.floats(0.0, 1.0, exclude_max=True), st.integers(1, 60))
def test_ricks_decisions_begin_with_the_warm_ups_end_and_are_spread_evenly(length, warmup, decisions):
    method = Rick(warmup=warmup, decisions=decisions)
    taken = method.decision_steps(length)
    assert taken == sorted(set(taken)) and len(taken) <= decisions
    assert all(1 <= step < length for step in taken)
    first = method.warmup_steps(length)
    assert not taken or taken[0] == first
    if len(taken) == decisions:
        gaps = [b - a for a, b in itertools.pairwise(taken)]
        assert not gaps or max(gaps) - min(gaps) <= 1
    assert [method.skips("g", Clock(s, length, 4, 0)) for s in (first - 1, first)] == [True, False]


@MANY
@given(st.integers(2, 3000), st.floats(0.001, 0.999))
def test_adams_probe_ends_within_the_run(length, probe):
    assert 1 <= AdaM(probe=probe)._probe_steps(length) < length


@MANY
@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 9), st.integers(0, 300))
def test_any_row_of_steps_shows_every_image_as_often_as_any_other_or_once_more_an_epoch(images, batch, seed, first):
    span = math.ceil(3 * images / batch)
    seen = [i for step in range(first, first + span) for i in batch_indices(images, batch, step, seed)]
    often = [seen.count(i) for i in range(images)]
    assert len(seen) == span * batch and max(often) - min(often) <= 2


@MANY
@given(st.lists(st.dictionaries(st.sampled_from(SITES), st.booleans()), max_size=40))
def test_what_is_counted_of_bad_steps_equals_a_count_by_hand_and_survives_being_saved(history):
    health = Health()
    for step, made in enumerate(history):
        health = health.after(step, {site: "" if good else "bad" for site, good in made.items()})
    assert Health.from_tensor(health.to_tensor()) == health
    assert health.skipped == sum(not good for made in history for good in made.values())
    for site, row in zip(SITES, health.rows, strict=True):
        due = [(step, made[site]) for step, made in enumerate(history) if site in made]
        bad = []
        for step, good in reversed(due):
            if good:
                break
            bad.append(step)
        assert row.count == len(bad) and (not bad or row.since == bad[-1])
    assert health.is_well == (not any(row.count for row in health.rows))


@MANY
@given(st.integers(1, 20), st.integers(2, 5), st.integers(1, 100), st.sets(st.integers(1, 105)))
def test_where_a_run_goes_back_to_does_not_depend_on_where_it_was_stopped(every, keep, since, stops):
    """A run's folder in small: what is written, deleted after it, and deleted when the run is resumed."""

    def there(stops):
        written = []
        for step in range(1, since + PATIENCE):
            is_due, is_well = step % every == 0, step <= since
            if (is_due and is_well) or step in stops:
                written.append(step)
                kept = keep + (not is_well)
                due = [step for step in written if step % every == 0]
                written = [step for step in written if step in written[-kept:] or step in due[-kept:]]
            if step in stops and is_due and not is_well:
                written.remove(step)
        return written

    unbroken = way_back(there(set()), since, every)
    assert way_back(there(stops), since, every) == unbroken
    assert unbroken is None or (unbroken < since and since - unbroken <= 2 * every)
    assert unbroken is not None or since <= every


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=2, deadline=None, derandomize=True)
@given(
    stop=st.integers(0, 5),
    settings_=st.fixed_dictionaries(
        {
            "seed": st.integers(0, 99),
            "batch": st.integers(1, 3),
            "r1_every": st.integers(0, 3),
            "path_every": st.integers(0, 3),
            "augment": st.sampled_from(Augment.__args__),
            "beta1": st.sampled_from([0.0, 0.5]),
            "lr_decay": st.sampled_from([0.0, 0.5, 1.0]),
            "precision": st.sampled_from(["float32", "bfloat16"]),
            "micro_batch": st.sampled_from([0, 1]),
            "ada_every": st.integers(1, 3),
        }
    ),
    returns=st.integers(0, 2),
)
def test_any_method_goes_on_from_any_step_bit_for_bit_through_a_file(name, stop, settings_, returns):
    def begun():
        method = build_method(name, QUICK.get(name, {"fisher_samples": 2} if name in ("adam", "rick") else {}))
        run = begin(RunConfig("tiny", method=method, steps=6, **settings_), tiny_model(), tiny_shots())
        for _ in range(returns):
            run.health = run.health.gone_back()
        return run

    whole, resumed = begun(), begun()
    with tempfile.TemporaryDirectory() as folder:
        for step in range(6):
            if step == stop:
                write_tensors(Path(folder) / "kept.safetensors", snapshot(whole), {})
            run_step(whole, step)
        restore(resumed, read_tensors(Path(folder) / "kept.safetensors")[0])
    for step in range(stop, 6):
        run_step(resumed, step)
    one, other = snapshot(whole), snapshot(resumed)
    assert one.keys() == other.keys()
    assert [key for key in one if not _same(one[key], other[key])] == []


def _same(a, b):
    return a.shape == b.shape and torch.equal(a.nan_to_num(-1.0), b.nan_to_num(-1.0))


@MANY
@given(st.integers(0, 2**40), st.lists(st.one_of(st.integers(0, 999), st.sampled_from(["step", "return", "noise"]))))
def test_random_numbers_depend_on_their_names_alone(seed, names):
    one, again = (torch.rand(4, generator=generator_for(seed, *names)) for _ in range(2))
    other = torch.rand(4, generator=generator_for(seed, *names, "more"))
    assert torch.equal(one, again) and not torch.equal(one, other)
