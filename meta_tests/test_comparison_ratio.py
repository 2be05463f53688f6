"""The ratio of two sides: its interval, its verdict, and the stored runs that its constants come from."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import pytest

from fixtures.comparison import compare, ratio
from fixtures.comparison.ratio import ASSUMED_SPREAD, HOST_SPREAD, MIN_DIFFERENCE, ProcessMedian, Ratio, ratio_of
from fixtures.records import CaseSummary
from fixtures.results.reading import read_run
from meta_tests.runs import latency

# One commit on one H100, on two, and again on the first (the rows of torch), while their host was busy.
STORED = [Path(__file__).parent / "data" / "h100_two_gpus" / f"{name}.json" for name in ("one", "two", "again")]


def medians(*p50s: float) -> list[ProcessMedian]:
    """Processes whose rounds leave no error."""
    return [ProcessMedian(p50, 0.0) for p50 in p50s]


# --- the verdict ---


@pytest.mark.parametrize(
    ("value", "low", "high", "verdict"),
    [
        (1.0, 0.9710, 1.0299, "same"),
        (1.02, 1.015, 1.025, "same"),  # shown to differ from 1, and by less than matters
        (1.0, 0.9708, 1.0299, "inconclusive"),  # 1 / 1.03 is 0.97087
        (1.0, 0.9710, 1.0301, "inconclusive"),
        (1.02, 1.005, 1.035, "inconclusive"),  # by less or by more than 3%
        (1.0299, 1.029, 1.031, "inconclusive"),
        (1.04, 0.99, 1.09, "inconclusive"),
        (1.031, 1.001, 1.061, "slower"),
        (1.031, 1.0, 1.061, "inconclusive"),
        (0.96, 0.93, 0.999, "faster"),
        (0.96, 0.93, 1.0, "inconclusive"),
        (0.975, 0.96, 0.99, "inconclusive"),
    ],
)
def test_verdict_is_what_interval_shows(value: float, low: float, high: float, verdict: str) -> None:
    assert Ratio(value, low, high, spread=0.01, assumed=False).verdict == verdict


def test_one_equal_process_a_side_is_same_and_a_noisy_one_inconclusive() -> None:
    assert ratio_of(medians(10), medians(10)).verdict == "same"
    assert ratio_of([ProcessMedian(10, 0.02)], medians(10)).verdict == "inconclusive"


def test_spread_candidate_is_inconclusive() -> None:
    """Medians of 10, 10, 10 against 11, 14, 20 ms; the interval reaches from 0.90 to 2.36."""
    found = ratio_of(medians(10, 10, 10), medians(11, 14, 20))
    assert (found.low, found.value, found.high) == pytest.approx((0.898, 1.455, 2.356), abs=1e-3)
    assert (found.verdict, found.assumed) == ("inconclusive", False)


def test_smallest_difference_that_matters_is_three_percent() -> None:
    assert MIN_DIFFERENCE == 0.03


# --- the interval ---


def test_interval_of_several_processes_is_students_t() -> None:
    """Two samples with a pooled variance, by hand: t of 4 degrees of freedom is 2.776."""
    p50s = ((10.0, 10.1, 10.2), (11.0, 11.0, 11.3))
    logs = [[math.log(p50) for p50 in side] for side in p50s]
    means = [sum(side) / 3 for side in logs]
    squares = sum((value - mean) ** 2 for side, mean in zip(logs, means, strict=True) for value in side)
    found = ratio_of(medians(*p50s[0]), medians(*p50s[1]))
    assert math.log(found.value) == pytest.approx(means[1] - means[0])
    assert found.spread == pytest.approx(math.sqrt(squares / 4))
    assert math.log(found.high / found.value) == pytest.approx(2.7764451 * found.spread * math.sqrt(2 / 3))
    assert not found.assumed


def test_swapped_sides_give_inverse_ratio() -> None:
    there = ratio_of(medians(10, 10.1, 10.2), medians(13, 13.2, 13.1))
    back = ratio_of(medians(13, 13.2, 13.1), medians(10, 10.1, 10.2))
    assert (there.verdict, back.verdict) == ("slower", "faster")
    assert there.value * back.value == pytest.approx(1)
    assert there.low * back.high == pytest.approx(1)


def test_fewer_than_three_processes_assume_spread() -> None:
    found = ratio_of(medians(10), medians(10))
    assert found.assumed
    assert found.spread == ASSUMED_SPREAD
    assert math.log(found.high) == pytest.approx(1.959964 * ASSUMED_SPREAD * math.sqrt(2))
    noisy = ratio_of([ProcessMedian(10.0, 0.05)], medians(10))
    assert math.log(noisy.high) == pytest.approx(1.959964 * math.hypot(0.05, ASSUMED_SPREAD * math.sqrt(2)))
    assert ratio_of(medians(*[10.0] * 6), medians(10)).assumed, "six equal medians show no spread"


def test_fewer_than_three_processes_take_larger_spread_that_they_show() -> None:
    seen = ratio_of(medians(10, 11), medians(10, 11))
    assert not seen.assumed
    assert math.log(seen.high) == pytest.approx(4.302653 * math.log(1.1) / math.sqrt(2), rel=1e-5)  # t, 2 degrees
    assert not ratio_of(medians(*[10, 11] * 3), medians(10)).assumed


def test_two_processes_a_side_that_show_spread_get_no_normal_quantile() -> None:
    """A normal quantile would call 1 of 12 equal pairs different."""
    assert ratio_of(medians(10.0, 10.2), medians(10.7, 10.5)).verdict == "inconclusive"


def test_error_of_median_follows_from_its_rounds_and_no_outlier_moves_it() -> None:
    few, many = (ProcessMedian.of(latency(10, p95=1e6, p90=10.2), rounds) for rounds in (100, 400))
    assert few.relative_error == pytest.approx(1.2533 * 0.02 / 1.28155 / 10, rel=1e-4)
    assert many.relative_error == pytest.approx(few.relative_error / 2)
    assert ProcessMedian.of(latency(10, p90=9.0), -3).relative_error == 0


# --- noisy rounds and slowed hosts ---


@pytest.mark.parametrize(("spread", "assumed"), [(0.09, ASSUMED_SPREAD), (0.11, 0.11), (0.5, 0.5)])
def test_processes_with_noisy_rounds_are_assumed_to_differ_as_much(spread: float, assumed: float) -> None:
    noisy = [ProcessMedian.of(latency(10, p90=10 * (1 + 1.28155 * spread)), rounds=10**9)]
    assert math.log(ratio_of(noisy, noisy).high) == pytest.approx(1.959964 * assumed * math.sqrt(2), rel=1e-3)


@pytest.mark.parametrize(
    ("slowdowns", "spreads", "factors"),
    [
        ((None, None), (ASSUMED_SPREAD, ASSUMED_SPREAD), (1, 1)),
        ((1.0, None), (HOST_SPREAD, ASSUMED_SPREAD), (1, 1)),
        ((1.1, 1.2), (HOST_SPREAD, HOST_SPREAD), (1.21, 1.44)),
        ((None, 1.7), (ASSUMED_SPREAD, HOST_SPREAD), (1, 2.89)),
        ((0.0, -1e308), (ASSUMED_SPREAD, ASSUMED_SPREAD), (1, 1)),
        ((1e308, math.nan), (ASSUMED_SPREAD, ASSUMED_SPREAD), (1, 1)),
    ],
    ids=str,
)
def test_interval_reaches_to_what_each_side_may_take_on_quiet_host(
    slowdowns: tuple[float | None, float | None], spreads: tuple[float, float], factors: tuple[float, float]
) -> None:
    before, after = ([ProcessMedian.of(latency(10, p90=10), 10**9, slowdown)] for slowdown in slowdowns)
    found, margin = ratio_of(before, after), math.exp(1.959964 * math.hypot(*spreads))
    assert (found.low, found.high) == pytest.approx((1 / margin / factors[1], margin * factors[0]), rel=1e-4)


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ((10, 1.1), (17, 1.8), "inconclusive"),
        ((10, 1.1), (14, 1.1), "slower"),
        ((10, 1.0), (45, 1.8), "slower"),  # more than a slowdown of 1.8 explains
        ((10, 1.3), (13, 1.0), "slower"),  # on two quiet hosts the difference would be larger
        ((13, 1.0), (10, 1.3), "faster"),
        ((17, 1.8), (10, 1.0), "inconclusive"),
        ((10, 1.0), (10.5, 1.0), "inconclusive"),
    ],
    ids=str,
)
def test_slowed_host_explains_longer_rows_and_no_shorter_ones(
    before: tuple[float, float], after: tuple[float, float], verdict: str
) -> None:
    found = ratio_of(*([ProcessMedian.of(latency(p50), 100, slowdown)] for p50, slowdown in (before, after)))
    assert (found.verdict, found.assumed) == (verdict, True)


def test_few_processes_that_show_spread_still_allow_for_slowed_host() -> None:
    before = [ProcessMedian.of(latency(p50), 100, 1.0) for p50 in (9.6, 10.4)]
    quiet, slowed = (ratio_of(before, [ProcessMedian.of(latency(10), 100, slowdown)] * 2) for slowdown in (1.0, 1.5))
    assert (slowed.low, slowed.high) == pytest.approx((quiet.low / 1.5**2, quiet.high))
    assert not slowed.assumed


def test_three_processes_a_side_show_their_spread_whatever_their_rounds_do() -> None:
    before, after = ([ProcessMedian.of(latency(p50, p90=15), 100)] * 3 for p50 in (10, 10.5))
    found = ratio_of(before, after)
    assert (found.verdict, found.assumed) == ("slower", False)


# --- what the constants are made from ---


def test_assumed_spread_is_that_of_quiet_rows_of_stored_runs() -> None:
    """Of 13 rows that no host slowed: 0.58% between processes."""
    rows: dict[str, list[CaseSummary]] = {}
    for path in STORED:
        for case in read_run(path).cases:
            rows.setdefault(case.id, []).append(case)
    quiet = [cases for cases in rows.values() if all(map(_is_quiet, cases)) and len(cases) > 1]
    assert len(quiet) == 13
    assert _pooled([[case.latency_ms.p50 for case in cases if case.latency_ms] for cases in quiet]) == pytest.approx(
        ASSUMED_SPREAD, rel=0.05
    )


@pytest.mark.parametrize(("before", "after"), list(itertools.combinations(STORED, 2)), ids=lambda path: path.stem)
def test_no_pair_of_stored_runs_of_one_commit_is_called_different(before: Path, after: Path) -> None:
    (pair,) = compare([before, after]).pairs
    assert len(pair.cases) >= 12
    assert {case.verdict for case in pair.cases} <= {"same", "inconclusive"}
    moved = [case for case in pair.cases if case.ratio and not 0.95 < case.ratio < 1.05]
    assert len(moved) >= 6
    assert all("moves with the host" in case.reason for case in moved)


def test_without_noise_of_rounds_23_of_36_pairs_would_be_called_different(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ratio, "NOISY_SPREAD", math.inf)
    pairs = [pair for before, after in itertools.combinations(STORED, 2) for pair in compare([before, after]).pairs]
    verdicts = [case.verdict for pair in pairs for case in pair.cases if case.id.endswith("-torch")]
    assert (len(verdicts), sum(verdict in ("faster", "slower") for verdict in verdicts)) == (36, 23)


def _is_quiet(case: CaseSummary) -> bool:
    assert case.latency_ms is not None
    return not case.launch_bound and ProcessMedian.of(case.latency_ms, case.rounds).assumed_spread == ASSUMED_SPREAD


def _pooled(groups: Sequence[Sequence[float]]) -> float:
    """Standard deviation of the logarithms within groups, over all of them."""
    squares = sum(statistics.variance(map(math.log, group)) * (len(group) - 1) for group in groups)
    return math.sqrt(squares / sum(len(group) - 1 for group in groups))
