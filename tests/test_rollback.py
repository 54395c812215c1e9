"""Numbers that stay bad: back to the last good checkpoint, gentler; three times, then a clear end. Resumable."""

import json
import warnings

import pytest
import torch
from PIL import Image

from tenshot import loop, scoring
from tenshot import step as steps
from tenshot.config import RunConfig
from tenshot.doctor.run_folder import check_run
from tenshot.methods import AdaM, Dap, Finetune
from tenshot.models import load_model, read_tensors, save_model
from tenshot.pruning import Guards
from tenshot.recovery import MOST_RETURNS, PATIENCE, Health
from tiny import tiny_model, tiny_shots

STEPS = 14
DAP = Dap(warmup=0.1, settle=0.6, every=2, prune_mass=0.1, guards=Guards(min_alive=2))


@pytest.fixture
def given(tmp_path):
    """A source file and a folder of shots."""
    save_model(tmp_path / "tiny.safetensors", tiny_model())
    (tmp_path / "shots").mkdir()
    for i, shot in enumerate(tiny_shots()):
        Image.fromarray(shot.permute(1, 2, 0).numpy()).save(tmp_path / "shots" / f"{i}.png")
    return tmp_path


def config(given, method=None, **settings):
    paths = {"shots": str(given / "shots"), "source": str(given / "tiny.safetensors")}
    usual = {"steps": STEPS, "batch": 2, "path_every": 2, "r1_every": 3, "augment": "flip", "checkpoint_every": 4}
    return RunConfig(**paths, method=method or Finetune(), **{**usual, "sample_every": 0, **settings})


@pytest.fixture
def spoil(monkeypatch):
    """spoil(phase, when): the phase's loss is not a number where when(run, step) says so."""

    def spoilt(phase, when):
        original = steps.PHASES[phase]

        def losses(run, context, reals, rng):
            loss, stats, gates = original(run, context, reals, rng)
            factor = float("nan") if when(run, context.clock.step) else 1.0
            return loss * factor, stats, gates

        monkeypatch.setitem(steps.PHASES, phase, losses)

    return spoilt


def unless_returned(step, times=1):
    """Bad from a step on, until the run has gone back so often."""
    return lambda run, now: now >= step and run.health.returns < times


def lines(folder, journal):
    path = folder / f"{journal}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def without_seconds(entries):
    return [{name: value for name, value in entry.items() if name != "seconds"} for entry in entries]


def checkpoint(folder, step):
    return read_tensors(folder / f"checkpoints/{step:06d}.safetensors")[0]


def run_to_end(given, name="run", **settings):
    with pytest.warns(UserWarning, match="is not finite at step"):
        loop.start(config(given, **settings), out=given / name)
    return given / name


def test_the_run_goes_back_to_its_last_good_checkpoint_and_on_at_half_the_learning_rate(given, spoil):
    spoil("g", unless_returned(9))
    with pytest.warns(
        UserWarning,
        match=r"^the gradient of g is not finite at step 14, the 5th time in a row: back to step 8, "
        r"on at a learning rate of 0\.002 \(1 of at most 3 times\)$",
    ):
        loop.start(config(given), out=given / "run")
    assert [entry["step"] for entry in lines(given / "run", "stats")] == list(range(1, STEPS + 1))
    (entry,) = lines(given / "run", "recovery")
    assert entry["step"] == 8 and entry["returns"] == 1 and entry["skipped"] == PATIENCE and entry["lr"] == 0.002
    health = Health.from_tensor(checkpoint(given / "run", STEPS)["health"])
    assert (health.returns, health.skipped, health.is_well) == (1, PATIENCE, True)


def test_up_to_the_step_it_goes_back_to_a_run_is_the_healthy_one_and_then_it_is_another(given, spoil):
    loop.start(config(given), out=given / "healthy")
    spoil("d", unless_returned(9))
    run_to_end(given)
    healthy, ill = (without_seconds(lines(given / name, "stats")) for name in ("healthy", "run"))
    assert healthy[:8] == ill[:8]
    assert all(one["d"] != other["d"] for one, other in zip(healthy[8:], ill[8:], strict=True))


@pytest.mark.parametrize(
    ("method", "every", "stops"),
    [(Finetune(), 4, (2, 13)), (DAP, 4, (8,)), (Finetune(), 1, (7, 1, 1))],
    ids=["before and after the row of bad steps", "in it", "three times in it"],
)
def test_a_run_that_goes_back_is_resumed_from_any_step_bit_for_bit(given, spoil, method, every, stops):
    """stops: of the steps that each part takes, undone ones counted."""
    spoil("d", lambda run, step: (step in (2, 3)) or unless_returned(6)(run, step))
    whole, out = run_to_end(given, "whole", method=method, checkpoint_every=every), given / "parts"

    def stop_after(count):
        taken = iter(range(1, count + 1))
        return lambda now: next(taken) == count

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for part, count in enumerate(stops):
            with pytest.raises(loop.Stopped):
                if part == 0:
                    loop.start(config(given, method, checkpoint_every=every), out=out, watch=stop_after(count))
                else:
                    loop.resume(out, watch=stop_after(count))
        loop.resume(out)
    one, other = checkpoint(whole, STEPS), checkpoint(out, STEPS)
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    for journal in ("stats", "decisions", "recovery"):
        assert without_seconds(lines(whole, journal)) == without_seconds(lines(out, journal))
    assert lines(whole, "recovery")


def test_every_return_has_its_line_though_the_next_leads_further_back(given, spoil):
    spoil("d", lambda run, step: unless_returned(9)(run, step) or (run.health.returns == 1 and step >= 8))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loop.start(config(given), out=given / "run")
    assert [(entry["step"], entry["returns"]) for entry in lines(given / "run", "recovery")] == [(8, 1), (4, 2)]
    checks = {finding.check: finding for finding in check_run(given / "run")}
    assert checks["recovery.jsonl"].level == "ok"


def test_a_run_without_a_folder_goes_back_likewise(given, spoil):
    spoil("d", lambda run, step: unless_returned(8)(run, step) or (run.health.returns == 1 and step >= 5))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kept = loop.start(config(given), out=given / "run").generator.state_dict()
        half = len(caught)
        free = loop.start(config(given), out=None).generator.state_dict()
    texts = [str(warning.message).partition(": ")[2] for warning in caught]
    assert texts[:half] == texts[half:] and [text.split(",")[0] for text in texts[:half]] == ["back to step 4"] * 2
    assert all(torch.equal(kept[name], free[name]) for name in kept)


@pytest.mark.parametrize("every", [0, 4])
def test_without_a_good_checkpoint_the_run_begins_again(given, spoil, every):
    spoil("d", unless_returned(2))
    out = run_to_end(given, checkpoint_every=every)
    assert [entry["step"] for entry in lines(out, "stats")] == list(range(1, STEPS + 1))
    assert [entry["step"] for entry in lines(out, "recovery")] == [0]


def test_no_checkpoint_is_written_while_updates_are_left_out(given, spoil):
    spoil("d", unless_returned(6))
    seen = {}

    def watch(now):
        found = sorted(int(path.stem) for path in (given / "run/checkpoints").glob("*.safetensors"))
        seen.setdefault(now.step, found)

    with pytest.warns(UserWarning, match="back to step 5"):
        loop.start(config(given, checkpoint_every=1), out=given / "run", watch=watch)
    assert seen[6] == [4, 5] and seen[7] == seen[8] == seen[9] == seen[10] == [5, 6]


def test_a_later_checkpoint_that_is_damaged_is_passed_over_for_the_one_before(given, spoil):
    def watch(now):
        if now.step == 10:
            (given / "run/checkpoints/000008.safetensors").write_bytes(b"x" * 100)

    spoil("d", unless_returned(9))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop.start(config(given), out=given / "run", watch=watch)
    texts = " | ".join(str(warning.message) for warning in caught)
    assert "000008.safetensors" in texts and "back to step 4" in texts


def test_after_three_returns_comes_a_clear_end_with_a_report(given, spoil):
    spoil("g", lambda run, step: step >= 9)
    sentence = (
        r"^the gradient of g is not finite at step 14, the 5th time in a row; going back 3 times, at last at a "
        r"learning rate of 0\.0005, has not helped: try a lower --lr than 0\.004 from the beginning; "
        r"step 8 is kept in .*checkpoints$"
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(loop.Diverged, match=sentence):
            loop.start(config(given), out=given / "run")
    run = given / "run"
    assert [f"({n} of at most 3 times)" in str(w.message) for n, w in enumerate(caught, start=1)] == [True] * 3
    assert not (run / "model.safetensors").exists()
    assert [entry["lr"] for entry in lines(run, "recovery")] == [0.002, 0.001, 0.0005]
    assert all(torch.isfinite(t).all() for t in checkpoint(run, 8).values())
    page = (run / "report.html").read_text()
    assert "The run has no result" in page and "in 8&nbsp;steps" in page
    assert page.count("Back to step 8") == MOST_RETURNS


def test_weights_gone_bad_between_steps_never_reach_a_checkpoint_or_the_result(given):
    hurt, begun = [], loop.begin

    def watch(now):
        if now.step == 6 and not hurt:
            hurt.append(True)
            adaptations[0].nets.ema.conv1.conv.weight.data[0, 0, 0, 0, 0] = float("inf")

    adaptations = []
    loop.begin = lambda *given: adaptations.append(begun(*given)) or adaptations[0]
    try:
        with pytest.warns(UserWarning, match="weights are not finite after step 8: back to step 4"):
            model = loop.start(config(given), out=given / "run", watch=watch)
    finally:
        loop.begin = begun
    assert all(torch.isfinite(parameter).all() for parameter in model.generator.parameters())


def test_fisher_information_that_a_method_cannot_do_without_takes_the_run_back(given, monkeypatch):
    original, hurt = AdaM._importance, []

    def once(self, network, layers, context):
        importance = original(self, network, layers, context)
        if not hurt:
            hurt.append(next(iter(importance.values())).fill_(float("nan")))
        return importance

    monkeypatch.setattr(AdaM, "_importance", once)
    with pytest.warns(UserWarning, match="Fisher information of step 7 is not finite: back to step 4"):
        loop.start(config(given, AdaM(probe=0.5, fisher_samples=2)), out=given / "run")
    assert [entry["step"] for entry in lines(given / "run", "decisions")] == [7, 7]


def test_a_watcher_hears_how_many_updates_were_left_out(given, spoil):
    spoil("d", lambda run, step: step in (3, 5))
    heard = []
    loop.start(
        config(given), out=given / "run", watch=lambda now: heard.append((now.skipped, now.stats.get("skipped")))
    )
    assert [total for total, _ in heard] == [0, 0, 0, 1, 1] + [2] * 9
    assert [now for _, now in heard] == [None] * 3 + [1, None, 1] + [None] * 8
    assert [entry["step"] for entry in lines(given / "run", "stats") if "skipped" in entry] == [4, 6]


@pytest.mark.filterwarnings("ignore:.*are among the shots")
def test_a_best_that_the_run_went_back_behind_is_not_the_best_any_more(given, spoil, monkeypatch):
    """Step 8 is the best until it is undone. It had replaced step 4's file, so the best that there still is is 12."""
    values = iter((3.0, 1.0, 9.0, 5.0, 4.0, 6.0))  # of steps 4, 8, 12, 8 and 12 again, and the last
    monkeypatch.setattr(scoring, "score", lambda *_, **__: {"fd_efflite_500": {"value": next(values)}})
    spoil("d", unless_returned(8))
    scored = {"eval_every": 4, "eval_metrics": "fd_efflite_500", "eval_real": str(given / "shots")}
    run = run_to_end(given, checkpoint_every=5, **scored)
    assert [entry["step"] for entry in lines(run, "metrics")] == [4, 8, 12, STEPS]
    assert load_model(run / "best.safetensors").card["best"] == {"metric": "fd_efflite_500", "value": 4.0}
