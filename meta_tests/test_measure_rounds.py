"""fixtures.measure.rounds: warm-up and rounds on a fake clock, and timers that do not wait, which are refused."""

from __future__ import annotations

import gc
import time

import pytest

from fixtures import spec
from fixtures.measure import protocol
from fixtures.measure.protocol import MeasuringPlan, measuring_plan
from fixtures.measure.rounds import (
    Call,
    ClockError,
    require_honest_clock,
    require_host_covers_device,
    timed_rounds,
    warm_up,
)

GPU = MeasuringPlan(warmup_s=1.0, warmup_min_calls=20, rounds_s=2.0, min_rounds=100)


def nothing() -> None:
    """Wait for the device of these tests, which has always finished."""


class FakeClock:
    """Seconds that pass only while something is called."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[int] = []

    def __call__(self) -> float:
        return self.now

    def work(self, *durations_s: float) -> Call:
        """A call whose k-th run takes the k-th duration; the last one repeats."""

        def call(index: int) -> None:
            self.now += durations_s[min(len(self.calls), len(durations_s) - 1)]
            self.calls.append(index)

        return call


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    fake = FakeClock()
    monkeypatch.setattr(time, "perf_counter", fake)
    return fake


def test_warm_up_takes_at_least_a_second_and_twenty_calls(clock: FakeClock) -> None:
    assert warm_up(clock.work(0.01), clock, GPU).calls in (100, 101)
    slow = FakeClock()
    assert warm_up(slow.work(0.2), slow, GPU).calls == 20


def test_warm_up_continues_until_two_halves_agree(clock: FakeClock) -> None:
    falling = [0.1 * 0.9**n for n in range(40)]
    warmed = warm_up(clock.work(*falling, 0.001), clock, GPU)
    assert warmed.settled
    assert warmed.calls > 40
    assert warmed.pilot_s == pytest.approx(0.001)


def test_warm_up_of_calls_that_never_settle_ends_unsettled(clock: FakeClock) -> None:
    growing = [0.06 * 1.02**n for n in range(400)]
    warmed = warm_up(clock.work(*growing), clock, GPU)
    assert not warmed.settled
    assert warmed.calls == 20 + protocol.WARMUP_MAX_EXTRA_CALLS


def test_warm_up_and_rounds_on_a_cpu_follow_the_spec(clock: FakeClock) -> None:
    plan = measuring_plan("cpu", spec.CpuLimits(cpu_warmup_s=0, cpu_budget_s=4))
    assert warm_up(clock.work(3.0), clock, plan).calls == 1
    assert plan.rounds(pilot_s=3.0) == protocol.CPU_MIN_ROUNDS
    assert plan.rounds(pilot_s=0.5) == 10


@pytest.mark.parametrize(("pilot_s", "rounds"), [(0.0001, 2000), (0.004, 500), (0.0041, 490), (0.5, 100)])
def test_rounds_on_a_gpu_fill_two_seconds_within_limits(pilot_s: float, rounds: int) -> None:
    assert rounds % protocol.INPUT_SETS == 0
    assert measuring_plan("cuda", spec.CpuLimits()).rounds(pilot_s) == rounds


def test_every_round_is_kept_outliers_included(clock: FakeClock) -> None:
    durations = [0.010, 0.011, 0.500, 0.012]
    assert timed_rounds(clock.work(*durations), 4, clock, nothing) == pytest.approx(durations)
    assert clock.calls == [0, 1, 2, 3]


def test_garbage_collector_is_off_during_rounds(clock: FakeClock) -> None:
    seen = []

    def call(_: int) -> None:
        clock.now += 1
        seen.append(gc.isenabled())

    timed_rounds(call, 2, clock, nothing)
    assert seen == [False, False]
    assert gc.isenabled()


def test_timer_that_does_not_wait_is_refused(clock: FakeClock) -> None:
    """It reads the launch alone; the device works between the rounds."""
    launched_s, worked_s = 0.001, 0.009
    ticks = iter(range(1000))

    def timer_without_waiting() -> float:
        if next(ticks) % 2 == 0:
            clock.now += worked_s
        return clock.now

    with pytest.raises(ClockError, match="must wait for the device"):
        timed_rounds(clock.work(launched_s), 50, timer_without_waiting, nothing)


def test_timer_that_leaves_work_on_the_device_is_refused(clock: FakeClock) -> None:
    """All rounds are launched, and the device still works when the last one has been read."""
    launched_s, worked_s = 0.001, 0.009
    pending = [0.0]

    def launch(_: int) -> None:
        clock.now += launched_s
        pending[0] += worked_s

    def wait() -> None:
        clock.now += pending.pop()
        pending.append(0.0)

    with pytest.raises(ClockError, match="must wait for the device"):
        timed_rounds(launch, 50, clock, wait)


def test_timer_that_waits_only_for_the_launch_queue_is_refused(clock: FakeClock) -> None:
    """The queue holds two launches; from the third on each takes as long as the work, so they add up to wall time."""
    worked_s = 0.01
    queued = [0]

    def launch(_: int) -> None:
        if queued[0] == 2:
            clock.now += worked_s
        else:
            queued[0] += 1

    def wait() -> None:
        clock.now += queued[0] * worked_s
        queued[0] = 0

    with pytest.raises(ClockError, match=r"at work for 10\.000 ms after a round of 10\.000 ms .* wait for the device"):
        timed_rounds(launch, 50, clock, wait)


def test_pause_of_the_process_after_the_rounds_is_no_unfinished_round(clock: FakeClock) -> None:
    pauses = iter([0.0, 0.5])  # before the rounds, and after them

    def wait() -> None:
        clock.now += next(pauses, 0.0)

    assert timed_rounds(clock.work(0.01), 400, clock, wait) == pytest.approx([0.01] * 400)
    assert len(clock.calls) == 401, "one more round tells a pause from a timer that does not wait"


def test_timer_of_processor_time_is_refused() -> None:
    with pytest.raises(ClockError, match="read wall time"):
        timed_rounds(lambda _: time.sleep(0.01), 5, time.process_time, nothing)


def test_timer_in_other_units_is_refused() -> None:
    with pytest.raises(ClockError):
        timed_rounds(lambda _: time.sleep(0.001), 5, lambda: time.perf_counter() * 1e3, nothing)


def test_wall_clock_passes() -> None:
    times = timed_rounds(lambda _: time.sleep(0.002), 10, time.perf_counter, nothing)
    assert len(times) == 10
    assert min(times) >= 0.002


def test_host_time_below_device_time_is_refused() -> None:
    require_host_covers_device(host_p50_s=0.0010, device_p50_s=0.00105)
    with pytest.raises(ClockError, match=r"host p50=1.000 ms, expected at least the device's 2.000 ms"):
        require_host_covers_device(host_p50_s=0.001, device_p50_s=0.002)


def test_rounds_that_exceed_their_wall_time_are_refused() -> None:
    require_honest_clock([0.5, 0.5], wall_s=1.0)
    with pytest.raises(ClockError, match="120%"):
        require_honest_clock([0.6, 0.6], wall_s=1.0)
