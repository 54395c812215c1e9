"""Numbers gone bad, site by site: the update is left out and counted, and whatever it would have changed stays."""

import functools
import math

import pytest
import torch

from tenshot import phases
from tenshot.adaptation import begin
from tenshot.checkpoint import restore, snapshot
from tenshot.config import RunConfig, build_method
from tenshot.errors import TenshotError
from tenshot.methods import Dap, Rick
from tenshot.recovery import MOST_RETURNS, PATIENCE, SITES, Health, NotFinite, Row, way_back
from tenshot.step import run_step
from tiny import QUICK, tiny_model, tiny_shots

METHODS = {
    "finetune": {},
    "dap": {**QUICK["dap"], "every": 3, "consistency": "dcl"},
    "adam": {"probe": 0.25, "fisher_samples": 2},
    "rick": {"warmup": 0.125, "fisher_samples": 2, "decisions": 3},
}
PARTS = {"d": "discriminator", "r1": "discriminator", "g": "generator", "path": "generator"}
QUIET, PENALTIES = 5, 6
"""Of the eight steps, one without penalties and one with both."""
NAN = float("nan")


def begun(name="finetune", **settings):
    settings = {"steps": 8, "batch": 2, "r1_every": 3, "path_every": 2, "augment": "ada", "augment_p": 0.5, **settings}
    method = build_method(name, METHODS[name])
    return begin(RunConfig("tiny", method=method, **settings), tiny_model(), tiny_shots())


@functools.cache
def state_after(name, step):
    run = begun(name)
    for earlier in range(step):
        run_step(run, earlier)
    return copied(run)


def begun_at(name, step):
    """A healthy run after so many steps."""
    run = begun(name)
    restore(run, {key: tensor.clone() for key, tensor in state_after(name, step).items()})
    return run


def one_loud(gradient):
    loud = torch.zeros_like(gradient)
    loud[0, 0] = 1.2e19  # its square is a float32, that of twice as much is not
    return loud


def copied(run):
    return {name: tensor.detach().clone() for name, tensor in snapshot(run).items()}


def changed(before, after):
    """What is not bit-identical, what has no number for both left out."""
    return {name for name in before if not torch.equal(before[name], after[name])}


def multiplied(function, factor):
    return lambda *args, **kwargs: function(*args, **kwargs) * factor


def spoil_loss(monkeypatch, run, phase, factor=NAN):
    names = {"d": "discriminator_loss", "r1": "r1_penalty", "g": "generator_loss", "path": "path_lengths"}
    monkeypatch.setattr(phases, names[phase], multiplied(getattr(phases, names[phase]), factor))


def spoil_gradient(monkeypatch, run, phase, factor=NAN):
    """Of one parameter, from now on."""
    network, _ = run.nets.of(phase)
    parameters = [p for name, p in network.named_parameters() if p.requires_grad]
    hook = parameters[-1].register_hook(lambda gradient: gradient * factor)
    monkeypatch.callback(hook.remove)


def spoil_image(monkeypatch, run, phase, factor=NAN):
    """One pixel of what G draws."""

    def synthesise(*args, **kwargs):
        images = draw(*args, **kwargs)
        factors = torch.ones_like(images)
        factors[0, 0, 0, 0] = factor
        return images * factors

    draw = run.nets.generator.synthesise
    monkeypatch.setattr(run.nets.generator, "synthesise", synthesise)


def spoil_extra(monkeypatch, run, phase, factor=NAN):
    original = type(run.method).extra_losses

    def spoilt(self, now, context, state, batch):
        terms = original(self, now, context, state, batch)
        return terms | {"extra": batch.fakes.mean() * factor} if now == phase else terms

    monkeypatch.setattr(type(run.method), "extra_losses", spoilt)


def spoil_gates(monkeypatch, run, phase, factor=NAN):
    """The derivatives that DAP's Fisher information is made of, and nothing else."""
    original = type(run.method).gates

    def spoilt(self, now, context, rows):
        gates = original(self, now, context, rows)
        if now == phase:
            next(iter(gates.values())).register_hook(lambda gradient: gradient * factor)
        return gates

    monkeypatch.setattr(type(run.method), "gates", spoilt)


SPOILS = {
    "loss": (spoil_loss, ("d", "r1", "g", "path")),
    "gradient": (spoil_gradient, ("d", "g")),
    "image": (spoil_image, ("g", "path")),
    "extra": (spoil_extra, ("d", "g")),
    "gates": (spoil_gates, ("d", "g")),
}
CASES = [
    (method, site, phase)
    for site, (_, phases) in SPOILS.items()
    for method in METHODS
    for phase in phases
    if (site != "gates" or method == "dap") and (site in ("loss", "gradient") or method not in ("adam", "rick"))
]


@pytest.fixture
def spoiling(monkeypatch):
    """monkeypatch whose `undo` also takes back what is registered as `callback`."""
    callbacks = []
    monkeypatch.callback = callbacks.append

    yield monkeypatch
    for callback in callbacks:
        callback()


@pytest.mark.parametrize(("method", "site", "phase"), CASES)
def test_a_spoilt_phase_changes_nothing_is_counted_and_the_run_goes_on(spoiling, method, site, phase):
    step = QUIET if phase in ("d", "g") else PENALTIES
    run = begun_at(method, step)
    before = copied(run)
    skipped = {"d", "g", phase} if site == "image" else {phase}

    with spoiling.context() as patch:
        patch.callback = spoiling.callback
        SPOILS[site][0](patch, run, phase)
        stats = run_step(run, step)
    after = copied(run)

    assert run.health.skipped == stats["skipped"] == len(skipped)
    assert {name for name, row in zip(SITES, run.health.rows, strict=True) if row.count} == skipped
    assert not skipped & stats.keys() and all(map(math.isfinite, stats.values()))
    assert all(torch.isfinite(tensor).all() for tensor in after.values())
    moved = changed(before, after)
    if step == QUIET:  # the phase alone trains its network
        for part in {PARTS[phase] for phase in skipped}:
            assert not [name for name in moved if name.startswith((f"{part}/", f"adam/{part}/", f"state/{part}/"))]
        assert not ({"d"} & skipped and {"ada"} & moved)
        assert not ({"g"} & skipped and [name for name in moved if name.startswith("ema/")])
        assert not ({"d", "r1"} & skipped and [name for name in moved if name.startswith("discriminator_ema/")])
    for name, kept in (("path", "path_mean"), ("d", "ada")):
        assert name not in skipped or kept not in moved
    for other in {"d", "g"} - skipped:
        assert any(name.startswith(f"{PARTS[other]}/") for name in moved)


@pytest.mark.parametrize("phase", ["r1", "path"])
def test_a_spoilt_penalty_leaves_out_one_of_two_updates_of_its_network(spoiling, phase):
    def updates(run):
        return {
            name: int(tensor)
            for name, tensor in snapshot(run).items()
            if name.startswith(f"adam/{PARTS[phase]}/") and name.endswith("/step")
        }

    run, healthy = (begun_at("finetune", PENALTIES) for _ in range(2))
    before = updates(run)
    spoil_loss(spoiling, run, phase)
    run_step(run, PENALTIES)
    spoiling.undo()
    run_step(healthy, PENALTIES)
    assert {name: now - before[name] for name, now in updates(run).items()} == dict.fromkeys(before, 1)
    assert max(now - before[name] for name, now in updates(healthy).items()) == 2


@pytest.mark.parametrize("factor", [NAN, math.inf, -math.inf, 1e25])
def test_a_gradient_is_bad_if_adams_second_moment_would_not_be_a_number(spoiling, factor):
    run = begun()
    spoil_gradient(spoiling, run, "g", factor)
    assert run_step(run, 1)["skipped"] == 1
    assert all(torch.isfinite(tensor).all() for name, tensor in snapshot(run).items() if name != "path_mean")


def test_ema_that_is_spoilt_while_training_is_not_touched_by_a_step_that_was_left_out(spoiling):
    """Weights gone bad from outside: no later step spreads them to the average or to the other network."""
    run = begun_at("rick", QUIET)
    run.nets.generator.convs[0].conv.weight.data[0, 0, 0, 0, 0] = NAN
    before = copied(run)
    assert run_step(run, QUIET)["skipped"] == 2
    spread = {name for name, tensor in snapshot(run).items() if not torch.isfinite(tensor).all()}
    assert spread == {"generator/convs.0.conv.weight"}
    assert {name.partition("/")[0] for name in changed(before, snapshot(run))} <= {
        "generator",
        "health",
        "discriminator_ema",
    }


@pytest.mark.parametrize("method", ["dap", "rick"])
def test_estimates_that_a_method_passes_over_are_counted(method, monkeypatch):
    run = begun(method)
    if method == "dap":  # finite derivatives whose squares are not
        original = type(run.method).gates

        def loud(self, phase, context, rows):
            gates = original(self, phase, context, rows) or {}
            for gate in list(gates.values())[:1]:
                gate.register_hook(one_loud)
            return gates or None

        monkeypatch.setattr(type(run.method), "gates", loud)
    else:
        run.nets.ema.convs[0].conv.weight.data.fill_(math.inf)
    entries = []
    run.record = entries.append
    skipped = run_step(run, 0).get("skipped", 0)
    assert any("skipped" in entry for entry in entries)
    assert skipped == run.health.skipped == 1
    assert dict(zip(SITES, run.health.rows, strict=True))["fisher"] == Row(1, 0)


@pytest.mark.parametrize(
    "method",
    [Rick(fisher_samples=1, warmup=0.1, decisions=9), Dap(estimator="weight", fisher_samples=1, warmup=0.1, every=2)],
    ids=["rick", "dap"],
)
def test_estimates_that_fail_again_and_again_end_as_bad_steps_do_however_seldom_they_are(method, monkeypatch):
    config = RunConfig("tiny", method=method, steps=20, batch=2, r1_every=0, path_every=0)
    run = begin(config, tiny_model(), tiny_shots())
    bad = lambda network, groups, losses: {group.name: torch.full([group.count], math.nan) for group in groups}  # noqa: E731
    monkeypatch.setattr(f"tenshot.methods.{method.name}.weight_fisher", bad)
    with pytest.raises(NotFinite, match=r"^the Fisher information is not finite at step 10, the 5th time in a row$"):
        for step in range(20):
            run_step(run, step)


@pytest.mark.parametrize("phase", ["d", "r1", "g", "path"])
def test_a_phase_that_fails_again_and_again_is_told_with_its_first_step(spoiling, phase):
    run = begun(r1_every=3, path_every=2, steps=40)
    run_step(run, 0)
    spoil_loss(spoiling, run, phase)
    every = {"r1": 3, "path": 2}.get(phase, 1)
    last = every * PATIENCE
    for step in range(1, last):
        run_step(run, step)
    with pytest.raises(
        NotFinite, match=f"^{phase} is not finite at step {last + 1}, the {PATIENCE}th time in a row$"
    ) as caught:
        run_step(run, last)
    assert caught.value.since == every and run.health.skipped == PATIENCE


def test_one_good_update_ends_a_row(spoiling):
    run = begun(steps=40, r1_every=0, path_every=0)
    for step in range(12):
        with spoiling.context() as patch:
            if step % PATIENCE:
                spoil_loss(patch, run, "g")
            run_step(run, step)
    assert run.health.skipped == sum(step % PATIENCE > 0 for step in range(12))


def test_what_was_counted_is_saved_and_restored(spoiling):
    run = begun(steps=40)
    spoil_loss(spoiling, run, "g")
    for step in range(3):
        run_step(run, step)
    resumed = begun(steps=40)
    restore(resumed, copied(run))
    assert resumed.health == run.health and run.health.skipped == 3 and not run.health.is_well


def test_a_checkpoint_of_before_there_was_a_count_is_one_without_faults():
    run, tensors = begun(), copied(begun())
    del tensors["health"]
    restore(run, tensors)
    assert run.health == Health() and run.health.is_well


@pytest.mark.parametrize("tensor", [torch.zeros(3), torch.zeros(4, dtype=torch.int64), torch.full((13,), -1)])
def test_a_count_that_is_no_count_is_refused(tensor):
    with pytest.raises(TenshotError, match="count of what went wrong is damaged"):
        Health.from_tensor(tensor)


def test_after_a_return_the_learning_rate_is_half_and_random_numbers_are_others():
    run, again = begun(lr=0.002), begun(lr=0.002)
    again.health = again.health.gone_back()
    one, other = run_step(run, 1), run_step(again, 1)
    assert one["d_fake"] != other["d_fake"]
    for optimiser in ("optimiser_g", "optimiser_d"):
        lr, halved = (getattr(r.nets, optimiser).param_groups[0]["lr"] for r in (run, again))
        assert halved == lr / 2
    assert Health(returns=MOST_RETURNS).lr_scale == 0.5**MOST_RETURNS
    assert Health().names == () and len({Health(returns=n).names for n in range(4)}) == 4


@pytest.mark.parametrize(
    ("steps", "since", "every", "found"),
    [
        ([4, 8], 10, 4, 8),
        ([4, 8], 8, 4, 4),  # the state after 8 steps is the one that failed
        ([4, 8], 4, 4, None),
        ([4, 6, 8], 8, 4, 4),  # 6: written because the run was stopped
        ([], 5, 4, None),
        ([3], 5, 0, None),
        ([0, 4], 3, 4, 0),
    ],
)
def test_the_way_back_leads_to_the_newest_checkpoint_with_a_good_step_after_it(steps, since, every, found):
    assert way_back(steps, since, every) == found
