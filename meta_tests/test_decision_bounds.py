"""Bounds of a budget: what keeps them, what breaks them, and the row that breaks them by the least."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings

from fixtures.decision.bounds import nearest_miss
from fixtures.records import CaseSummary
from fixtures.spec.budget import Budget
from meta_tests.decision_runs import budgets, candidates_of, competing, runs
from meta_tests.runs import bounds, choice_of, chosen, row


@pytest.mark.parametrize(
    ("kept", "broken", "bound"),
    [
        ({"p95_ms": 20.0}, {"p95_ms": math.nextafter(20.0, 0)}, "p95_ms"),
        ({"vram_mb": 400.0}, {"vram_mb": math.nextafter(400.0, 0)}, "vram_mb"),
        ({"min_throughput": 500.0}, {"min_throughput": math.nextafter(500.0, 1e3)}, "min_throughput"),
        ({"batch": 8}, {"batch": 7}, "batch"),
        ({"runtimes": ("torch", "triton")}, {"runtimes": ("triton",)}, "runtimes"),
    ],
    ids=str,
)
def test_figure_that_equals_a_bound_keeps_it_and_the_next_float_breaks_it(
    kept: dict[str, Any], broken: dict[str, Any], bound: str
) -> None:
    only = row(batch=8, p50=16.0, p95=20.0, memory_mb=400.0)
    assert chosen(choice_of(only, **kept)) == {"large": only.id}
    refused = choice_of(only, **broken)
    assert refused.branches == ()
    assert bounds(refused) == {only.id: bound}


def test_all_broken_bounds_are_named_and_the_first_one_is_the_bound_of_the_row() -> None:
    slow, large = row(batch=1, p50=10, p95=30, memory_mb=900), row(batch=8, p50=16, p95=18, memory_mb=900)
    fits = row(batch=4, p50=18, p95=19, memory_mb=100)
    role = choice_of(slow, large, fits, p95_ms=20, vram_mb=500, min_throughput=200)
    assert chosen(role) == {"large": fits.id}
    assert bounds(role) == {slow.id: "p95_ms", large.id: "vram_mb"}
    assert role.rejected[0].reason == (
        "p95 30.00 ms, at most 20 ms; 900 MiB, at most 500 MiB; 100.0 frames/s, at least 200 frames/s"
    )
    assert role.budget == {"p95_ms": 20, "vram_mb": 500, "min_throughput": 200, "keep": ["small", "medium", "large"]}
    (branch,) = role.branches
    assert (
        "p95 is 19.00 ms of 20 ms. Memory is 100 MiB of 500 MiB. The budget asks for at least 200 frames/s."
        in branch.reason
    )


def test_unmeasured_memory_breaks_every_bound_of_memory() -> None:
    unknown = row(p50=1, memory_mb=None)
    role = choice_of(unknown, vram_mb=1e6)
    assert (role.branches, role.nearest_miss) == ((), None)
    assert role.rejected[0].reason == "memory was not measured; run bench_tests whole"
    assert chosen(choice_of(unknown)) == {"large": unknown.id}
    assert "Memory was not measured" in choice_of(unknown).branches[0].reason


# --- the nearest miss ---


def distance(case: CaseSummary, budget: dict[str, Any]) -> float:
    """How many times its worst bound a row needs; infinite where no factor would help."""
    assert case.latency_ms is not None
    factors = [1.0]
    if "runtimes" in budget and case.runtime not in budget["runtimes"]:
        factors.append(math.inf)
    if "batch" in budget:
        factors += [case.batch / budget["batch"], budget["batch"] / case.batch]
    if "p95_ms" in budget:
        factors.append(case.latency_ms.p95 / budget["p95_ms"])
    if "vram_mb" in budget:
        above = None if case.memory is None else case.memory.gpu_used_mb["steady"] - case.memory.gpu_used_mb["context"]
        factors.append(math.inf if above is None else above / budget["vram_mb"])
    if "min_throughput" in budget:
        factors.append(budget["min_throughput"] * case.latency_ms.p50 / case.batch / 1e3)
    return max(factors)


@settings(max_examples=80, deadline=None)
@given(cases=runs(), budget=budgets)
def test_nearest_miss_has_the_smallest_worst_excess(cases: list[CaseSummary], budget: dict[str, Any]) -> None:
    miss = choice_of(*cases, **budget).nearest_miss
    far = {case.id: distance(case, budget) for case in competing(cases, budget)}
    if min(far.values()) <= 1 or math.isinf(min(far.values())):
        assert miss is None
        return
    assert miss is not None
    assert math.isclose(far[miss.case_id], min(far.values()), rel_tol=1e-9)
    assert math.isclose(miss.over_percent, (min(far.values()) - 1) * 100, rel_tol=1e-6, abs_tol=1e-9)


def test_excess_over_a_bound_of_almost_nothing_is_finite() -> None:
    miss = nearest_miss(candidates_of([row()]), Budget(p95_ms=5e-324, min_throughput=1e308))
    assert miss is not None
    assert math.isfinite(miss.over_percent)
