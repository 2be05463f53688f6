"""fixtures.measure.retries: disturbed rounds are timed again, and the least disturbed attempt counts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

import pytest

from fixtures.measure.host_speed import HostSpeed
from fixtures.measure.retries import Watch, time_with_retries
from fixtures.measure.rounds import Between, timed_rounds
from fixtures.measure.telemetry import Sample
from meta_tests.host import Host, install


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return install(monkeypatch)


def rounds_of(host: Host, slowdowns: Iterable[float]) -> Callable[[Between], list[float]]:
    """Makes attempts of 100 rounds of 10 ms; the host of each is slowed by the next factor."""
    factors = iter(slowdowns)

    def call(_: int) -> None:
        host.now += 0.01

    def time_rounds(between: Between) -> list[float]:
        host.probe_s = 1e-4 * next(factors)
        return timed_rounds(call, 100, time.perf_counter, lambda: None, between)

    return time_rounds


def no_device_time() -> None:
    return None


@pytest.mark.parametrize(("disturbed_attempts", "attempts", "is_stable"), [(0, 1, True), (2, 3, True), (9, 3, False)])
def test_rounds_on_a_disturbed_gpu_are_retried_twice(
    monkeypatch: pytest.MonkeyPatch, disturbed_attempts: int, attempts: int, is_stable: bool
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr("fixtures.measure.telemetry.TELEMETRY_HZ", 1000.0)
    made, timing, seen = 0, threading.Event(), threading.Event()

    def rounds(_: Between) -> list[float]:
        nonlocal made
        made += 1
        timing.set()
        seen.clear()
        assert seen.wait(timeout=30), "telemetry is read while rounds are timed"
        timing.clear()
        return [0.1]

    def read() -> Sample:
        is_disturbed = timing.is_set() and made <= disturbed_attempts
        if timing.is_set():
            seen.set()
        return Sample(1980.0, 40.0, 300.0, frozenset(), int(is_disturbed))

    lines: list[str] = []
    attempt = time_with_retries(rounds, no_device_time, Watch(read), lines.append)
    assert (attempt.times_s, made, attempt.unstable == ()) == ([0.1], attempts, is_stable)
    assert len(lines) == attempts - 1


@pytest.mark.parametrize(
    ("slowdowns", "attempts", "is_quiet"),
    [([1, 1], 1, True), ([1, 1.15], 1, True), ([1, 1.8, 1.8, 1], 3, True), ([1, *[1.8] * 9], 3, False)],
)
def test_rounds_on_a_slowed_host_are_retried_twice(
    host: Host, slowdowns: list[float], attempts: int, is_quiet: bool
) -> None:
    speed, lines = HostSpeed(), list[str]()
    time_rounds = rounds_of(host, slowdowns)
    assert time_with_retries(
        time_rounds, lambda: 0.005, Watch(host_speed=speed), lines.append
    ).host_slowdown == pytest.approx(1)
    attempt = time_with_retries(time_rounds, lambda: 0.005, Watch(host_speed=speed), lines.append)
    assert len(lines) == attempts - 1
    assert len(attempt.times_s) == 100
    assert attempt.host_slowdown == pytest.approx(slowdowns[attempts])
    assert attempt.disturbances == (
        () if is_quiet else ("host slowed: its Python took 1.80 times as long as at its best",)
    )
    assert attempt.unstable == (), "a slowed host is no fault of the GPU"


@pytest.mark.parametrize(("device_s", "shows"), [(None, True), (0.0094, True), (0.0096, False)])
def test_host_slowdown_counts_only_where_rounds_take_longer_than_the_device(
    host: Host, device_s: float | None, shows: bool
) -> None:
    speed, lines = HostSpeed(), list[str]()
    time_rounds = rounds_of(host, [1, *[2] * 9])
    time_with_retries(time_rounds, lambda: 0.01, Watch(host_speed=speed), lines.append)
    assert not lines
    attempt = time_with_retries(time_rounds, lambda: device_s, Watch(host_speed=speed), lines.append)
    assert attempt.host_slowdown == (pytest.approx(2) if shows else None), "the host's best was seen in rounds before"
    assert (len(lines), attempt.disturbances != ()) == ((2, True) if shows else (0, False))


def test_without_a_device_clock_only_a_clearly_slowed_host_counts(host: Host) -> None:
    """As for ONNX Runtime's rows: how far they wait for the host is unknown."""
    watch, time_rounds = Watch(host_speed=HostSpeed()), rounds_of(host, [1, 1.15, 1.25, 1.25, 1.25])
    found = [time_with_retries(time_rounds, no_device_time, watch, lambda _: None).host_slowdown for _ in range(3)]
    assert found == [None, None, pytest.approx(1.25)]


def test_least_disturbed_attempt_counts(host: Host) -> None:
    """The last attempt may be the worst."""
    speed = HostSpeed()
    time_rounds = rounds_of(host, [1, 1.3, 1.25, 1.9])
    time_with_retries(time_rounds, lambda: 0.005, Watch(host_speed=speed), lambda _: None)
    attempt = time_with_retries(time_rounds, lambda: 0.005, Watch(host_speed=speed), lambda _: None)
    assert attempt.host_slowdown == pytest.approx(1.25)


def test_stable_attempt_on_a_slowed_host_is_preferred_to_an_unstable_one(host: Host) -> None:
    speed = HostSpeed()
    time_rounds = rounds_of(host, [1, *[1.3] * 9])
    time_with_retries(time_rounds, lambda: 0.005, Watch(host_speed=speed), lambda _: None)
    device_s = iter([0.02, 0.005, 0.02])
    attempt = time_with_retries(time_rounds, lambda: next(device_s), Watch(host_speed=speed), lambda _: None)
    assert (attempt.unstable, attempt.device_s) == ((), 0.005)


def test_device_time_is_read_again_with_every_retry(host: Host) -> None:
    """Another program on the GPU before the first rounds is no fault of the timer."""
    device_s, lines = iter([0.018, 0.0099]), list[str]()
    attempt = time_with_retries(rounds_of(host, [1, 1]), lambda: next(device_s), Watch(), lines.append)
    assert lines == ["again, because unstable: the GPU was slower just before the rounds"]
    assert (attempt.device_s, attempt.disturbances) == (0.0099, ())


def test_host_is_not_watched_without_a_host_speed(host: Host) -> None:
    attempt = time_with_retries(rounds_of(host, [9]), no_device_time, Watch(), lambda _: None)
    assert (attempt.host_slowdown, attempt.disturbances) == (None, ())
