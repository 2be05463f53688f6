"""fixtures.measure.protocol: its limits, held against the stored runs of an H200 and of several H100s.

Each test is the measurement behind a constant; the comment beside the constant names the figures.
"""

from __future__ import annotations

import gzip
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import pytest

from fixtures.measure import protocol
from fixtures.measure.telemetry import unstable_reasons
from fixtures.records import CaseSummary, Summary
from fixtures.results.percentiles import relative_iqr

DATA = Path(__file__).parent / "data"


@cache
def stored_runs() -> tuple[Summary, ...]:
    """The stored runs that the limits were set by; those of packages are younger.

    Their rows are of three runtimes that have a device clock, and of some that have none.
    """
    paths = [path for path in sorted(DATA.glob("*/*.json")) if path.name != "manifest.json"]
    alone = [path for path in paths if path.parent.name != "h100_packages"]
    return tuple(Summary.model_validate_json(path.read_bytes()) for path in alone)


def with_device_time(cases: Iterable[CaseSummary]) -> list[CaseSummary]:
    return [case for case in cases if case.latency_ms and case.device_p50_ms]


def p50_ms(case: CaseSummary) -> float:
    assert case.latency_ms
    return case.latency_ms.p50


def host_to_device(case: CaseSummary) -> float:
    assert case.device_p50_ms
    return p50_ms(case) / case.device_p50_ms


def all_rows() -> list[CaseSummary]:
    return [case for run in stored_runs() for case in run.cases if case.latency_ms]


def half_interval(rounds: Sequence[float]) -> float:
    """Half of the 95% order-statistic interval of a median, as a part of it."""
    ordered = sorted(rounds)
    low = math.floor(len(ordered) / 2 - 1.96 * math.sqrt(len(ordered)) / 2)
    return (ordered[len(ordered) - 1 - low] - ordered[low]) / 2 / statistics.median(ordered)


@cache
def h200_rounds() -> dict[str, list[float]]:
    """Case → its rounds in milliseconds, of the run on an H200 with a quiet host."""
    rounds: dict[str, list[float]] = defaultdict(list)
    with gzip.open(DATA / "h200" / "results.jsonl.gz", "rt") as lines:
        for row in map(json.loads, lines):
            if row["latency_ms"] is not None:
                rounds[row["case_id"]].append(row["latency_ms"])
    return rounds


# --- how far rounds wait for the host


def test_host_to_device_ratios_of_graphs_and_compiled_rows_are_below_the_limits() -> None:
    ratios: dict[str, list[float]] = defaultdict(list)
    for case in with_device_time(all_rows()):
        ratios[case.runtime].append(host_to_device(case))
    assert {runtime: len(found) for runtime, found in ratios.items()} == {
        "torch": 83,
        "torch-graph": 36,
        "torch-compile": 12,
    }
    assert min(map(min, ratios.values())) >= 1.0 > protocol.MIN_HOST_TO_DEVICE
    assert max(ratios["torch-graph"]) == pytest.approx(1.027, abs=1e-3)
    assert max(ratios["torch-graph"]) < protocol.HOST_SHOWS_RATIO
    assert max(ratios["torch-compile"]) == pytest.approx(1.272, abs=1e-3)
    assert max(ratios["torch-compile"]) < protocol.LAUNCH_BOUND_RATIO
    assert max(ratios["torch"]) > 6


def test_cuda_graph_gains_little_on_rows_below_the_launch_bound_ratio_and_much_above() -> None:
    """Of 36 eager rows whose graph was measured in the same run; none of them lies between 1.30 and 1.59."""
    gains: dict[bool, list[float]] = {False: [], True: []}
    for run in stored_runs():
        by_id = {case.id: case for case in with_device_time(run.cases)}
        for case_id, eager in by_id.items():
            if graph := by_id.get(f"{case_id}-graph"):
                is_launch_bound = host_to_device(eager) > protocol.LAUNCH_BOUND_RATIO
                assert eager.launch_bound is is_launch_bound
                assert not 1.30 < host_to_device(eager) < 1.59
                gains[is_launch_bound].append(p50_ms(eager) / p50_ms(graph))
    assert (len(gains[False]), len(gains[True])) == (10, 26)
    assert max(gains[False]) == pytest.approx(1.415, abs=1e-3)
    assert min(gains[True]) == pytest.approx(1.788, abs=1e-3)


def test_host_p50_repeats_between_runs_only_below_the_ratio_at_which_the_host_shows() -> None:
    """Of 26 cases measured on H100s of several hosts, 2 to 7 times each."""
    rows: dict[str, list[CaseSummary]] = defaultdict(list)
    for run in stored_runs():
        if "H100" in str(run.environment["gpu"]):
            for case in with_device_time(run.cases):
                rows[case.id].append(case)
    spreads: dict[bool, list[float]] = {False: [], True: []}
    for found in rows.values():
        if len(found) > 1:
            shows = max(map(host_to_device, found)) > protocol.HOST_SHOWS_RATIO
            assert all(not 1.028 < host_to_device(case) < 1.063 for case in found)
            spreads[shows].append(max(map(p50_ms, found)) / min(map(p50_ms, found)))
    assert (len(spreads[False]), len(spreads[True])) == (13, 13)
    assert max(spreads[False]) == pytest.approx(1.017, abs=1e-3)
    assert min(spreads[True]) == pytest.approx(1.255, abs=1e-3)


# --- how the state of the GPU is judged


def test_sm_clock_moved_during_no_rounds_except_at_the_power_limit() -> None:
    drifts: dict[bool, list[float]] = {False: [], True: []}
    for case in all_rows():
        assert case.telemetry
        assert case.telemetry.sm_clock_mhz
        lowest, _, highest = case.telemetry.sm_clock_mhz
        drifts["sw_power_cap" in case.telemetry.throttle_reasons].append((highest - lowest) / highest)
        assert unstable_reasons(case.telemetry) == ()
    assert (len(drifts[False]), max(drifts[False])) == (182, 0.0)
    assert max(drifts[True]) == pytest.approx(0.144, abs=1e-3)


# --- how many calls are made


def test_every_stored_row_settled_within_a_fifth_of_the_extra_calls() -> None:
    extra = []
    for case in all_rows():
        assert not any("not settled" in note for note in case.notes)
        assert case.cold_start
        least = max(protocol.WARMUP_WINDOW, protocol.GPU_WARMUP_S * 1e3 / p50_ms(case))
        extra.append(case.cold_start.warmup_calls - least)
    assert max(extra) == pytest.approx(51, abs=1)
    assert max(extra) < protocol.WARMUP_MAX_EXTRA_CALLS / 5


def test_medians_of_the_least_rounds_are_known_to_a_third_of_a_percent_where_the_gpu_decides() -> None:
    least = {case_id: half_interval(rounds[: protocol.GPU_MIN_ROUNDS]) for case_id, rounds in h200_rounds().items()}
    graphs = [half for case_id, half in least.items() if case_id.endswith("-graph")]
    assert (len(graphs), len(least)) == (24, 60)
    assert max(graphs) == pytest.approx(0.0027, abs=1e-4)
    assert sorted(least.values())[-2] < 0.01, "all but one eager row"


def test_spread_of_58_of_60_rows_on_a_quiet_host_is_below_the_noisy_limit() -> None:
    spreads = sorted(relative_iqr(rounds) for rounds in h200_rounds().values())
    assert sum(spread > protocol.NOISY_RELATIVE_IQR for spread in spreads) == 2
    graphs = [relative_iqr(rounds) for case_id, rounds in h200_rounds().items() if case_id.endswith("-graph")]
    assert max(graphs) == pytest.approx(0.017, abs=1e-3)


def test_gpu_memory_hardly_grows_after_the_first_call() -> None:
    used = [case.memory.gpu_used_mb for case in all_rows() if case.memory]
    grown = [stages["steady"] - stages["first_call"] for stages in used if "first_call" in stages]
    assert len(grown) == 48
    assert max(grown) < 0.1
