"""fixtures.measure.host_speed: how much longer Python takes than at the host's best, and the quickest CPU."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterable

import pytest

from fixtures.measure import host_speed, protocol
from fixtures.measure.host_speed import HostSpeed
from meta_tests.conftest import slowness
from meta_tests.host import Host, install


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return install(monkeypatch)


def test_probe_is_made_every_ten_milliseconds(host: Host) -> None:
    speed = HostSpeed()
    speed.begin()
    began = host.now
    for _ in range(1000):
        host.now += 1e-3
        speed.probe()
    assert len(speed._probes_s) == pytest.approx(100, abs=10)
    assert host.now - began < 1.0 * 1.021, "each probe runs the 0.1 ms of Python twice"


def test_quick_probes_of_an_attempt_set_the_best_of_a_host_slowed_in_part(host: Host) -> None:
    """On a host whose best was not seen before."""
    host.probe_s = 1.8e-4
    speed = HostSpeed()
    speed.begin()
    for is_slowed in itertools.islice(itertools.cycle([True, True, True, False]), 100):
        host.probe_s = 1.8e-4 if is_slowed else 1e-4
        speed.probe()
        host.now += 0.01
    assert speed.slowdown() == pytest.approx(1.8)


def test_single_quick_probe_does_not_set_the_best(host: Host) -> None:
    speed = HostSpeed()
    speed.begin()
    for index in range(100):
        host.probe_s = 0.5e-4 if index == 7 else 1e-4
        speed.probe()
        host.now += 0.01
    assert speed.slowdown() == pytest.approx(1)


@pytest.mark.parametrize(
    ("near", "quickest"), [(frozenset(), 2), (frozenset({0, 1, 3}), 3), (frozenset({8, 9}), 2)], ids=str
)
def test_begin_moves_to_the_quickest_cpu_near_the_gpu(host: Host, near: frozenset[int], quickest: int) -> None:
    host.slowdowns, host.allowed = [1.8, 1.5, 1.0, 1.1], frozenset(range(4))
    speed = HostSpeed(near)
    speed.begin()
    assert (host.at, host.allowed) == (quickest, frozenset(range(4))), "the thread may leave it"
    speed.probe()
    assert speed.slowdown() == pytest.approx(1)


def test_slowed_cpu_is_found_by_trials_on_the_others(host: Host) -> None:
    """A core may be shared as long as the process lives, whose own probes then never see the best."""
    host.slowdowns, host.allowed = [1.0, 1.8], frozenset({0, 1})
    speed = HostSpeed()
    speed.begin()
    host.at = 1
    for _ in range(100):
        speed.probe()
        host.now += 0.01
    assert speed.slowdown() == pytest.approx(1.8)


def test_begin_avoids_a_cpu_on_which_another_program_runs(host: Host) -> None:
    """A trial is shorter than a turn, so Python itself is as quick there as elsewhere."""
    host.slowdowns, host.allowed, host.busy = [1.2, 1.0], frozenset({0, 1}), frozenset({1})
    HostSpeed().begin()
    assert host.at == 0


def test_waiting_for_a_cpu_counts_as_slowdown(host: Host) -> None:
    """Probes are shorter than a turn, so most of them are not interrupted."""
    speed = HostSpeed()
    speed.begin()
    for _ in range(100):
        speed.probe()
        host.now += 0.01
        host.waited_s += 0.005
    assert speed.slowdown() == pytest.approx(2, rel=0.03)


def test_system_counts_the_time_that_a_thread_waits_for_a_cpu() -> None:
    """Of two busy threads on one CPU one waits."""
    before = host_speed._waited_s()
    host_speed._work()
    if not host_speed._SCHEDULED.exists() or host_speed._SCHEDULED.read_text().startswith("0 "):
        assert before == 0.0
        pytest.skip("this system does not count it")
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(usable)})
    rival = subprocess.Popen([sys.executable, "-c", "while True: pass"])  # born on the same CPU
    deadline = time.monotonic() + 30
    try:
        while host_speed._waited_s() - before < 0.05:
            assert time.monotonic() < deadline, "neither of two threads on one CPU waits"
            host_speed._work()
    finally:
        rival.kill()
        rival.wait()
        os.sched_setaffinity(0, usable)


@pytest.mark.parametrize("refused", [[{1}], [{0}, {1}], [{0}, {1}, {0, 1}]], ids=str)
def test_refused_cpus_do_not_end_a_run(host: Host, monkeypatch: pytest.MonkeyPatch, refused: list[set[int]]) -> None:
    """One CPU is lost meanwhile, the quickest is, or pinning is forbidden altogether."""

    def allow(thread: int, cpus: Iterable[int]) -> None:
        if set(cpus) in refused:
            raise OSError("invalid argument")
        host.allow(thread, cpus)

    monkeypatch.setattr(os, "sched_setaffinity", allow)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    host.slowdowns, host.allowed = [1.0, 1.0, 1.0, 1.0], frozenset({0, 1})
    speed = HostSpeed()
    speed.begin()
    assert host.allowed == (frozenset(range(4)) if {0, 1} in refused else {0, 1}), "the thread is not left on one CPU"
    speed.probe()
    assert speed.slowdown() == pytest.approx(1)


def test_host_is_watched_where_threads_cannot_be_pinned(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity")
    speed = HostSpeed()
    speed.begin()
    speed.probe()
    assert speed.slowdown() == pytest.approx(1)


def test_slowdown_is_unknown_without_a_probe(host: Host) -> None:
    speed = HostSpeed()
    speed.begin()
    assert speed.slowdown() is None
    speed.probe()
    assert speed.slowdown() == pytest.approx(1)


def test_probe_takes_about_a_hundredth_of_the_time_between_two() -> None:
    quickest = min(host_speed._seconds_of_work() for _ in range(50))
    assert 1e-5 < quickest < 0.02 * protocol.HOST_PROBE_EVERY_S * slowness()
