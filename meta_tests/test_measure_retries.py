"""Rounds that were disturbed by the GPU's state or by the host are timed again, and say so when that did not help."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable

import pytest

from fixtures.measure import host_speed, protocol
from fixtures.measure.host_speed import HostSpeed
from fixtures.measure.retries import Watch, time_with_retries
from fixtures.measure.rounds import Between, timed_rounds
from fixtures.measure.telemetry import Sample
from meta_tests.conftest import slowness


class Host:
    """A host whose Python takes as long as it is told, on a clock that stands still otherwise.

    Attributes:
        slowdowns: of its CPUs, on top of that.
        busy: CPUs on which another program has its turn first, for a millisecond.
        at: the CPU that our thread is on; it leaves only when it has to.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.probe_s = 1e-4
        self.slowdowns = [1.0]
        self.busy: frozenset[int] = frozenset()
        self.at = 0
        self.allowed = frozenset({0})
        self.waited_s = 0.0

    def work(self) -> None:
        self.now += self.probe_s * self.slowdowns[self.at]

    def allow(self, _: int, cpus: Iterable[int]) -> None:
        self.allowed = frozenset(cpus)
        if self.at not in self.allowed:
            self.at = min(self.allowed)
            if self.at in self.busy:
                self.now += 1e-3
                self.waited_s += 1e-3


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    fake = Host()
    monkeypatch.setattr(time, "perf_counter", lambda: fake.now)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(host_speed, "_work", fake.work)
    monkeypatch.setattr(host_speed, "_waited_s", lambda: fake.waited_s)
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


def no_device_time() -> None:
    return None


@pytest.mark.parametrize(("disturbed_attempts", "attempts", "is_stable"), [(0, 1, True), (2, 3, True), (9, 3, False)])
def test_rounds_on_a_disturbed_gpu_are_timed_again_twice(
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
        assert seen.wait(timeout=30), "the GPU is read while rounds are timed"
        timing.clear()
        return [0.1]

    def read() -> Sample:
        is_disturbed = timing.is_set() and made <= disturbed_attempts
        if timing.is_set():
            seen.set()
        return Sample(1980.0, 40.0, 300.0, frozenset(), int(is_disturbed))

    said: list[str] = []
    attempt = time_with_retries(rounds, no_device_time, Watch(read), said.append)
    assert (attempt.times_s, made, attempt.unstable == ()) == ([0.1], attempts, is_stable)
    assert len(said) == attempts - 1


@pytest.mark.parametrize(
    ("slowdowns", "attempts", "is_quiet"),
    [([1, 1], 1, True), ([1, 1.15], 1, True), ([1, 1.8, 1.8, 1], 3, True), ([1, *[1.8] * 9], 3, False)],
)
def test_rounds_on_a_slowed_host_are_timed_again_twice(
    host: Host, slowdowns: list[float], attempts: int, is_quiet: bool
) -> None:
    host_speed, said = HostSpeed(), list[str]()
    time_rounds = rounds_of(host, slowdowns)
    assert time_with_retries(
        time_rounds, lambda: 0.005, Watch(host_speed=host_speed), said.append
    ).host_slowdown == pytest.approx(1)
    attempt = time_with_retries(time_rounds, lambda: 0.005, Watch(host_speed=host_speed), said.append)
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
    host_speed, said = HostSpeed(), list[str]()
    time_rounds = rounds_of(host, [1, *[2] * 9])
    time_with_retries(time_rounds, lambda: 0.01, Watch(host_speed=host_speed), said.append)
    assert not said
    attempt = time_with_retries(time_rounds, lambda: device_s, Watch(host_speed=host_speed), said.append)
    assert attempt.host_slowdown == (pytest.approx(2) if shows else None), "the host_speed was known from rounds before"
    assert (len(said), attempt.disturbances != ()) == ((2, True) if shows else (0, False))


def test_without_a_clock_of_the_device_only_a_clearly_slowed_host_counts(host: Host) -> None:
    """ONNX Runtime's rows: nobody knows how far they wait for it."""
    watch, time_rounds = Watch(host_speed=HostSpeed()), rounds_of(host, [1, 1.15, 1.25, 1.25, 1.25])
    found = [time_with_retries(time_rounds, no_device_time, watch, lambda _: None).host_slowdown for _ in range(3)]
    assert found == [None, None, pytest.approx(1.25)]


def test_the_least_disturbed_attempt_counts(host: Host) -> None:
    """And not the last one, which may be the worst."""
    host_speed = HostSpeed()
    time_rounds = rounds_of(host, [1, 1.3, 1.25, 1.9])
    time_with_retries(time_rounds, lambda: 0.005, Watch(host_speed=host_speed), lambda _: None)
    attempt = time_with_retries(time_rounds, lambda: 0.005, Watch(host_speed=host_speed), lambda _: None)
    assert attempt.host_slowdown == pytest.approx(1.25)


def test_a_stable_attempt_on_a_slowed_host_is_better_than_an_unstable_one(host: Host) -> None:
    host_speed = HostSpeed()
    time_rounds = rounds_of(host, [1, *[1.3] * 9])
    time_with_retries(time_rounds, lambda: 0.005, Watch(host_speed=host_speed), lambda _: None)
    device_s = iter([0.02, 0.005, 0.02])
    attempt = time_with_retries(time_rounds, lambda: next(device_s), Watch(host_speed=host_speed), lambda _: None)
    assert (attempt.unstable, attempt.device_s) == ((), 0.005)


def test_the_device_is_timed_again_with_the_rounds(host: Host) -> None:
    """Somebody else was on the GPU before the first rounds: no timer is to blame."""
    device_s, said = iter([0.018, 0.0099]), list[str]()
    attempt = time_with_retries(rounds_of(host, [1, 1]), lambda: next(device_s), Watch(), said.append)
    assert said == ["again, because unstable: the GPU was slower just before the rounds"]
    assert (attempt.device_s, attempt.disturbances) == (0.0099, ())


def test_nobody_looks_at_the_host_where_nothing_is_launched(host: Host) -> None:
    attempt = time_with_retries(rounds_of(host, [9]), no_device_time, Watch(), lambda _: None)
    assert (attempt.host_slowdown, attempt.disturbances) == (None, ())


def test_a_probe_is_made_every_ten_milliseconds(host: Host) -> None:
    host_speed = HostSpeed()
    host_speed.begin()
    began = host.now
    for _ in range(1000):
        host.now += 1e-3
        host_speed.probe()
    assert len(host_speed._probes_s) == pytest.approx(100, abs=10)
    assert host.now - began < 1.0 * 1.021, "of the tenth of a millisecond that the work takes here, twice"


def test_an_attempt_that_is_slowed_in_part_knows_by_its_quick_probes(host: Host) -> None:
    """On a host whose own host_speed nobody has seen yet."""
    host.probe_s = 1.8e-4
    host_speed = HostSpeed()
    host_speed.begin()
    for is_slowed in itertools.islice(itertools.cycle([True, True, True, False]), 100):
        host.probe_s = 1.8e-4 if is_slowed else 1e-4
        host_speed.probe()
        host.now += 0.01
    assert host_speed.slowdown() == pytest.approx(1.8)


def test_a_single_quick_probe_is_luck(host: Host) -> None:
    host_speed = HostSpeed()
    host_speed.begin()
    for index in range(100):
        host.probe_s = 0.5e-4 if index == 7 else 1e-4
        host_speed.probe()
        host.now += 0.01
    assert host_speed.slowdown() == pytest.approx(1)


@pytest.mark.parametrize(
    ("near", "quickest"), [(frozenset(), 2), (frozenset({0, 1, 3}), 3), (frozenset({8, 9}), 2)], ids=str
)
def test_rounds_begin_on_the_quickest_cpu_near_the_gpu(host: Host, near: frozenset[int], quickest: int) -> None:
    host.slowdowns, host.allowed = [1.8, 1.5, 1.0, 1.1], frozenset(range(4))
    host_speed = HostSpeed(near)
    host_speed.begin()
    assert (host.at, host.allowed) == (quickest, frozenset(range(4))), "and may go elsewhere"
    host_speed.probe()
    assert host_speed.slowdown() == pytest.approx(1)


def test_a_cpu_that_is_slowed_is_known_by_the_others(host: Host) -> None:
    """A core may be shared for as long as a process lives, which then never sees how fast its own could be."""
    host.slowdowns, host.allowed = [1.0, 1.8], frozenset({0, 1})
    host_speed = HostSpeed()
    host_speed.begin()
    host.at = 1
    for _ in range(100):
        host_speed.probe()
        host.now += 0.01
    assert host_speed.slowdown() == pytest.approx(1.8)


def test_rounds_do_not_begin_where_another_program_has_its_turns(host: Host) -> None:
    """A look is shorter than a turn: Python is as quick there as elsewhere, once it is on."""
    host.slowdowns, host.allowed, host.busy = [1.2, 1.0], frozenset({0, 1}), frozenset({1})
    HostSpeed().begin()
    assert host.at == 0


def test_a_thread_that_waits_for_its_turns_is_slowed(host: Host) -> None:
    """Probes are shorter than a turn; of a hundred, most meet nobody."""
    host_speed = HostSpeed()
    host_speed.begin()
    for _ in range(100):
        host_speed.probe()
        host.now += 0.01
        host.waited_s += 0.005
    assert host_speed.slowdown() == pytest.approx(2, rel=0.03)


def test_what_a_thread_has_waited_for_is_counted_by_the_system() -> None:
    """Of two busy threads on one CPU, one waits."""
    before = host_speed._waited_s()
    host_speed._work()
    if not host_speed._SCHEDULED.exists() or host_speed._SCHEDULED.read_text().startswith("0 "):
        assert before == 0.0
        pytest.skip("this system does not count it")
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(usable)})
    rival = subprocess.Popen([sys.executable, "-c", "while True: pass"])  # born on the same CPU
    deadline = time.monotonic() + 120
    try:
        while host_speed._waited_s() - before < 0.05:
            assert time.monotonic() < deadline, "two threads of one CPU, and none waits"
            host_speed._work()
    finally:
        rival.kill()
        rival.wait()
        os.sched_setaffinity(0, usable)


@pytest.mark.parametrize("refused", [[{1}], [{0}, {1}], [{0}, {1}, {0, 1}]], ids=str)
def test_cpus_that_a_thread_may_not_choose_do_not_end_a_run(
    host: Host, monkeypatch: pytest.MonkeyPatch, refused: list[set[int]]
) -> None:
    """One is taken away meanwhile; moving is forbidden altogether."""

    def allow(thread: int, cpus: Iterable[int]) -> None:
        if set(cpus) in refused:
            raise OSError("invalid argument")
        host.allow(thread, cpus)

    monkeypatch.setattr(os, "sched_setaffinity", allow)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    host.slowdowns, host.allowed = [1.0, 1.0, 1.0, 1.0], frozenset({0, 1})
    host_speed = HostSpeed()
    host_speed.begin()
    assert host.allowed == (frozenset(range(4)) if {0, 1} in refused else {0, 1}), "and no thread is left on one CPU"
    host_speed.probe()
    assert host_speed.slowdown() == pytest.approx(1)


def test_without_a_way_to_move_threads_the_host_is_watched_all_the_same(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_setaffinity")
    host_speed = HostSpeed()
    host_speed.begin()
    host_speed.probe()
    assert host_speed.slowdown() == pytest.approx(1)


def test_without_probes_nothing_is_known(host: Host) -> None:
    host_speed = HostSpeed()
    host_speed.begin()
    assert host_speed.slowdown() is None
    host_speed.probe()
    assert host_speed.slowdown() == pytest.approx(1)


def test_a_probe_costs_about_a_hundredth_of_the_time_between_two() -> None:
    quickest = min(host_speed._seconds_of_work() for _ in range(50))
    assert 1e-5 < quickest < 0.02 * protocol.HOST_PROBE_EVERY_S * slowness()
