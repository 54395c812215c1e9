"""What holds of every decision, whatever the importances, the fates before and the guards."""

import math

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tenshot.filters import Fate
from tenshot.pruning import Guards, decide, decide_pooled, ramp, track

MANY = settings(max_examples=80, deadline=None)
PRUNE, TUNE, PRESERVE = int(Fate.PRUNE), int(Fate.TUNE), int(Fate.PRESERVE)
masses = st.sampled_from([0.0, 0.001, 0.02, 0.1, 0.3, 0.7, 0.99])
shares = st.floats(0.0, 1.0, allow_subnormal=False)
guards = st.builds(Guards, shares, shares, st.integers(0, 12))
numbers = st.one_of(st.just(0.0), st.floats(2.0**-20, 2.0**20, width=32), st.integers(1, 5).map(float))


@st.composite
def layers(draw, values=numbers, fates=(PRUNE, TUNE, PRESERVE)):
    """Importances, many of them equal or zero, and what was decided before."""
    importance = draw(st.lists(values, min_size=1, max_size=30))
    before = draw(st.lists(st.sampled_from(fates), min_size=len(importance), max_size=len(importance)))
    assume(sum(importance) > 0)
    return torch.tensor(importance), torch.tensor(before)


distinct = layers(st.integers(0, 2**20).map(float)).filter(lambda pair: len(pair[0].unique()) == len(pair[0]))


@MANY
@given(layers(), masses, masses, guards, st.booleans())
def test_no_guard_is_ever_exceeded(layer, prune, preserve, guard, revive):
    importance, before = layer
    after = decide(importance, before, prune_mass=prune, preserve_mass=preserve, guards=guard, revive=revive)
    count, gone, were_gone = len(after), int((after == PRUNE).sum()), int((before == PRUNE).sum())
    kept_gone = 0 if revive else were_gone
    assert after.shape == before.shape and after.dtype == before.dtype
    assert set(after.tolist()) <= {PRUNE, TUNE, PRESERVE}
    assert gone <= max(kept_gone, math.floor(guard.max_ratio * count))
    assert count - gone >= min(guard.min_alive, count - kept_gone)
    most_new = max(1, math.floor(guard.max_new * count)) if guard.max_new else 0
    assert gone <= max(kept_gone, were_gone + most_new)


@MANY
@given(layers(), masses, guards, st.booleans())
def test_the_pruned_are_the_least_important_and_carry_no_more_than_the_mass(layer, prune, guard, revive):
    importance, before = layer
    after = decide(importance, before, prune_mass=prune, preserve_mass=0.0, guards=guard, revive=revive)
    pruned, bound = after == PRUNE, (before == PRUNE) & (not revive)
    assert (pruned | ~bound).all(), "what was pruned stays so, unless it may be revived"
    new = pruned & ~bound
    if new.any():
        assert importance[new].max() <= importance[~pruned].min() if (~pruned).any() else True
        assert importance[pruned].double().sum() <= (prune + 1e-6) * importance.double().sum()
    assert prune > 0 or not new.any()


@MANY
@given(layers(), masses, guards)
def test_preserved_filters_are_the_most_important_living_ones_and_just_enough(layer, preserve, guard):
    importance, before = layer
    after = decide(importance, before, prune_mass=0.02, preserve_mass=preserve, guards=guard)
    kept, tuned = importance[after == PRESERVE].double(), importance[after == TUNE].double()
    living = importance[after != PRUNE].double().sum()
    assume(living > 0)
    if len(kept) and len(tuned):
        assert kept.min() >= tuned.max()
    assert kept.sum() >= preserve * living * (1 - 1e-6)
    if len(kept):
        assert kept.sum() - kept.min() <= preserve * living * (1 + 1e-6) + 1e-9


@MANY
@given(layers(), masses, masses, masses, guards, st.booleans())
def test_more_mass_never_spares_a_filter_that_less_would_prune(layer, one, other, preserve, guard, revive):
    low, high = (
        decide(*layer, prune_mass=mass, preserve_mass=preserve, guards=guard, revive=revive) == PRUNE
        for mass in sorted((one, other))
    )
    assert (high | ~low).all()


@MANY
@given(layers(), masses, masses, guards)
def test_more_mass_never_stops_preserving_a_filter(layer, one, other, guard):
    low, high = (
        decide(*layer, prune_mass=0.02, preserve_mass=mass, guards=guard) == PRESERVE for mass in sorted((one, other))
    )
    assert (high | ~low).all()


@MANY
@given(distinct, st.randoms(use_true_random=False), masses, masses, guards, st.booleans())
def test_the_order_of_filters_does_not_matter(layer, random, prune, preserve, guard, revive):
    importance, before = layer
    mixed = torch.tensor(random.sample(range(len(before)), len(before)))
    given_rules = {"prune_mass": prune, "preserve_mass": preserve, "guards": guard, "revive": revive}
    after = decide(importance, before, **given_rules)
    assert torch.equal(decide(importance[mixed], before[mixed], **given_rules), after[mixed])


@MANY
@given(layers(), st.integers(-20, 20), masses, masses, guards)
def test_the_scale_of_the_loss_does_not_matter(layer, exponent, prune, preserve, guard):
    importance, before = layer
    rules = {"prune_mass": prune, "preserve_mass": preserve, "guards": guard}
    scaled = importance.double() * 2.0**exponent  # exact
    assert torch.equal(decide(scaled, before, **rules), decide(importance.double(), before, **rules))


@MANY
@given(layers(), masses, masses, shares, st.integers(0, 12), st.booleans())
def test_deciding_again_with_the_same_importances_changes_nothing(layer, prune, preserve, ratio, alive, revive):
    """With no limit on what is new at once: that limit's very purpose is to spread a decision over several."""
    rules = {"prune_mass": prune, "preserve_mass": preserve, "guards": Guards(ratio, 1.0, alive), "revive": revive}
    once = decide(*layer, **rules)
    assert torch.equal(decide(layer[0], once, **rules), once)


@MANY
@given(layers(), masses, guards)
def test_decisions_that_are_repeated_settle_where_one_without_the_limit_goes_at_once(layer, prune, guard):
    importance, before = layer
    assume(guard.max_new > 0)
    free = Guards(guard.max_ratio, 1.0, guard.min_alive)
    for _ in range(len(before) + 1):
        before = decide(importance, before, prune_mass=prune, preserve_mass=0.3, guards=guard)
    assert torch.equal(before, decide(importance, layer[1], prune_mass=prune, preserve_mass=0.3, guards=free))


@MANY
@given(layers(), st.sampled_from([math.nan, math.inf, -math.inf]), st.data(), masses, guards)
def test_importances_that_are_no_numbers_decide_nothing(layer, bad, data, prune, guard):
    importance, before = layer
    importance[data.draw(st.integers(0, len(before) - 1))] = bad
    assert torch.equal(decide(importance, before, prune_mass=prune, preserve_mass=0.5, guards=guard), before)
    zero = torch.zeros_like(importance)
    assert torch.equal(decide(zero, before, prune_mass=prune, preserve_mass=0.5, guards=guard), before)


@MANY
@given(distinct, st.randoms(use_true_random=False), st.floats(0, 40), st.floats(0, 100), shares)
def test_a_pooled_decision_is_bounded_ordered_and_blind_to_the_order_of_filters(layer, random, low, high, most):
    importance, before = layer
    low, high = sorted((low, high))
    rules = {"prune_percent": low, "tune_percent": high, "max_new": most}
    counted = torch.ones_like(before, dtype=torch.bool)
    after = decide_pooled(importance, before, counted=counted, **rules)
    new = (after == PRUNE) & (before != PRUNE)
    assert ((after == PRUNE) | (before != PRUNE)).all()
    assert int(new.sum()) <= math.ceil(most * len(before))
    if new.any() and (rest := (after != PRUNE) & (before != PRUNE)).any():
        assert importance[new].max() < importance[rest].min()
    mixed = torch.tensor(random.sample(range(len(before)), len(before)))
    again = decide_pooled(importance[mixed], before[mixed], counted=counted, **rules)
    assert torch.equal(again, after[mixed])


@MANY
@given(layers(), st.data(), st.floats(0.0, 0.999), st.integers(1, 1000), st.integers(-15, 15))
def test_tracking_stays_between_old_and_new_ignores_the_scale_and_leaves_the_dead(
    layer, data, beta, estimate, exponent
):
    fisher, fates = layer
    alive = fates != PRUNE
    tracked = torch.tensor(data.draw(st.lists(numbers, min_size=len(fisher), max_size=len(fisher))))
    after = track(tracked, fisher, alive, beta, estimate)
    assert torch.equal(after[~alive], tracked[~alive])
    if not alive.any() or not fisher[alive].sum() > 0:
        assert torch.equal(after, tracked)
        return
    new = fisher / fisher[alive].mean()
    low, high = torch.minimum(tracked, new), torch.maximum(tracked, new)
    slack = 1e-5 * high + 1e-30
    assert ((after >= low - slack) & (after <= high + slack))[alive].all()
    torch.testing.assert_close(
        track(tracked, fisher * 2.0**exponent, alive, beta, estimate), after, rtol=1e-5, atol=1e-30
    )
    if estimate == 1:
        torch.testing.assert_close(after[alive], new[alive], rtol=1e-5, atol=1e-4 * float(high.max()))


@MANY
@given(st.integers(-5, 2000), st.integers(0, 1000), st.integers(0, 1000))
def test_the_ramp_rises_from_nothing_to_all_and_never_falls(step, warmup, length):
    now, later = (ramp(at, warmup, warmup + length) for at in (step, step + 1))
    assert 0.0 <= now <= later <= 1.0
    assert (now == 0.0) == (step < warmup or (step == warmup and length > 0))
    assert (now == 1.0) == (step >= warmup + length) or length > 1000
