"""The closed loop sends exactly the requested number of requests, and ends whatever happens to its clients."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import pytest

from fixtures.triton import load
from fixtures.triton.branches import ServedModel
from fixtures.triton.client import Array
from fixtures.triton.load import Check, Load, LoadTarget, closed_loop
from fixtures.triton.server import Endpoint

SETS = [(np.full(1, value),) for value in range(3)]
TARGET = LoadTarget(Endpoint("h:1", "h:2"), "grpc", ServedModel("m", (), ()), SETS)
PATIENCE_S = 20.0  # of loops that take a second at most


class FakeServer:
    """Answers each request with its input; the request number `fails_at`, and every later one, fails."""

    def __init__(self, call_s: float = 0.0, close_s: float = 0.0) -> None:
        self.opened: list[tuple[Endpoint, str]] = []
        self.closed = 0
        self.asked: list[float] = []
        self.busy = self.most_busy = 0
        self.fails_at: int | None = None
        self.refuses_to_open = False
        self._call_s, self._close_s = call_s, close_s
        self._lock = threading.Lock()

    def open(self, endpoint: Endpoint, protocol: str) -> FakeClient:
        with self._lock:
            self.opened.append((endpoint, protocol))
            if self.refuses_to_open and len(self.opened) > 1:
                raise ConnectionError("the second client finds no server")
        return FakeClient(self)

    def infer(self, inputs: Sequence[Array]) -> Array:
        with self._lock:
            self.asked.append(float(inputs[0][0]))
            if self.fails_at is not None and len(self.asked) > self.fails_at:
                raise ConnectionError("the server has gone")
            self.busy += 1
            self.most_busy = max(self.busy, self.most_busy)
        time.sleep(self._call_s)
        with self._lock:
            self.busy -= 1
        return inputs[0]

    def close(self) -> None:
        time.sleep(self._close_s)
        with self._lock:
            self.closed += 1


class FakeClient:
    def __init__(self, fake: FakeServer) -> None:
        self._fake = fake

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._fake.close()

    def infer(self, model: ServedModel, inputs: Sequence[Array]) -> Array:
        assert model is TARGET.model
        return self._fake.infer(inputs)


def run(
    monkeypatch: pytest.MonkeyPatch, fake: FakeServer, concurrency: int, requests: int, check: Check | None = None
) -> Load:
    """A closed loop with fake clients, in a thread, so that a loop that never ends fails the test."""
    monkeypatch.setattr(load, "open_client", fake.open)
    outcome: list[Any] = []

    def loop() -> None:
        try:
            outcome.append(closed_loop(TARGET, concurrency, requests, check))
        except BaseException as error:  # for the thread that waits
            outcome.append(error)

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert not thread.is_alive(), "the loop does not end"
    assert fake.closed == len(fake.opened) - fake.refuses_to_open
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    found: Load = outcome[0]
    return found


@pytest.mark.parametrize("concurrency", [1, 2, 8])
@pytest.mark.parametrize("requests", [1, 7, 100])
def test_loop_sends_the_requested_number_of_requests(
    monkeypatch: pytest.MonkeyPatch, concurrency: int, requests: int
) -> None:
    fake = FakeServer()
    seen: list[int] = []
    found = run(monkeypatch, fake, concurrency, requests, lambda index, _: seen.append(index))
    assert fake.opened == [(TARGET.endpoint, "grpc")] * concurrency
    assert len(found.latencies_ms) == len(seen) == requests
    assert len(fake.asked) == requests + concurrency  # each client asks once before the clock
    assert Counter(seen) == Counter(index % len(SETS) for index in range(requests))


def test_check_gets_the_answer_to_its_input_set(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[tuple[int, float]] = []
    run(monkeypatch, FakeServer(call_s=0.001), 4, 60, lambda index, answer: answers.append((index, float(answer[0]))))
    assert len(answers) == 60
    assert all(index == answer for index, answer in answers)


def test_each_client_has_one_request_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeServer(call_s=0.02)
    run(monkeypatch, fake, 4, 16)
    assert fake.most_busy == 4


@pytest.mark.parametrize("fails_at", [0, 2, 4, 30], ids=lambda calls: f"after {calls} calls")
def test_failing_client_ends_the_loop_with_its_error(monkeypatch: pytest.MonkeyPatch, fails_at: int) -> None:
    """The first four calls precede the common start."""
    fake = FakeServer(call_s=0.001)
    fake.fails_at = fails_at
    with pytest.raises(ConnectionError, match="the server has gone"):
        run(monkeypatch, fake, 4, 100)


def test_client_that_cannot_connect_ends_the_loop_with_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeServer()
    fake.refuses_to_open = True
    with pytest.raises(ConnectionError, match="the second client finds no server"):
        run(monkeypatch, fake, 2, 100)


def test_failing_check_ends_the_loop_with_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(index: int, answer: Array) -> None:
        assert index != 2, "a wrong answer"

    with pytest.raises(AssertionError, match="a wrong answer"):
        run(monkeypatch, FakeServer(), 2, 10, check)


def test_throughput_is_requests_per_second() -> None:
    assert Load((1.0, 2.0, 3.0), 0.5).requests_per_s == 6.0


def test_wall_time_spans_first_request_to_last_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    found = run(monkeypatch, FakeServer(call_s=0.2), 4, 16)
    assert 4 * 0.2 <= found.wall_s < 16 * 0.2  # four rounds of four at once, and not one after the other
    assert found.requests_per_s == 16 / found.wall_s
    assert all(200.0 <= latency < 1600.0 for latency in found.latencies_ms)


def test_wall_time_excludes_disconnecting(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, FakeServer(call_s=0.01, close_s=2.0), 2, 4).wall_s < 1.5


def test_latency_excludes_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    found = run(monkeypatch, FakeServer(), 1, 2, lambda *_: time.sleep(1.0))
    assert max(found.latencies_ms) < 800.0
