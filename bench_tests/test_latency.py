"""What a case costs in time: preprocess and forward on frames that are already on the device."""

from typing import Any

import pytest

from fixtures.cases import Case
from fixtures.sessions.bench import Bench
from fixtures.sessions.playback import playback_timer, publish

# A case without a result has no rounds for pytest-benchmark to miss.
pytestmark = pytest.mark.filterwarnings("ignore:Benchmark fixture was not used")


@pytest.mark.benchmark(timer=playback_timer)
def test_latency(case: Case, bench: Bench, benchmark: Any) -> None:
    """Measured by `fixtures/measure/timing.py`; fails when the model's output is no result."""
    result = bench.latency(case)
    if result.facts.status == "oom":
        pytest.skip(f"out of memory, which is a result: {result.facts.error}")
    assert result.facts.status in ("ok", "unstable"), result.facts.error
    publish(benchmark, result)
