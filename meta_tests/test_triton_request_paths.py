"""Times of the request paths of a branch, on a real server."""

from __future__ import annotations

import pytest

from fixtures.records import ServerStep
from fixtures.triton.live import Counters, LiveServer
from fixtures.triton.request_paths import RequestPaths
from meta_tests.served import SmallServer, frames_of

# A deprecation warning of a library is no defect of a server.
pytestmark = pytest.mark.filterwarnings("default:::tritonclient")


def test_time_at_the_server_is_at_most_the_clients(monkeypatch: pytest.MonkeyPatch, small_server: SmallServer) -> None:
    """The server stops its clock of a request after the answer has left; here a second after."""
    waited_for: list[int] = []

    def counted_late(self: LiveServer, before: Counters, requests: int) -> tuple[ServerStep, ...]:
        waited_for.append(requests)
        return tuple(
            step.model_copy(update={"total_ms": step.total_ms + 1e3}) for step in counted(self, before, requests)
        )

    counted = LiveServer.steps_since
    monkeypatch.setattr(LiveServer, "steps_since", counted_late)
    branch = small_server.branches["midas"]
    with LiveServer(small_server.endpoint) as live:
        paths = RequestPaths(live, branch, [frames_of(branch)]).paths(3)
    assert [path.role for path in paths] == ["ensemble", "ensemble", "ensemble", "model", "fused"]
    assert all(path.server_ms == path.latency_ms.p50 for path in paths)
    assert waited_for == [3] * 5 + [1] * 15, "the warm-up of each path, then each of its rounds"
