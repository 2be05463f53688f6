"""The choice against brute force, on random candidates: nothing better was left out, every row is accounted for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.decision.bounds import breaches, nearest_miss
from fixtures.decision.candidates import TIE, pareto_front, screened
from fixtures.decision.choose import least_cost
from fixtures.records import Candidate, CaseSummary
from fixtures.spec.budget import Budget
from meta_tests.runs import MACHINE, choice_of, chosen, row

# Few values, so that many are equal; and any.
latencies = st.sampled_from([1.0, 2.0, 2.05, 4.0, 8.0, 8.2]) | st.floats(0.1, 100)
memories = st.sampled_from([None, 100.0, 200.0, 201.0]) | st.floats(1, 1000)


@st.composite
def runs(draw: st.DrawFn) -> list[CaseSummary]:
    """Up to a dozen rows of up to four branches, each case once."""
    sizes = draw(st.lists(st.sampled_from([64, 128, 256, 512]), min_size=4, max_size=4))
    keys = st.tuples(
        st.integers(0, 3), st.sampled_from([1, 2, 8]), st.sampled_from(["torch", "onnxruntime", "torch-graph"])
    )
    return [
        row(
            f"v{index}", batch, p50, draw(memories), size=sizes[index], runtime=runtime, p95=p50 * draw(st.floats(1, 2))
        )
        for index, batch, runtime in draw(st.lists(keys, min_size=1, max_size=12, unique=True))
        for p50 in [draw(latencies)]
    ]


budgets = st.fixed_dictionaries(
    {},
    optional={
        "p95_ms": st.floats(0.1, 50),
        "vram_mb": st.floats(50, 500),
        "min_throughput": st.floats(10, 2000),
        "batch": st.sampled_from([1, 2, 4]),
        "runtimes": st.sampled_from([("torch",), ("torch", "onnxruntime")]),
        "keep": st.sampled_from([1, 2, 3, ("medium",), ("small", "medium")]),
    },
)


def candidates_of(cases: Sequence[CaseSummary]) -> list[Candidate]:
    return screened(cases, MACHINE, {}, False)[0]


def costs(candidate: Candidate) -> tuple[float, float, float, float]:
    figures = candidate.figures
    memory = math.inf if figures.memory_mb is None else figures.memory_mb
    return figures.p50_ms, -figures.throughput_items_per_s, memory, -figures.input_size


@settings(max_examples=150, deadline=None)
@given(cases=runs())
def test_the_pareto_front_is_that_of_brute_force(cases: list[CaseSummary]) -> None:
    everyone = candidates_of(cases)
    expected = []
    for own in everyone:
        beaten = False
        for other in everyone:
            pairs = list(zip(costs(other), costs(own), strict=True))
            beaten |= all(theirs <= ours for theirs, ours in pairs) and any(theirs < ours for theirs, ours in pairs)
        if not beaten:
            expected.append(own)
    assert list(pareto_front(everyone)) == expected
    assert expected


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


@settings(max_examples=200, deadline=None)
@given(cases=runs(), budget=budgets)
def test_the_nearest_miss_is_the_nearest(cases: list[CaseSummary], budget: dict[str, Any]) -> None:
    miss = choice_of(*cases, **budget).nearest_miss
    far = {case.id: distance(case, budget) for case in cases}
    if min(far.values()) <= 1 or math.isinf(min(far.values())):
        assert miss is None
        return
    assert miss is not None
    assert math.isclose(far[miss.case_id], min(far.values()), rel_tol=1e-9)
    assert math.isclose(miss.over_percent, (min(far.values()) - 1) * 100, rel_tol=1e-6, abs_tol=1e-9)


@settings(max_examples=200, deadline=None)
@given(cases=runs(), budget=budgets)
def test_what_is_chosen_keeps_its_budget_and_nothing_feasible_costs_clearly_less(
    cases: list[CaseSummary], budget: dict[str, Any]
) -> None:
    role, places = choice_of(*cases, **budget), Budget(**budget).places
    feasible = [one for one in candidates_of(cases) if not breaches(one, Budget(**budget))]
    assert bool(role.branches) is bool(feasible)
    assert len(role.branches) <= len(places)
    assert [branch.place for branch in role.branches] == [
        place for place in places if place in {branch.place for branch in role.branches}
    ]
    for branch in role.branches:
        assert branch.candidate in feasible
        own = [one for one in feasible if one.variant == branch.candidate.variant]
        cheapest = min(one.figures.cost_ms_per_item for one in own)
        assert branch.candidate.figures.cost_ms_per_item <= cheapest * (1 + TIE)
    sizes = [branch.candidate.figures.input_size for branch in role.branches]
    assert sizes == sorted(set(sizes)), "each input size once, from small to large"
    accounted = [branch.candidate.case_id for branch in role.branches] + [one.case_id for one in role.rejected]
    assert sorted(accounted) == sorted(case.id for case in cases), "each row once: chosen, or rejected with a reason"
    assert all(one.reason for one in role.rejected)


@settings(max_examples=100, deadline=None)
@given(cases=runs())
def test_the_order_of_rows_does_not_decide(cases: list[CaseSummary]) -> None:
    assert chosen(choice_of(*cases)) == chosen(choice_of(*reversed(cases)))


@settings(max_examples=150, deadline=None)
@given(cases=runs())
def test_of_rows_that_tie_with_the_cheapest_none_needs_less_memory_than_the_winner(cases: list[CaseSummary]) -> None:
    everyone = candidates_of(cases)
    winner = least_cost(everyone)
    cheapest = min(one.figures.cost_ms_per_item for one in everyone)
    for one in everyone:
        if one.figures.cost_ms_per_item <= cheapest * (1 + TIE):
            assert (costs(winner)[2], winner.batch) <= (costs(one)[2], one.batch)


def test_a_bound_that_is_almost_nothing_is_missed_by_a_number() -> None:
    miss = nearest_miss(candidates_of([row()]), Budget(p95_ms=5e-324, min_throughput=1e308))
    assert miss is not None
    assert math.isfinite(miss.over_percent)
