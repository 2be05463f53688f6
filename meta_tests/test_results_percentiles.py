"""fixtures/results/percentiles.py"""

from __future__ import annotations

import pytest

from fixtures.results.percentiles import MIN_ROUNDS_FOR_P99, latency_of


def test_percentiles_interpolate_and_p99_needs_enough_rounds() -> None:
    latency = latency_of([1.0, 2.0, 3.0, 4.0])
    assert (latency.p50, latency.min, latency.max) == (2.5, 1.0, 4.0)
    assert latency.p90 == pytest.approx(3.7)
    assert latency.std == pytest.approx(1.2909944)
    assert latency_of(range(1, MIN_ROUNDS_FOR_P99)).p99 is None
    assert latency_of(range(1, MIN_ROUNDS_FOR_P99 + 1)).p99 == pytest.approx(655.39)
    assert latency_of([3.0]).std == 0
