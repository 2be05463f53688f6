"""How often a comparison is wrong, on a thousand simulated pairs at a time: false alarms, and differences not seen.

A process is faster or slower as a whole by a normal offset. Its rounds have two percent of lognormal noise, a tail that
only slows, and an outlier in a hundred. Everything goes through files, as runs of a thousand cases.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fixtures.comparison import compare
from fixtures.records import CaseSummary, Comparison
from fixtures.results.percentiles import latency_of
from meta_tests.runs import row, stored

PAIRS = 1000


def process(rng: np.random.Generator, true_ms: np.ndarray, offset: float) -> list[CaseSummary]:
    """What one process measures of cases that truly take so long."""
    cases = []
    for index, (ms, by) in enumerate(zip(true_ms, rng.normal(0, offset, len(true_ms)), strict=True)):
        rounds = int(rng.integers(100, 501))
        noise = np.exp(rng.normal(0, 0.02, rounds)) + rng.exponential(0.01, rounds)
        noise[rng.random(rounds) < 0.01] *= rng.uniform(1.2, 3)
        measured = latency_of(ms * math.exp(by) * noise)
        cases.append(row(f"v{index}", latency_ms=measured, rounds=rounds))
    return cases


def simulated(folder: Path, processes: int, offset: float, ratio: float, seed: int) -> Comparison:
    """A thousand cases on two sides, of which the candidate's truly take `ratio` times as long."""
    rng = np.random.default_rng(seed)
    true_ms = np.exp(rng.uniform(math.log(0.5), math.log(50), PAIRS))
    for side, factor in (("baseline", 1.0), ("candidate", ratio)):
        for repeat in range(processes):
            stored(folder / side / str(repeat), *process(rng, true_ms * factor, offset))
    return compare([folder / "baseline", folder / "candidate"])


def verdicts(comparison: Comparison) -> Counter[str]:
    (pair,) = comparison.pairs
    assert len(pair.cases) == PAIRS
    return Counter(case.verdict for case in pair.cases)


@pytest.mark.parametrize(("processes", "offset"), [(1, 0.006), (5, 0.006), (5, 0.02), (3, 0.02)])
def test_at_most_five_percent_of_equal_pairs_are_called_different(
    tmp_path: Path, processes: int, offset: float
) -> None:
    comparison = simulated(tmp_path, processes, offset, 1.0, seed=1)
    found = verdicts(comparison)
    assert found["faster"] + found["slower"] <= PAIRS * 0.05, found
    intervals = [case.interval for case in comparison.pairs[0].cases if case.interval]
    assert sum(low <= 1 <= high for low, high in intervals) >= PAIRS * 0.93, "an interval is what it says"


@pytest.mark.parametrize(("ratio", "verdict"), [(1.05, "slower"), (0.95, "faster")])
@pytest.mark.parametrize("processes", [1, 5])
def test_at_least_95_percent_of_pairs_that_are_5_percent_apart_are_called_so(
    tmp_path: Path, processes: int, ratio: float, verdict: str
) -> None:
    found = verdicts(simulated(tmp_path, processes, 0.006, ratio, seed=2))
    assert found[verdict] >= PAIRS * 0.95, found
    assert set(found) <= {verdict, "tie"}, "never in the wrong direction"


def test_one_process_a_side_cannot_know_a_spread_that_is_larger_than_assumed(tmp_path: Path) -> None:
    """Why one process is said to be a first impression: every such verdict says that its spread is assumed."""
    comparison = simulated(tmp_path, 1, 0.02, 1.0, seed=3)
    wrong = [case for case in comparison.pairs[0].cases if case.verdict != "tie"]
    assert len(wrong) > PAIRS * 0.05
    assert all(case.assumed for case in wrong)
