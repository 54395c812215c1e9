"""One step: optimisers as published, phases when due, nothing trained that should not be."""

from dataclasses import dataclass

import pytest
import torch

from tenshot.adaptation import begin
from tenshot.checkpoint import restore, snapshot
from tenshot.config import RunConfig
from tenshot.errors import TenshotError
from tenshot.methods import Finetune
from tenshot.models import Model
from tenshot.step import average_, lr_factor, run_step
from tiny import tiny_model, tiny_shots


def begun(**settings):
    config = RunConfig(shots="tiny", method=Finetune(), **{"batch": 2, **settings})
    return begin(config, tiny_model(), tiny_shots())


def test_learning_rates_and_betas_are_corrected_for_lazy_regularisation_as_published():
    run = begun(lr=0.002)
    (g,), (d,) = run.nets.optimiser_g.param_groups, run.nets.optimiser_d.param_groups
    assert g["lr"] == pytest.approx(0.0016) and g["betas"] == pytest.approx((0.0, 0.99199), abs=1e-5)
    assert d["lr"] == pytest.approx(0.001882, abs=1e-6) and d["betas"] == pytest.approx((0.0, 0.99059), abs=1e-5)


def test_the_ratio_scales_the_discriminators_learning_rate_alone():
    one, three = begun(lr_ratio=1.0), begun(lr_ratio=3.0)
    assert three.nets.optimiser_d.param_groups[0]["lr"] == pytest.approx(3 * one.nets.optimiser_d.param_groups[0]["lr"])
    assert three.nets.optimiser_g.param_groups[0]["lr"] == one.nets.optimiser_g.param_groups[0]["lr"]


def test_learning_rates_fall_to_zero_over_the_last_share_of_the_run():
    factors = [lr_factor(step, 100, 0.4) for step in range(100)]
    assert factors[:61] == [1.0] * 61
    assert factors[80] == pytest.approx(0.5) and factors[99] == pytest.approx(0.025)
    assert lr_factor(99, 100, 0.0) == 1.0

    run = begun(steps=10, lr_decay=0.5, lr=0.002)
    run_step(run, 9)
    assert run.nets.optimiser_g.param_groups[0]["lr"] == pytest.approx(0.0016 / 5)
    assert run.nets.optimiser_d.param_groups[0]["lr"] == pytest.approx(0.001882 / 5, rel=1e-3)


def test_the_published_average_forgets_half_in_312_steps_of_4_images():
    run = begun(batch=4, ema_half_life=1250, path_every=0, r1_every=0)
    before = run.nets.ema.conv1.conv.weight.clone()
    run_step(run, 0)
    after, trained = run.nets.ema.conv1.conv.weight, run.nets.generator.conv1.conv.weight
    torch.testing.assert_close(after, before + (1 - 0.997784) * (trained - before), rtol=1e-4, atol=1e-7)


def test_averaging_keeps_equal_parameters_equal_to_the_bit():
    a, b = tiny_model().generator, tiny_model().generator
    for _ in range(5):
        average_(a, b, 0.9977)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_penalties_are_taken_when_they_are_due():
    run = begun(r1_every=3, path_every=2)
    due = [{name for name in run_step(run, step) if name in ("r1", "path")} for step in range(7)]
    assert due == [{"r1", "path"}, set(), {"path"}, {"r1"}, {"path"}, set(), {"r1", "path"}]
    assert not {"r1", "path"} & run_step(begun(r1_every=0, path_every=0), 0).keys()


def test_a_step_moves_every_parameter_of_both_networks():
    run = begun()
    before = {k: v.clone() for k, v in snapshot(run).items() if k.startswith(("generator/", "discriminator/"))}
    run_step(run, 0)
    after = snapshot(run)
    still = [k for k, v in before.items() if torch.equal(v, after[k]) and not k.endswith(("gate", "latent_avg"))]
    assert still == []


def test_requires_grad_flags_are_as_before_after_a_step():
    run = begun()
    run_step(run, 0)
    for network in (run.nets.generator, run.nets.discriminator):
        assert all(parameter.requires_grad for parameter in network.parameters())


def test_a_source_without_discriminator_is_refused():
    with pytest.raises(TenshotError, match="has no discriminator"):
        begin(RunConfig(shots="x", source="here"), Model(tiny_model().generator), tiny_shots())


def test_an_adapted_model_names_the_source_that_can_be_adapted_again(tmp_path):
    model = Model(tiny_model().generator, None, {"source": {"name": "faces64"}})
    with pytest.raises(TenshotError, match=r"adapted from faces64, so give --source faces64$"):
        begin(RunConfig(shots="x", source="robots.safetensors"), model, tiny_shots())
    longer = f"--source faces64, for a longer run with --config {tmp_path}/config.json --steps N$"
    with pytest.raises(TenshotError, match=longer):
        begin(RunConfig(shots="x", source=str(tmp_path)), model, tiny_shots())


def test_a_snapshot_of_other_networks_is_refused_by_name():
    run = begun()
    tensors = snapshot(run)
    del tensors["ema/conv1.conv.weight"]
    with pytest.raises(TenshotError, match=r"checkpoint, ema: conv1\.conv\.weight is missing"):
        restore(begun(), tensors)
    with pytest.raises(TenshotError, match="no path_mean"):
        restore(begun(), {})


@dataclass(frozen=True)
class _OnlyConvolutions(Finetune):
    def trains(self, network, parameter):
        return network == "generator" and parameter.startswith("convs.")


def test_any_parameter_may_be_left_out_even_a_whole_network():
    run = begin(RunConfig(shots="tiny", method=_OnlyConvolutions(), batch=2), tiny_model(), tiny_shots())
    before = {k: v.clone() for k, v in snapshot(run).items() if k.startswith(("generator/", "discriminator/"))}
    run_step(run, 0)
    moved = {k for k, v in snapshot(run).items() if k in before and not torch.equal(v, before[k])}
    assert moved and all(k.startswith("generator/convs.") for k in moved)
