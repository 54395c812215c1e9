"""DAP's rules as facts: cumulative importance, ramp, guards, revival."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tenshot.filters import Fate
from tenshot.pruning import Guards, cumulative_weights, decide, ramp, track

FREE = Guards(max_ratio=1.0, max_new=1.0, min_alive=0)


def all_tuned(count: int) -> torch.Tensor:
    return torch.full([count], int(Fate.TUNE))


def fates(importance, *, prune=0.0, preserve=0.0, guards=FREE, before=None, revive=False) -> list[int]:
    importance = torch.as_tensor(importance, dtype=torch.float32)
    before = all_tuned(len(importance)) if before is None else torch.as_tensor(before)
    decided = decide(importance, before, prune_mass=prune, preserve_mass=preserve, guards=guards, revive=revive)
    return decided.tolist()


def slow_fates(importance: list[float], prune: float, preserve: float) -> list[int]:
    """The rule, read aloud: no guards, nothing pruned before."""
    total = math.fsum(importance)
    ranked = sorted(range(len(importance)), key=lambda i: importance[i])
    result, mass = [int(Fate.TUNE)] * len(importance), 0.0
    for i in ranked:
        mass += importance[i] / total
        if mass > prune + 1e-9:
            break
        result[i] = int(Fate.PRUNE)
    living = [i for i in ranked if result[i] != Fate.PRUNE]
    alive_total, mass = math.fsum(importance[i] for i in living), 0.0
    for i in reversed(living):
        if mass >= preserve - 1e-9:
            break
        result[i] = int(Fate.PRESERVE)
        mass += importance[i] / alive_total
    return result


@pytest.mark.parametrize("count", [4, 7, 10, 64, 100, 513])
@pytest.mark.parametrize("prune", [0.0, 0.01, 0.1, 0.25, 0.3])
def test_equal_importances_prune_floor_of_mass_times_count(count, prune):
    pruned = fates([3.7] * count, prune=prune).count(Fate.PRUNE)
    assert pruned == math.floor(prune * count + 1e-7)


@settings(max_examples=200, deadline=None)
@given(
    values=st.lists(st.integers(1, 100_000), min_size=2, max_size=40, unique=True),
    prune=st.sampled_from([0.0, 0.003, 0.05, 0.2, 0.5]),
    preserve=st.sampled_from([0.0, 0.1, 0.4, 0.9]),
)
def test_fates_equal_the_rule_read_aloud(values, prune, preserve):
    assert fates(values, prune=prune, preserve=preserve) == slow_fates(values, prune, preserve)


def test_a_factor_of_1000_on_a_layer_changes_nothing():
    importance = torch.rand(50, generator=torch.Generator().manual_seed(1)) ** 6
    assert fates(importance, prune=0.05, preserve=0.3) == fates(importance * 1000, prune=0.05, preserve=0.3)


def test_one_dominant_filter_lets_many_go_but_the_guards_hold():
    importance = [1000.0] + [0.01] * 19
    assert fates(importance, prune=0.1).count(Fate.PRUNE) == 19
    assert fates(importance, prune=0.1, guards=Guards(0.5, 1.0, 0)).count(Fate.PRUNE) == 10
    assert fates(importance, prune=0.1, guards=Guards(1.0, 0.2, 0)).count(Fate.PRUNE) == 4
    assert fates(importance, prune=0.1, guards=Guards(1.0, 1.0, 15)).count(Fate.PRUNE) == 5


def test_concentrated_importance_is_pruned_more_than_spread_importance():
    spread, concentrated = torch.linspace(1.0, 2.0, 100), torch.logspace(-4, 2, 100)
    assert fates(concentrated, prune=0.02).count(Fate.PRUNE) > 10 * fates(spread, prune=0.02).count(Fate.PRUNE)


def test_deciding_again_with_the_same_importances_changes_nothing():
    importance = torch.rand(64, generator=torch.Generator().manual_seed(2)) ** 4
    first = fates(importance, prune=0.05, preserve=0.2)
    assert Fate.PRUNE in first
    assert fates(importance, prune=0.05, preserve=0.2, before=first) == first


def test_a_pruned_filter_stays_pruned_without_revival_and_returns_with_it():
    before = [Fate.PRUNE, Fate.TUNE, Fate.TUNE, Fate.TUNE]
    importance = [5.0, 1.0, 1.0, 1.0]
    assert fates(importance, prune=0.13, before=before)[0] == Fate.PRUNE
    assert fates(importance, prune=0.13, before=before, revive=True) == [
        Fate.TUNE,
        Fate.PRUNE,
        Fate.TUNE,
        Fate.TUNE,
    ]


def test_a_pruned_filter_is_never_preserved():
    before = [Fate.PRUNE, Fate.TUNE, Fate.TUNE]
    assert fates([9.0, 1.0, 2.0], preserve=0.5, before=before) == [Fate.PRUNE, Fate.TUNE, Fate.PRESERVE]


def test_preserving_everything_and_nothing():
    assert fates([1.0, 2.0, 3.0], preserve=1.0) == [Fate.PRESERVE] * 3
    assert fates([1.0, 2.0, 3.0], preserve=0.0) == [Fate.TUNE] * 3


def test_a_layer_without_any_importance_stays_as_it_is():
    assert fates([0.0] * 8, prune=0.5, preserve=0.5) == [Fate.TUNE] * 8
    assert fates([math.nan, 1.0, 2.0], prune=0.5, before=[0, 1, 2]) == [0, 1, 2]


def test_a_mass_of_zero_prunes_nothing_not_even_filters_without_importance():
    assert fates([0.0, 0.0, 1.0, 2.0], prune=0.0) == [Fate.TUNE] * 4


def test_cumulative_weights_end_at_one():
    importance = torch.rand(1000, generator=torch.Generator().manual_seed(3))
    mass = cumulative_weights(importance, torch.argsort(importance))
    assert mass[-1].item() == pytest.approx(1.0, abs=1e-12)
    assert (mass.diff() >= 0).all()


def test_the_ramp_starts_at_zero_rises_and_settles_at_one():
    values = [ramp(step, 100, 400) for step in range(0, 600)]
    assert values[:101] == [0.0] * 101
    assert all(b > a for a, b in itertools.pairwise(values[100:401]))
    assert values[400:] == [1.0] * 200
    assert ramp(250, 100, 400) == pytest.approx(1 - 0.5**3)
    assert ramp(5, 5, 5) == 1.0


def test_tracking_is_the_bias_corrected_moving_average_of_normalised_fisher():
    rng, beta, alive = torch.Generator().manual_seed(4), 0.9, torch.ones(6, dtype=torch.bool)
    tracked, biased = torch.zeros(6), torch.zeros(6)
    for t in range(1, 30):
        fisher = torch.rand(6, generator=rng) * 10.0**t  # the scale of the loss may do what it likes
        tracked = track(tracked, fisher, alive, beta, t)
        biased = beta * biased + (1 - beta) * fisher / fisher.mean()
        torch.testing.assert_close(tracked, biased / (1 - beta**t))


def test_a_dead_filter_keeps_its_importance_and_does_not_enter_the_mean():
    tracked, alive = torch.tensor([0.1, 1.0, 1.9]), torch.tensor([False, True, True])
    after = track(tracked, torch.tensor([1e9, 1.0, 3.0]), alive, 0.0, 5)
    torch.testing.assert_close(after, torch.tensor([0.1, 0.5, 1.5]))


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0])
def test_fisher_information_without_a_usable_mean_is_passed_over(bad):
    tracked, alive = torch.tensor([1.0, 2.0]), torch.ones(2, dtype=torch.bool)
    assert torch.equal(track(tracked, torch.full((2,), bad), alive, 0.5, 3), tracked)
