"""What a case costs in time: preprocess and forward on frames that are already on the device."""

from typing import Any

import pytest

from fixtures.bench import Bench
from fixtures.cases import Case
from fixtures.recorded_rounds import publish, recorded_rounds


@pytest.mark.benchmark(timer=recorded_rounds)
def test_latency(case: Case, bench: Bench, benchmark: Any) -> None:
    """Measured by `fixtures/measure/timing.py`; fails when the model's output is no result."""
    result = bench.latency(case)
    if result.facts.status == "oom":
        pytest.skip(f"out of memory, which is a result: {result.facts.error}")
    assert result.facts.status in ("ok", "unstable"), result.facts.error
    publish(benchmark, result)
