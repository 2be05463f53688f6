"""What a case costs in memory, in a process that does nothing else. Runs before the latencies, whose rows carry it."""

import pytest

from fixtures.cases import Case
from fixtures.sessions.bench import Bench


def test_memory(case: Case, bench: Bench) -> None:
    """Measured by `fixtures/measure/memory.py`: context, weights, first call, steady state."""
    result = bench.memory(case)
    if result.status == "oom":
        pytest.skip(f"out of memory, which is a result: {result.error}")
    assert result.status == "ok", result.error
    assert result.memory is not None
    assert "steady" in result.memory.rss_mb
