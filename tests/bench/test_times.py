"""The histogram of latencies: close to the truth, additive, total."""

from hypothesis import given
from hypothesis import strategies as st

from omavol._fastio import count_times
from omavol.load import Times

NANOSECONDS = st.lists(st.integers(0, 2**39), min_size=1, max_size=50)


def counted(values):
    return Times.of(count_times(values))


@given(NANOSECONDS, st.sampled_from([50.0, 90.0, 99.0, 99.9, 100.0]))
def test_a_percentile_is_the_true_one_within_a_step(values, percent):
    true = sorted(values)[max(0, -int(-len(values) * percent // 100) - 1)]
    assert true <= counted(values).percentile(percent) <= true + true / 64


@given(NANOSECONDS)
def test_least_most_mean_and_count_are_exact(values):
    times = counted(values)
    assert (times.least, times.most, times.count) == (min(values), max(values), len(values))
    assert times.mean == sum(values) // len(values)
    assert sum(count for _, count in times.buckets) == len(values)


@given(NANOSECONDS, NANOSECONDS)
def test_two_histograms_add_up_to_that_of_all(some, others):
    assert counted(some) + counted(others) == counted(some + others)


@given(NANOSECONDS)
def test_nothing_added_changes_nothing(values):
    assert counted(values) + Times() == Times() + counted(values) == counted(values)


def test_what_is_longer_than_the_histogram_falls_into_its_last_step():
    times = counted([2**50, 2**51])
    assert (times.count, times.most, len(times.buckets)) == (2, 2**51, 1)


def test_nothing_answered_has_times_of_zero():
    assert (Times().mean, Times().percentile(99)) == (0, 0)
