"""How often verdicts are right, wrong and inconclusive, on a thousand simulated pairs each; docs/decision.md has them.

A process is faster or slower as a whole by a normal offset. Its rounds have two percent of lognormal noise, a tail
toward slow ones, and one percent of outliers.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from fixtures.comparison.ratio import MIN_DIFFERENCE, ProcessMedian, Ratio, ratio_of
from fixtures.comparison.repeats import processes_needed
from meta_tests.runs import latency

PAIRS = 1000
QUIET, BUSY = 0.006, 0.02  # offsets between processes: the one that is assumed, and one of a busy host


def one_process(rng: np.random.Generator, true_ms: np.ndarray, offset: float) -> list[ProcessMedian]:
    """What one process measures of cases that truly take so long."""
    rounds = int(rng.integers(100, 501))
    noise = np.exp(rng.normal(0, 0.02, (len(true_ms), rounds))) + rng.exponential(0.01, (len(true_ms), rounds))
    noise[rng.random(noise.shape) < 0.01] *= rng.uniform(1.2, 3)
    scale = true_ms * np.exp(rng.normal(0, offset, len(true_ms)))
    percentiles = np.percentile(noise, (50, 90), axis=1) * scale
    return [ProcessMedian.of(latency(p50, p90=p90), rounds) for p50, p90 in percentiles.T.tolist()]


def simulated(processes: int, offset: float, ratio: float, seed: int, pairs: int = PAIRS) -> list[Ratio]:
    """Pairs of sides of which the candidate's cases truly take `ratio` times as long."""
    rng = np.random.default_rng(seed)
    true_ms = np.exp(rng.uniform(np.log(0.5), np.log(50), pairs))
    sides = (
        zip(*(one_process(rng, true_ms * factor, offset) for _ in range(processes)), strict=True)
        for factor in (1.0, ratio)
    )
    return [ratio_of(before, after) for before, after in zip(*sides, strict=True)]


def verdicts(pairs: list[Ratio]) -> Counter[str]:
    return Counter(pair.verdict for pair in pairs)


@pytest.mark.parametrize(
    ("processes", "offset", "different", "same"),
    [(1, QUIET, 0.001, 0.80), (5, QUIET, 0.001, 0.99), (3, BUSY, 0.05, 0.04), (5, BUSY, 0.05, 0.15)],
)
def test_equal_pairs_are_rarely_called_different_and_mostly_same_where_processes_are_quiet(
    processes: int, offset: float, different: float, same: float
) -> None:
    pairs = simulated(processes, offset, 1.0, seed=1)
    found = verdicts(pairs)
    assert found["faster"] + found["slower"] <= PAIRS * different, found
    assert found["same"] >= PAIRS * same, found
    assert sum(pair.low <= 1 <= pair.high for pair in pairs) >= PAIRS * 0.93, "a 95% interval holds the truth"


@pytest.mark.parametrize(("ratio", "verdict"), [(1.05, "slower"), (0.95, "faster")])
@pytest.mark.parametrize("processes", [1, 5])
def test_pairs_5_percent_apart_are_called_in_the_right_direction(processes: int, ratio: float, verdict: str) -> None:
    found = verdicts(simulated(processes, QUIET, ratio, seed=2))
    assert found[verdict] >= PAIRS * 0.95, found
    assert set(found) <= {verdict, "inconclusive"}, "never in the wrong direction, and never the same"


@pytest.mark.parametrize(("ratio", "least", "most"), [(1.0, 0.99, 1.0), (1.05, 0.0, 0.05), (1.1, 0.0, 0.0)])
@pytest.mark.parametrize("processes", [1, 5])
def test_gate_at_5_percent_passes_equal_pairs_and_no_slowdown(
    processes: int, ratio: float, least: float, most: float
) -> None:
    """At exactly 5%, an interval of 95% excludes the truth on this side in one pair of 40."""
    passed = sum(pair.high < 1.05 for pair in simulated(processes, QUIET, ratio, seed=4))
    assert least <= passed / PAIRS <= most, passed


def test_pairs_just_at_three_percent_are_called_same_in_one_of_40() -> None:
    found = verdicts(simulated(5, QUIET, 1.03, seed=5))
    assert found["same"] <= PAIRS * 0.05, found
    assert found["faster"] == 0


def test_one_process_a_side_cannot_know_spread_larger_than_assumed() -> None:
    """Why one process a side is a first impression: each of its verdicts says that its spread is assumed."""
    wrong = [pair for pair in simulated(1, BUSY, 1.0, seed=3) if pair.verdict in ("faster", "slower")]
    assert len(wrong) > PAIRS * 0.05
    assert all(pair.assumed for pair in wrong)


@pytest.mark.parametrize(("processes", "offset"), [(1, QUIET), (3, BUSY)])
def test_processes_that_are_needed_tell_three_of_four_inconclusive_equal_pairs(processes: int, offset: float) -> None:
    pairs = [pair for pair in simulated(processes, offset, 1.0, seed=6) if pair.verdict == "inconclusive"]
    needed = [processes_needed(pair.value, pair.spread, MIN_DIFFERENCE) for pair in pairs]
    rng, told = np.random.default_rng(7), 0
    named = [count for count in needed if count is not None]
    for count in named:
        sides = rng.normal(0, offset, (2, count)).tolist()
        again = ratio_of(*([ProcessMedian(math.exp(by), 0.0) for by in side] for side in sides))
        told += again.verdict != "inconclusive"
    assert len(named) >= 0.95 * len(needed) >= 100
    assert told >= 0.75 * len(named), (told, len(named))
