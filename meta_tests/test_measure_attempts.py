"""Rounds that were disturbed by the GPU's state or by the host are timed again, and say so when that did not help."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable

import pytest

from fixtures.measure import host_pace, protocol
from fixtures.measure.attempts import Watch, undisturbed
from fixtures.measure.host_pace import HostPace
from fixtures.measure.latency import Between, timed_rounds
from fixtures.measure.telemetry import Sample


class Host:
    """A host whose Python takes as long as it is told, on a clock that stands still otherwise.

    Attributes:
        slowdowns: of its CPUs, on top of that.
        at: the CPU that our thread is on; it leaves only when it has to.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.probe_s = 1e-4
        self.slowdowns = [1.0]
        self.at = 0
        self.allowed = frozenset({0})

    def work(self) -> None:
        self.now += self.probe_s * self.slowdowns[self.at]

    def allow(self, _: int, cpus: Iterable[int]) -> None:
        self.allowed = frozenset(cpus)
        if self.at not in self.allowed:
            self.at = min(self.allowed)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    fake = Host()
    monkeypatch.setattr(time, "perf_counter", lambda: fake.now)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(host_pace, "_work", fake.work)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(fake.allowed), raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", fake.allow, raising=False)
    return fake


def rounds_of(host: Host, slowdowns: Iterable[float]) -> Callable[[Between], list[float]]:
    """Attempts of 100 rounds of 10 ms each, on a host slowed so much in each of them; the last one repeats."""
    told = iter(slowdowns)

    def call(_: int) -> None:
        host.now += 0.01

    def time_rounds(between: Between) -> list[float]:
        host.probe_s = 1e-4 * next(told)
        return timed_rounds(call, 100, time.perf_counter, lambda: None, between)

    return time_rounds


@pytest.mark.parametrize(("disturbed_attempts", "attempts", "is_stable"), [(0, 1, True), (2, 3, True), (9, 3, False)])
def test_rounds_on_a_disturbed_gpu_are_timed_again_twice(
    monkeypatch: pytest.MonkeyPatch, disturbed_attempts: int, attempts: int, is_stable: bool
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr("fixtures.measure.telemetry.TELEMETRY_HZ", 1000.0)
    made = 0

    def rounds(_: Between) -> list[float]:
        nonlocal made
        made += 1
        deadline = time.monotonic() + 0.1
        while time.monotonic() < deadline:
            pass
        return [0.1]

    def read() -> Sample:
        # `made` is counted up when an attempt begins, so its samples see the attempt's own number.
        return Sample(1980.0, 40.0, 300.0, frozenset(), int(0 < made <= disturbed_attempts))

    said: list[str] = []
    attempt = undisturbed(rounds, Watch(read), None, said.append)
    assert (attempt.times_s, made, attempt.unstable == ()) == ([0.1], attempts, is_stable)
    assert len(said) == attempts - 1


@pytest.mark.parametrize(
    ("slowdowns", "attempts", "is_quiet"),
    [([1, 1], 1, True), ([1, 1.15], 1, True), ([1, 1.8, 1.8, 1], 3, True), ([1, *[1.8] * 9], 3, False)],
)
def test_rounds_on_a_slowed_host_are_timed_again_twice(
    host: Host, slowdowns: list[float], attempts: int, is_quiet: bool
) -> None:
    pace, said = HostPace(), list[str]()
    time_rounds = rounds_of(host, slowdowns)
    assert undisturbed(time_rounds, Watch(pace=pace), 0.005, said.append).host_slowdown == pytest.approx(1)
    attempt = undisturbed(time_rounds, Watch(pace=pace), 0.005, said.append)
    assert len(said) == attempts - 1
    assert len(attempt.times_s) == 100
    assert attempt.host_slowdown == pytest.approx(slowdowns[attempts])
    assert attempt.disturbances == (
        () if is_quiet else ("host slowed: its Python took 1.80 times as long as at its best",)
    )
    assert attempt.unstable == (), "the GPU is not to blame"


@pytest.mark.parametrize(("device_s", "shows"), [(None, True), (0.0094, True), (0.0096, False)])
def test_the_host_counts_where_rounds_take_clearly_longer_than_their_kernels(
    host: Host, device_s: float | None, shows: bool
) -> None:
    pace, said = HostPace(), list[str]()
    time_rounds = rounds_of(host, [1, *[2] * 9])
    undisturbed(time_rounds, Watch(pace=pace), 0.01, said.append)
    assert not said
    attempt = undisturbed(time_rounds, Watch(pace=pace), device_s, said.append)
    assert attempt.host_slowdown == (pytest.approx(2) if shows else None), "the pace was known from rounds before"
    assert (len(said), attempt.disturbances != ()) == ((2, True) if shows else (0, False))


def test_without_a_clock_of_the_device_only_a_clearly_slowed_host_counts(host: Host) -> None:
    """ONNX Runtime's rows: nobody knows how far they wait for it."""
    watch, time_rounds = Watch(pace=HostPace()), rounds_of(host, [1, 1.15, 1.25, 1.25, 1.25])
    found = [undisturbed(time_rounds, watch, None, lambda _: None).host_slowdown for _ in range(3)]
    assert found == [None, None, pytest.approx(1.25)]


def test_nobody_looks_at_the_host_where_nothing_is_launched(host: Host) -> None:
    attempt = undisturbed(rounds_of(host, [9]), Watch(), None, lambda _: None)
    assert (attempt.host_slowdown, attempt.disturbances) == (None, ())


def test_a_probe_is_made_every_ten_milliseconds(host: Host) -> None:
    pace = HostPace()
    pace.begin()
    began = host.now
    for _ in range(1000):
        host.now += 1e-3
        pace.probe()
    assert len(pace._probes_s) == pytest.approx(100, abs=10)
    assert host.now - began < 1.0 * 1.021, "of the tenth of a millisecond that the work takes here, twice"


def test_an_attempt_that_is_slowed_in_part_knows_by_its_quick_probes(host: Host) -> None:
    """On a host whose own pace nobody has seen yet."""
    host.probe_s = 1.8e-4
    pace = HostPace()
    pace.begin()
    for is_slowed in itertools.islice(itertools.cycle([True, True, True, False]), 100):
        host.probe_s = 1.8e-4 if is_slowed else 1e-4
        pace.probe()
        host.now += 0.01
    assert pace.slowdown() == pytest.approx(1.8)


def test_a_single_quick_probe_is_luck(host: Host) -> None:
    pace = HostPace()
    pace.begin()
    for index in range(100):
        host.probe_s = 0.5e-4 if index == 7 else 1e-4
        pace.probe()
        host.now += 0.01
    assert pace.slowdown() == pytest.approx(1)


@pytest.mark.parametrize(
    ("near", "quickest"), [(frozenset(), 2), (frozenset({0, 1, 3}), 3), (frozenset({8, 9}), 2)], ids=str
)
def test_rounds_begin_on_the_quickest_cpu_near_the_gpu(host: Host, near: frozenset[int], quickest: int) -> None:
    host.slowdowns, host.allowed = [1.8, 1.5, 1.0, 1.1], frozenset(range(4))
    pace = HostPace(near)
    pace.begin()
    assert (host.at, host.allowed) == (quickest, frozenset(range(4))), "and may go elsewhere"
    pace.probe()
    assert pace.slowdown() == pytest.approx(1)


def test_a_cpu_that_is_slowed_is_known_by_the_others(host: Host) -> None:
    """A core may be shared for as long as a process lives, which then never sees how fast its own could be."""
    host.slowdowns, host.allowed = [1.0, 1.8], frozenset({0, 1})
    pace = HostPace()
    pace.begin()
    host.at = 1
    for _ in range(100):
        pace.probe()
        host.now += 0.01
    assert pace.slowdown() == pytest.approx(1.8)


def test_a_cpu_that_is_taken_away_meanwhile_does_not_end_a_run(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def allow(thread: int, cpus: Iterable[int]) -> None:
        if frozenset(cpus) == {1}:
            raise OSError("invalid argument")
        host.allow(thread, cpus)

    monkeypatch.setattr(os, "sched_setaffinity", allow)
    host.slowdowns, host.allowed = [1.0, 1.0], frozenset({0, 1})
    HostPace().begin()
    assert host.allowed == {0, 1}


def test_without_a_way_to_move_threads_the_host_is_watched_all_the_same(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_setaffinity")
    pace = HostPace()
    pace.begin()
    pace.probe()
    assert pace.slowdown() == pytest.approx(1)


def test_without_probes_nothing_is_known(host: Host) -> None:
    pace = HostPace()
    pace.begin()
    assert pace.slowdown() is None
    pace.probe()
    assert pace.slowdown() == pytest.approx(1)


def test_a_probe_costs_about_a_hundredth_of_the_time_between_two() -> None:
    quickest = min(host_pace._seconds_of_work() for _ in range(20))
    assert 1e-5 < quickest < 0.02 * protocol.HOST_PROBE_EVERY_S
