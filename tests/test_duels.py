"""One variant against the others: pairs of the same domain and seed, and a ratio over domains."""

import numpy as np
import pytest
from scipy import stats

from tenshot.bench.duels import duel, duels
from tenshot.bench.specs import Spec

SPEC = Spec(("ours", "theirs", "alone"), ("dots", "dashes", "waves"), (0, 1), ())
NUMBERS = {
    ("ours", "dots"): {0: 90.0, 1: 80.0},
    ("theirs", "dots"): {0: 100.0, 1: 100.0},
    ("ours", "dashes"): {0: 220.0, 1: 210.0},
    ("theirs", "dashes"): {0: 200.0},
    ("ours", "waves"): {1: 50.0},
    ("theirs", "waves"): {0: 60.0, 1: 70.0},
}


def test_only_seeds_that_both_have_make_pairs():
    found = duel(SPEC, NUMBERS, "ours", "theirs", "lower")
    assert (found.pairs, found.better) == (4, 3)
    assert duel(SPEC, NUMBERS, "ours", "theirs", "higher").better == 1


def test_the_interval_is_scipys_over_the_means_of_domains():
    log_ratio = duel(SPEC, NUMBERS, "ours", "theirs", "lower").log_ratio
    domains = np.array([np.log([0.9, 0.8]).mean(), np.log(1.1), np.log(5 / 7)])
    low, high = stats.t.interval(0.95, 2, loc=domains.mean(), scale=stats.sem(domains))
    assert log_ratio.mean == pytest.approx(domains.mean())
    assert (log_ratio.mean - log_ratio.half, log_ratio.mean + log_ratio.half) == pytest.approx((low, high))


def test_a_domain_with_more_seeds_weighs_no_more():
    more = NUMBERS | {("ours", "dots"): {0: 90.0}}
    fewer = duel(SPEC, more | {("theirs", "dots"): {0: 100.0}}, "ours", "theirs", "lower")
    double = duel(
        SPEC,
        more | {("ours", "dots"): {0: 90.0, 1: 90.0}, ("theirs", "dots"): {0: 100.0, 1: 100.0}},
        "ours",
        "theirs",
        "lower",
    )
    assert fewer.log_ratio == pytest.approx(double.log_ratio) and double.pairs == fewer.pairs + 1


def test_the_reverse_duel_has_the_reciprocal_ratio():
    there, back = (duel(SPEC, NUMBERS, *names, "lower") for names in (("ours", "theirs"), ("theirs", "ours")))
    assert there.log_ratio.mean == pytest.approx(-back.log_ratio.mean)
    assert there.better + back.better == there.pairs


def test_who_has_no_pair_is_not_in_the_table():
    text = duels(SPEC, NUMBERS, "ours", "lower")
    assert "| theirs | 3 of 4 |" in text and "alone" not in text and "below 1 speaks for ours" in text
    assert duel(SPEC, NUMBERS, "ours", "alone", "lower") is None
    assert duels(SPEC, {}, "ours", "lower") == "*No pairs yet.*"


def test_pairs_with_numbers_that_have_no_ratio_are_counted_without_one():
    numbers = {("ours", "dots"): {0: 0.0, 1: 0.2}, ("theirs", "dots"): {0: 0.5, 1: 0.1}}
    assert duel(SPEC, numbers, "ours", "theirs", "lower") == (2, 1, None)
    assert "| theirs | 1 of 2 | – | – |" in duels(SPEC, numbers, "ours", "lower")


def test_one_domain_alone_has_no_interval():
    only = {key: seeds for key, seeds in NUMBERS.items() if key[1] == "dots"}
    assert duels(SPEC, only, "ours", "lower").splitlines()[2] == "| theirs | 2 of 2 | 0.849 | – |"
