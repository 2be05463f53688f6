"""fixtures.measure.telemetry: reasons that make a row unstable, normal operation, and the samples that are kept."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import chain, pairwise, repeat

import pytest

from fixtures.measure.protocol import TELEMETRY_HZ
from fixtures.measure.telemetry import Sample, TelemetrySampler, unstable_reasons
from fixtures.records import Summary, Telemetry
from meta_tests.conftest import ROOT, wait_until

CALM = Sample(1980.0, 40.0, 300.0, frozenset(), 0)


def telemetry(**seen: object) -> Telemetry:
    return Telemetry.model_validate({"samples": 20, "sm_clock_mhz": (1980, 1980, 1980), **seen})


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        ({"throttle_reasons": ("hw_slowdown",)}, "hw_slowdown"),
        ({"throttle_reasons": ("sw_thermal_slowdown",)}, "sw_thermal_slowdown"),
        ({"throttle_reasons": ("hw_thermal_slowdown",)}, "hw_thermal_slowdown"),
        ({"sm_clock_mhz": (1900, 1980, 1980)}, "SM clock drifted 4.0% (1900 to 1980 MHz)"),
        ({"foreign_processes": 2}, "2 foreign process(es) on the GPU"),
    ],
)
def test_each_disturbance_has_its_reason(seen: dict[str, object], reason: str) -> None:
    assert unstable_reasons(telemetry(**seen)) == (reason,)


@pytest.mark.parametrize(
    "seen",
    [
        {},
        {"sm_clock_mhz": (1930, 1980, 1980)},
        {"sm_clock_mhz": None},
        {"throttle_reasons": ("sw_power_cap",), "sm_clock_mhz": (1500, 1700, 1980)},
    ],
)
def test_normal_operation_has_no_reason(seen: dict[str, object]) -> None:
    assert unstable_reasons(telemetry(**seen)) == ()


def sampled(samples: Iterable[Sample], readings: int = 4) -> tuple[TelemetrySampler, float]:
    """A sampler that has made so many readings, and the seconds that it took."""
    given, asked = iter(samples), 0

    def read() -> Sample:
        nonlocal asked
        asked += 1
        return next(given)

    began = time.monotonic()
    with TelemetrySampler(read) as sampler:
        wait_until(lambda: asked >= readings)
    return sampler, time.monotonic() - began


def test_sampler_reads_ten_times_a_second_and_keeps_the_range() -> None:
    clocks = chain([1980.0, 1900.0], repeat(1950.0))
    sampler, took_s = sampled(CALM.__class__(clock, None, 300.0, frozenset({"x"}), 1) for clock in clocks)
    record = sampler.record()
    assert TELEMETRY_HZ == 10
    assert 4 <= record.samples <= TELEMETRY_HZ * took_s, "the first reading comes after a period"
    assert record.series is not None
    assert min(later - earlier for earlier, later in pairwise(record.series.at_s)) < 0.18
    assert record.sm_clock_mhz is not None
    assert (record.sm_clock_mhz[0], record.sm_clock_mhz[2]) == (1900.0, 1980.0)
    assert record.temperature_c is None
    assert (record.throttle_reasons, record.foreign_processes) == (("x",), 1)


def test_every_sample_is_kept_with_its_time() -> None:
    clocks: Iterator[float | None] = chain([1980.0, None], repeat(1950.0))
    before = time.time()
    sampler, _ = sampled(CALM.__class__(clock, 40.0, None, frozenset(), 0) for clock in clocks)
    series, after = sampler.record().series, time.time()
    assert series is not None
    assert len(series.at_s) >= 4
    assert list(series.at_s) == sorted(series.at_s)
    rounded_s = 0.001
    assert before < series.at_s[0] <= series.at_s[-1] < after + rounded_s
    assert series.sm_clock_mhz[:3] == (1980.0, None, 1950.0)
    assert series.temperature_c == (40.0,) * len(series.at_s)
    assert series.power_w == (None,) * len(series.at_s)


def test_failed_reading_leaves_no_time_without_a_sample() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("threading.excepthook", lambda _: None)
        sampler, _ = sampled([CALM], readings=2)  # the second one raises StopIteration
    series = sampler.record().series
    assert series is not None
    assert (len(series.at_s), series.power_w) == (1, (300.0,))


def test_summary_without_a_telemetry_series_is_read() -> None:
    summary = Summary.model_validate_json((ROOT / "meta_tests/data/h200/summary.json").read_text())
    (telemetry, *_) = [case.telemetry for case in summary.cases]
    assert telemetry is not None
    assert (telemetry.series, telemetry.samples > 0) == (None, True)


def test_record_without_samples_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fixtures.measure.telemetry.TELEMETRY_HZ", 0.001)
    with TelemetrySampler(lambda: CALM) as sampler:
        pass
    assert sampler.record() == Telemetry(samples=0)


@pytest.fixture(autouse=True)
def _leave_no_thread() -> Iterator[None]:
    import threading  # noqa: PLC0415

    before = threading.active_count()
    yield
    assert threading.active_count() == before
