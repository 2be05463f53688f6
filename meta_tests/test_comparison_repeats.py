"""How many processes a side a comparison asks for."""

from __future__ import annotations

import math

import pytest

from fixtures.comparison.ratio import ASSUMED_SPREAD, MIN_DIFFERENCE, MIN_PROCESSES, ProcessMedian, ratio_of
from fixtures.comparison.repeats import MOST_PROCESSES, processes_needed


def test_needed_processes_give_an_interval_that_tells() -> None:
    """At the spread and the difference that were seen, the interval is shorter than the distance by the factor 1.43."""
    needed = processes_needed(1.10, 0.05, MIN_DIFFERENCE)
    assert needed == 6
    wave = [0.05 * math.sqrt((needed - 1) / needed) * (-1) ** index for index in range(needed)]  # spread of 0.05
    sides = ([ProcessMedian(p50 * math.exp(by), 0.0) for by in wave] for p50 in (10.0, 11.0))
    found = ratio_of(*sides)
    assert found.spread == pytest.approx(0.05)
    half_width = math.log(found.high / found.value)
    assert half_width * 1.43 <= math.log(1.10)
    assert (found.verdict, half_width * 1.43 > 0.9 * math.log(1.10)) == ("slower", True)


@pytest.mark.parametrize(
    ("ratio", "spread", "limit", "needed"),
    [
        (1.0, 0.001, MIN_DIFFERENCE, MIN_PROCESSES),
        (1.0, 0.0, MIN_DIFFERENCE, MIN_PROCESSES),
        (1.015, ASSUMED_SPREAD, MIN_DIFFERENCE, 5),
        (1.0, 0.02, MIN_DIFFERENCE, 9),
        (1.0, 0.02, 0.05, 5),  # a wider limit is told sooner
        (1.455, 0.2128, MIN_DIFFERENCE, 7),
        (1.0, 1.0, MIN_DIFFERENCE, None),
    ],
)
def test_processes_needed_grow_with_spread_and_shrink_with_distance(
    ratio: float, spread: float, limit: float, needed: int | None
) -> None:
    assert processes_needed(ratio, spread, limit) == needed
    assert processes_needed(1 / ratio, spread, limit) == needed, "faster or slower by as much"


def test_ratio_close_to_its_limit_asks_for_no_more_than_half_the_limit_would() -> None:
    at_half, close = (processes_needed(ratio, 0.02, MIN_DIFFERENCE) for ratio in (math.sqrt(1.03), 1.0299))
    assert at_half is not None
    assert close == at_half < MOST_PROCESSES
