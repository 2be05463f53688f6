"""Times of the request paths of a branch, on a real server."""

from __future__ import annotations

import time

import pytest

from fixtures.records import ServerStep
from fixtures.triton import request_paths
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
        paths = RequestPaths(live, branch, [frames_of(branch)]).times(3).paths
    assert [path.role for path in paths] == ["ensemble", "ensemble", "ensemble", "model", "fused"]
    assert all(path.server_ms == path.latency_ms.p50 for path in paths)
    assert waited_for == [3] * 5 + [1] * 20, "the warm-up of each path, then the first call of its turn and its rounds"


def test_paths_and_the_file_in_this_process_have_turns_of_several_rounds(
    monkeypatch: pytest.MonkeyPatch, small_server: SmallServer
) -> None:
    """Between two sessions there is a pause, in which the threads of the first one stop to spin."""
    monkeypatch.setattr(request_paths, "_BLOCK", 2)
    events: list[str] = []
    monkeypatch.setattr(time, "sleep", lambda seconds: events.append("pause") if seconds else None)
    monkeypatch.setattr(RequestPaths, "_paths", lambda self, _stack: iter([fake("a"), fake("b")]))
    monkeypatch.setattr(LiveServer, "counters", lambda _, models: {})
    step = ServerStep(
        model="m",
        requests=1,
        total_ms=1.0,
        queue_ms=0.0,
        compute_input_ms=0.0,
        compute_infer_ms=1.0,
        compute_output_ms=0.0,
    )
    monkeypatch.setattr(LiveServer, "steps_since", lambda *_: (step,))

    def fake(name: str) -> request_paths._RequestPath:
        return request_paths._RequestPath(lambda index: events.append(f"{name}{index}"), model=name)

    branch = small_server.branches["midas"]
    with LiveServer(small_server.endpoint) as live:
        found = RequestPaths(live, branch, []).times(3, lambda index: events.append(f"local{index}"))
    turns = [
        *("pause", "a0", "a0", "a1", "pause", "b0", "b0", "b1", "pause", "local0", "local0", "local1"),
        *("pause", "a2", "a2", "pause", "b2", "b2", "pause", "local2", "local2"),
    ]
    assert events == turns
    assert found.in_process is not None
    assert [path.rounds for path in found.paths] == [3, 3]
