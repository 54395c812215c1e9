"""DAP taken apart: other rules for how many filters go, other choices of which; the default is untouched by them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tenshot.adaptation import begin
from tenshot.config import RunConfig
from tenshot.errors import TenshotError
from tenshot.filters import Fate
from tenshot.fisher import magnitude
from tenshot.methods import Dap
from tenshot.pruning import Guards, count_cumulative, count_share, count_single, decide
from tenshot.step import run_step
from tiny import tiny_model, tiny_shots

FREE = Guards(max_ratio=1.0, max_new=1.0, min_alive=0)
EAGER = Dap(warmup=0.0, settle=0.0, every=5, prune_mass=0.1, guards=FREE)
IMPORTANCES = st.lists(st.integers(1, 1000), min_size=2, max_size=40).map(lambda v: torch.tensor(v).float())


def pruned_after(method, steps=5, seed=0):
    """Layer -> which filters are pruned, of both networks."""
    config = RunConfig(shots="tiny", method=method, steps=100, batch=2, seed=seed)
    run = begin(config, tiny_model(), tiny_shots())
    for step in range(steps):
        run_step(run, step)
    fates = {name: value for name, value in run.state.items() if name.endswith("/fate")}
    return {name.removesuffix("/fate"): fate == Fate.PRUNE for name, fate in fates.items()}, run


def counts(pruned):
    return {name: int(mask.sum()) for name, mask in pruned.items()}


@settings(max_examples=100, deadline=None)
@given(importance=IMPORTANCES, mass=st.sampled_from([0.0, 0.01, 0.1, 0.4]))
def test_daps_own_count_given_from_outside_changes_no_fate(importance, mass):
    before = torch.full([len(importance)], int(Fate.TUNE))
    given = {"prune_mass": mass, "preserve_mass": 0.2, "guards": FREE}
    wanted = count_cumulative(importance, mass)
    assert torch.equal(
        decide(importance, before, **given), decide(importance, before, **{**given, "prune_mass": 0.0}, wanted=wanted)
    )


@settings(max_examples=100, deadline=None)
@given(layers=st.lists(IMPORTANCES, min_size=1, max_size=5), share=st.sampled_from([0.0, 0.04, 0.25, 0.5, 1.0]))
def test_a_share_of_all_layers_is_that_of_the_pool_and_a_share_of_each_is_its_floor(layers, share):
    named = {str(i): values for i, values in enumerate(layers)}
    pool = np.concatenate([values.numpy() for values in layers])
    found = count_share(named, share, pooled=True)
    k = int(share * len(pool) + 1e-9)
    assert sum(found.values()) == k
    if 0 < k < len(pool):
        line = np.sort(pool)[k - 1]
        for name, values in named.items():
            assert (values < line).sum() <= found[name] <= (values <= line).sum()
    each = count_share(named, share, pooled=False)
    assert each == {name: int(np.floor(share * len(values) + 1e-9)) for name, values in named.items()}


def test_single_filters_are_counted_by_their_own_importance():
    importance = torch.tensor([0.1, 0.2, 1.0, 2.7])  # mean 1
    assert [count_single(importance, level) for level in (0.0, 0.05, 0.15, 0.3, 1.1)] == [0, 0, 1, 2, 3]


def test_magnitude_is_the_mean_absolute_weight_of_a_filter():
    network = tiny_model().generator
    group = next(g for g in network.filter_groups() if g.name == "convs.1")
    weight = network.get_parameter(group.slices[0].parameter)
    assert group.slices[0].axis == 1
    assert torch.allclose(magnitude(network, group), torch.stack([w.abs().mean() for w in weight[0]]))


@pytest.mark.parametrize("choose", ["random", "magnitude"])
def test_as_many_filters_go_as_daps_rule_says_but_others(choose):
    ours, _ = pruned_after(EAGER)
    others, _ = pruned_after(replace(EAGER, choose=choose))
    assert counts(others) == counts(ours) and sum(counts(ours).values()) > 5
    assert any(not torch.equal(ours[name], others[name]) for name in ours)


def test_the_smallest_filters_go_first():
    pruned, _ = pruned_after(replace(EAGER, choose="magnitude"))
    _, before = pruned_after(EAGER, steps=4)
    for network in ("generator", "discriminator"):
        trained = getattr(before.nets, network)
        for group in trained.filter_groups():
            mask = pruned.get(f"{network}/{group.name}")
            if mask is not None and mask.any():  # one step of training lies between: no order is turned far
                sizes = magnitude(trained, group)
                assert sizes[mask].max() <= sizes[~mask].min() + 0.02 * sizes.mean()


def test_random_filters_depend_on_the_seed_alone_and_stay_pruned():
    early, _ = pruned_after(replace(EAGER, choose="random"))
    late, _ = pruned_after(replace(EAGER, choose="random"), steps=20)
    other, _ = pruned_after(replace(EAGER, choose="random"), seed=1)
    assert all((late[name] | ~mask).all() for name, mask in early.items())
    assert any(not torch.equal(early[name], other[name]) for name in early)


def test_the_static_rules_prune_the_share_they_are_told():
    level = 0.3
    each, run = pruned_after(replace(EAGER, rule="layer", prune_level=level))
    assert counts(each) == {name: int(level * len(mask) + 1e-9) for name, mask in each.items()}
    pooled, run = pruned_after(replace(EAGER, rule="global", prune_level=level))
    for network in ("generator", "discriminator"):
        masks = {name: mask for name, mask in pooled.items() if name.startswith(network)}
        assert sum(counts(masks).values()) == int(level * sum(map(len, masks.values())) + 1e-9)
        importance = {name: run.state[f"{name}/importance"] for name in masks}
        highest = max(importance[name][mask].max() for name, mask in masks.items() if mask.any())
        assert all((importance[name][~mask] >= highest).all() for name, mask in masks.items())


def test_only_the_global_rule_lets_layers_differ_in_importance():
    _, own = pruned_after(EAGER, steps=4)
    _, pooled = pruned_after(replace(EAGER, rule="global"), steps=4)
    names = [name for name in own.state if name.startswith("generator/") and name.endswith("importance")]
    assert [float(own.state[name].mean()) for name in names] == pytest.approx([1.0] * len(names), rel=1e-5)
    means = torch.tensor([float(pooled.state[name].mean()) for name in names])
    assert means.max() > 2 * means.min()
    every = torch.cat([pooled.state[name] for name in names])
    assert float(every.mean()) == pytest.approx(1.0, rel=1e-5)


def test_single_filters_go_by_their_share_of_the_layers_mean():
    pruned, run = pruned_after(replace(EAGER, rule="single", prune_level=0.5))
    for name, mask in pruned.items():
        importance = run.state[f"{name}/importance"]
        assert torch.equal(mask, importance.double() <= 0.5 * importance.double().mean())


@pytest.mark.parametrize(
    "other", [{"rule": "layer"}, {"rule": "single"}, {"choose": "random"}, {"choose": "magnitude"}]
)
def test_filters_return_only_by_daps_own_rule(other):
    with pytest.raises(TenshotError, match=r"--dap\.revive is True: it must be off with another rule"):
        Dap(revive=True, **other)
