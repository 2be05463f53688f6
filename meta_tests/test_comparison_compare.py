"""The verdict on each case of two sides, rows without a time, the reasons, and the advice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fixtures.comparison.compare import compare_sides
from fixtures.comparison.sides import Side
from fixtures.records import Memory
from meta_tests.compared import compared, pair_of, processes, side
from meta_tests.runs import MACHINE, latency, on_gpu, row, run_of

# --- the verdict and its reason ---


@pytest.mark.parametrize(
    ("p50", "verdict", "said"),
    [
        (10.0, "same", "the interval lies within 3% of 1"),
        (10.28, "same", "the interval lies within 3% of 1"),
        (10.31, "slower", "latency +3.1%"),
        (9.75, "same", "the interval lies within 3% of 1"),
        (9.5, "faster", "latency -5.0%"),
        (20.0, "slower", "latency +100.0%"),
    ],
)
def test_difference_of_three_percent_is_called(p50: float, verdict: str, said: str) -> None:
    case = compared(processes(10), processes(p50))
    assert (case.verdict, case.reason, case.assumed, case.processes) == (verdict, said, False, (3, 3))
    assert case.processes_needed is None
    assert case.ratio == pytest.approx(p50 / 10, rel=1e-6)
    assert [*case.p50_ms] == pytest.approx([10, p50], rel=1e-6)
    assert case.interval is not None
    assert case.interval[0] < (case.ratio or 0) < case.interval[1]


@pytest.mark.parametrize(
    ("before", "after", "said", "needed"),
    [
        (
            (10, 10, 10),
            (11, 14, 20),
            "latency +45.5%; the interval, 0.898 to 2.356, allows a change of 3% and also no",
            7,
        ),
        ((10, 10.1, 10.2), (10.3, 10.35, 10.4), "allows a change of 3% and also a smaller one; about 6 processes", 6),
    ],
)
def test_inconclusive_case_names_interval_and_processes_needed(
    before: tuple[float, ...], after: tuple[float, ...], said: str, needed: int
) -> None:
    case = compared(*([row(p50=p50) for p50 in side] for side in (before, after)))
    assert (case.verdict, case.processes_needed) == ("inconclusive", needed)
    assert said in case.reason
    assert case.reason.endswith(f"about {needed} processes a side would tell (tools.repeat_runs --repeats {needed})")


def test_inconclusive_case_that_no_number_of_processes_would_tell_says_so() -> None:
    case = compared([row(p50=10, p90=30)], [row(p50=10)])
    assert (case.verdict, case.processes_needed) == ("inconclusive", None)
    assert "more than 100 processes a side would be needed to tell" in case.reason


@pytest.mark.parametrize(("memory_mb", "leaner"), [(300, "candidate needs 100"), (500, "baseline needs 100")])
def test_of_sides_that_are_the_same_the_one_with_less_memory_is_named(memory_mb: float, leaner: str) -> None:
    case = compared(processes(10), processes(10, memory=on_gpu(memory_mb)))
    assert (case.verdict, case.memory_mb) == ("same", (400, memory_mb))
    assert case.reason == f"the interval lies within 3% of 1; the {leaner} MiB less memory"


def test_memory_that_overflows_is_not_known() -> None:
    broken = Memory(source="fresh_process", gpu_used_mb={"context": -1e308, "steady": 1e308})
    assert compared(processes(10), processes(10, memory=broken)).memory_mb == (400, None)


def test_one_process_a_side_says_where_assumed_spread_is_too_small() -> None:
    launch_bound = compared([row(launch_bound=True)], [row(p50=20)])
    assert (launch_bound.assumed, launch_bound.processes) == (True, (1, 1))
    assert launch_bound.reason == "latency +100.0%; launch-bound, so it moves with the host"
    on_cpu = side(row(), environment={**MACHINE, "device": "cpu"})
    assert "on a CPU, processes differ by more than the 0.6%" in compare_sides(on_cpu, on_cpu).cases[0].reason


def test_row_with_noisy_rounds_says_how_much_processes_are_assumed_to_differ() -> None:
    noisy = [row(launch_bound=True, p90=10 * (1 + 1.28155 * 0.11))]
    assert "moves with the host: processes are assumed to differ by 11%" in compared(noisy, noisy).reason


def test_row_that_a_slowed_host_may_explain_says_so() -> None:
    case = compared([row(p50=10, host_slowdown=1.1)], [row(p50=17, host_slowdown=1.8)])
    assert case.verdict == "inconclusive"
    assert case.reason.endswith("moves with the host, which may have made a side 3.2 times as long")


def test_three_processes_a_side_need_no_word_about_the_host() -> None:
    rows = [[row(launch_bound=True, p50=p50, p90=15, host_slowdown=1.5)] * 3 for p50 in (10, 10.5)]
    assert compared(*rows).reason == "latency +5.0%"


# --- rows without a time ---


@pytest.mark.parametrize(
    ("before", "after", "verdict", "said"),
    [
        ("ok", "error", "failed", "error (why) in the candidate"),
        ("ok", "oom", "failed", "oom (why) in the candidate"),
        ("ok", "unstable", "not_comparable", "unstable (why) in the candidate"),
        ("error", "ok", "not_comparable", "error (why) in the baseline"),
        ("unstable", "error", "not_comparable", "unstable (why) in the baseline"),
        ("oom", "oom", "not_comparable", "oom (why) in the baseline"),
    ],
)
def test_case_without_time_has_failed_or_is_not_comparable(before: str, after: str, verdict: str, said: str) -> None:
    rows = [[row(status=status, error=None if status == "ok" else "why")] for status in (before, after)]
    case = compared(*rows)
    assert (case.verdict, case.reason, case.ratio) == (verdict, said, None)


@pytest.mark.parametrize("figures", [None, latency(0), latency(-1), latency(5e-324), latency(1, p90=1e308)])
def test_impossible_time_counts_as_none(figures: Any) -> None:
    case = compared([row()], [row(latency_ms=figures)])
    assert (case.verdict, case.reason) == ("not_comparable", "no time in the candidate")


@pytest.mark.parametrize("status", ["oom", "error"])
def test_candidate_that_fails_in_one_of_several_processes_has_failed(status: str) -> None:
    after = [*processes(5, 4), row(status=status, error="why")]
    case = compared(processes(10), after)
    assert (case.verdict, case.processes) == ("failed", (3, 4))
    assert case.reason == f"{status} (why) in 1 of 5 processes of the candidate; latency -50.0%"
    both = compared([*processes(10), row(status="error")], after)
    assert both.verdict == "faster", "the baseline failed in one process, too"


def test_unstable_processes_are_left_out_and_counted() -> None:
    pair = pair_of(processes(10), [*processes(10), row(p50=99, status="unstable")])
    assert (pair.cases[0].verdict, pair.cases[0].processes) == ("same", (3, 3))
    assert pair.notes == ("1 unstable rows of the candidate are left out",)


# --- cases and advice ---


def test_cases_of_one_side_alone_are_named_in_the_order_of_the_baseline() -> None:
    before = Side(Path("a"), (run_of(row("v3"), row("v1"), row("v2")),))
    after = Side(Path("b"), (run_of(row("v4"), row("v1"), row("v3"), complete=False),))
    pair = compare_sides(before, after)
    assert [case.id[:2] for case in pair.cases] == ["v3", "v1"]
    assert (pair.only_in_baseline, pair.only_in_candidate) == ((row("v2").id,), (row("v4").id,))
    assert (pair.baseline.complete, pair.candidate.complete) == (True, False)
    assert "the candidate is not complete, or made from rows alone" in pair.notes


def test_advice_names_the_command_where_a_spread_is_assumed() -> None:
    assert pair_of([row()], [row(p50=20)]).notes == (
        "Fewer than three processes on a side: the spread between processes is assumed.",
        "Measure both sides in turn, each time in a new process: python -m tools.repeat_runs --repeats 5",
    )


def test_advice_counts_inconclusive_cases_and_names_the_processes_needed() -> None:
    after = [[row("a", p50=p50), row("b", p50=other)] for p50, other in ((11, 10.0), (14, 10.01), (20, 9.99))]
    before = Side(Path("a"), (run_of(row("a"), row("b")),) * 3)
    pair = compare_sides(before, Side(Path("b"), tuple(run_of(*rows) for rows in after)))
    assert [case.verdict for case in pair.cases] == ["inconclusive", "same"]
    assert pair.notes == (
        "Inconclusive: 1 of 2 cases; about 7 processes a side would tell.",
        "Measure both sides in turn, each time in a new process: python -m tools.repeat_runs --repeats 7",
    )


def test_advice_counts_the_inconclusive_cases_that_more_processes_would_tell() -> None:
    noisy, close = row("a", p90=30), row("b", p50=10.2)
    pair = compare_sides(Side(Path("a"), (run_of(row("a"), row("b")),)), Side(Path("b"), (run_of(noisy, close),)))
    assert "Inconclusive: 2 of 2 cases; about 5 processes a side would tell 1 of them." in pair.notes
    hopeless = pair_of([row(p90=30)], [row()])
    assert "Inconclusive: 1 of 1 cases; more than 100 processes a side would be needed to tell." in hopeless.notes
