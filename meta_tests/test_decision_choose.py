"""The choice of a run: which row wins a branch, which branches get a place, and what can be served."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings

from fixtures.decision import budgets_of_run, choose
from fixtures.decision.bounds import breaches
from fixtures.decision.candidates import TIED_WITHIN
from fixtures.decision.choose import least_cost
from fixtures.errors import InputError
from fixtures.records import Candidate, CaseSummary
from fixtures.spec.budget import Budget
from meta_tests.decision_runs import budgets, candidates_of, competing, runs
from meta_tests.runs import MACHINE, bounds, choice_of, chosen, ladder, row, run_of

SIZES = (128, 192, 256, 384, 512)


def memory_mb(candidate: Candidate) -> float:
    return math.inf if candidate.figures.memory_mb is None else candidate.figures.memory_mb


# --- the row that wins a branch ---


def test_row_with_least_cost_an_item_wins_not_the_one_with_least_latency() -> None:
    quick, cheap = row(batch=1, p50=5), row(batch=8, p50=16)
    role = choice_of(quick, cheap)
    assert chosen(role) == {"large": cheap.id}
    assert role.rejected[0].reason == "5 ms a frame, 150% more than the 2 ms a frame of torch in fp16 at batch 8"
    assert "Next best is torch in fp16 at batch 1 with 5 ms a frame (+150%)" in role.branches[0].reason


@pytest.mark.parametrize(("p50", "wins"), [(10.3, True), (10.31, False)])
def test_of_rows_within_three_percent_the_one_with_less_memory_wins(p50: float, wins: bool) -> None:
    fast, lean = row(p50=10, memory_mb=500), row(runtime="torch-graph", p50=p50, memory_mb=400)
    role = choice_of(fast, lean)
    assert chosen(role) == {"large": lean.id if wins else fast.id}
    assert ("which needs less memory" in role.rejected[0].reason) is wins
    assert ("within 3% of torch in fp16 at batch 1 (10 ms a frame), and needs less" in role.branches[0].reason) is wins


def test_of_tied_rows_with_equal_memory_the_smaller_batch_wins() -> None:
    many, few = row(batch=8, p50=80), row(batch=4, p50=41)
    role = choice_of(many, few)
    assert chosen(role) == {"large": few.id}
    assert role.rejected[0].reason.endswith("which waits for fewer items")


def test_of_tied_rows_less_memory_wins_over_the_smaller_batch() -> None:
    few, lean = row(batch=4, p50=40, memory_mb=400), row(batch=8, p50=80, memory_mb=399)
    assert chosen(choice_of(few, lean)) == chosen(choice_of(lean, few)) == {"large": lean.id}


def test_of_rows_tied_in_everything_the_cheaper_wins() -> None:
    eager, graph = row(p50=10.1, memory_mb=None), row(runtime="torch-graph", p50=10, memory_mb=None)
    role = choice_of(eager, graph)
    assert chosen(role) == {"large": graph.id}
    assert role.rejected[0].reason.endswith("which costs no more")


def test_of_tied_rows_unmeasured_memory_loses() -> None:
    unknown, known = row(p50=10, memory_mb=None), row(runtime="torch-graph", p50=10.2, memory_mb=5000)
    role = choice_of(unknown, known)
    assert chosen(role) == {"large": known.id}
    assert role.rejected[0].reason.endswith("which is known to need less memory")


@settings(max_examples=80, deadline=None)
@given(cases=runs())
def test_no_row_tied_with_the_cheapest_needs_less_memory_than_the_winner(cases: list[CaseSummary]) -> None:
    everyone = candidates_of(cases)
    winner = least_cost(everyone)
    cheapest = min(one.figures.cost_ms_per_item for one in everyone)
    for one in everyone:
        if one.figures.cost_ms_per_item <= cheapest * (1 + TIED_WITHIN):
            assert (memory_mb(winner), winner.batch) <= (memory_mb(one), one.batch)


# --- places ---


@pytest.mark.parametrize(
    ("keep", "places"),
    [
        (1, {"large": 512}),
        (2, {"small": 128, "large": 512}),
        (3, {"small": 128, "medium": 256, "large": 512}),
        (("medium",), {"medium": 256}),
        (("small",), {"small": 128}),
        (("large", "medium"), {"medium": 256, "large": 512}),
        (("medium", "small"), {"small": 128, "medium": 256}),
    ],
    ids=str,
)
def test_places_are_filled_by_the_size_of_the_input(keep: Any, places: dict[str, int]) -> None:
    role = choice_of(*reversed(ladder(*SIZES)), keep=keep)
    assert chosen(role) == {place: f"depth_{size}-b1-fp16-torch" for place, size in places.items()}
    assert [branch.place for branch in role.branches] == list(places), "from small to large"
    kept = ", ".join(f"{place} depth_{size}" for place, size in places.items())
    assert len(role.rejected) == len(SIZES) - len(places)
    assert {one.bound for one in role.rejected} == {"keep"}
    assert all(one.reason.endswith(f"but all places are taken ({kept})") for one in role.rejected)


@pytest.mark.parametrize(
    ("sizes", "places"),
    [
        ((256,), ["large"]),
        ((256, 512), ["small", "large"]),
        ((256, 384, 512), ["small", "medium", "large"]),
    ],
)
def test_with_fewer_branches_than_places_the_large_and_then_the_small_place_is_filled(
    sizes: tuple[int, ...], places: list[str]
) -> None:
    assert list(chosen(choice_of(*ladder(*sizes)))) == places


@pytest.mark.parametrize("more_mb", [-1.0, 0.0, 1.0])
def test_of_branches_with_the_same_input_the_cheaper_one_is_kept(more_mb: float) -> None:
    """A mebibyte less, which allocators give and take, makes no place for a branch that costs four times as much."""
    cheap, dear = row("depth_a", p50=10), row("depth_b", p50=40, memory_mb=400 + more_mb)
    for cases in ((cheap, dear), (dear, cheap)):
        role = choice_of(*cases, keep=1)
        assert chosen(role) == {"large": cheap.id}
        assert role.rejected[0].reason.startswith("depth_a takes an input as large: 40 ms a frame, 300% more than")
        assert len(choice_of(*cases).branches) == 1


def test_branch_is_dominated_by_a_larger_one_that_costs_less() -> None:
    small, large = row("depth_a", p50=10, size=256), row("depth_b", p50=8, size=384)
    role = choice_of(small, large)
    assert chosen(role) == {"large": large.id}
    assert bounds(role) == {small.id: "dominated"}
    assert role.rejected[0].reason.startswith("depth_b takes an input at least as large and costs 8 ms a frame")


@pytest.mark.parametrize(
    "better_in_something",
    [{"p50": 9.8, "p95": 9.9}, {"p50": 8.0, "p95": 10.3}, {"p50": 8.0, "memory_mb": 401.0}, {"p50": 8.0, "size": 192}],
    ids=["a tie", "p95", "memory", "size"],
)
def test_branch_that_is_better_in_one_figure_is_not_dominated(better_in_something: dict[str, Any]) -> None:
    own = row("depth_a", p50=10, p95=10.2)
    other = row("depth_b", **{"size": 384, **better_in_something})
    assert len(choice_of(own, other).branches) == 2


# --- any run ---


@settings(max_examples=80, deadline=None)
@given(cases=runs(), budget=budgets)
def test_chosen_branches_keep_the_budget_and_no_feasible_row_costs_3_percent_less(
    cases: list[CaseSummary], budget: dict[str, Any]
) -> None:
    role, places = choice_of(*cases, **budget), Budget(**budget).places
    candidates = candidates_of(competing(cases, budget))
    feasible = [one for one in candidates if not breaches(one, Budget(**budget))]
    assert bool(role.branches) is bool(feasible)
    assert len(role.branches) <= len(places)
    assert [branch.place for branch in role.branches] == [
        place for place in places if place in {branch.place for branch in role.branches}
    ]
    for branch in role.branches:
        assert branch.candidate in feasible
        own = [one for one in feasible if one.variant == branch.candidate.variant]
        cheapest = min(one.figures.cost_ms_per_item for one in own)
        assert branch.candidate.figures.cost_ms_per_item <= cheapest * (1 + TIED_WITHIN)
    sizes = [branch.candidate.figures.input_size for branch in role.branches]
    assert sizes == sorted(set(sizes)), "each input size once, from small to large"
    accounted = [branch.candidate.case_id for branch in role.branches] + [one.case_id for one in role.rejected]
    assert sorted(accounted) == sorted(case.id for case in cases), "each row once: chosen, or rejected with a reason"
    assert all(one.reason for one in role.rejected)


@settings(max_examples=80, deadline=None)
@given(cases=runs())
def test_order_of_rows_does_not_change_the_choice(cases: list[CaseSummary]) -> None:
    assert chosen(choice_of(*cases)) == chosen(choice_of(*reversed(cases)))


# --- serving ---


@pytest.mark.parametrize("runtime", ["onnxruntime", "triton"])
def test_row_of_a_runtime_that_triton_serves_is_served_itself(runtime: str) -> None:
    (branch,) = choice_of(row(p50=1, runtime=runtime), row()).branches
    assert (branch.servable, branch.served, branch.served_reason) == ("same", branch.candidate, None)


def test_row_that_triton_cannot_serve_is_for_comparison_alone() -> None:
    best, other = row(runtime="onnxruntime", batch=8, p50=24), row(runtime="onnxruntime", p50=9)
    compiled, eager = row(p50=1, runtime="torch-compile"), row(p50=4.5)
    role = choice_of(compiled, row(p50=2, runtime="torch-compile", batch=1, id="slower"), eager, other, best)
    (branch,) = role.branches
    assert (branch.servable, branch.candidate.case_id) == ("same", best.id)
    assert [(one.runtime, one.case_id) for one in branch.references] == [
        ("torch-compile", compiled.id),
        ("torch", eager.id),
    ]
    assert [one.ratio for one in branch.references] == pytest.approx([1 / 3, 1.5])
    assert bounds(role)[compiled.id] == "not_servable"
    reason = next(one.reason for one in role.rejected if one.case_id == compiled.id)
    assert "1 ms a frame, 0.33 times the 3 ms a frame of onnxruntime in fp16 at batch 8" in reason
    assert "Triton does not run torch-compile" in reason


def test_reference_that_alone_keeps_the_budget_is_not_deployed() -> None:
    role = choice_of(row(p50=1, runtime="torch-compile"), row(runtime="triton", p50=30), p95_ms=20)
    assert (role.branches, set(bounds(role).values())) == ((), {"p95_ms", "not_servable"})
    assert role.nearest_miss is not None
    assert role.nearest_miss.case_id == row(runtime="triton").id


BOTH = ("torch-compile", "onnxruntime", "triton")


def test_runtimes_that_a_budget_names_compete_and_the_best_servable_row_is_named() -> None:
    best, other = row(runtime="onnxruntime", batch=8, p50=24), row(runtime="onnxruntime", p50=9)
    (branch,) = choice_of(row(p50=1, runtime="torch-compile"), other, best, runtimes=BOTH).branches
    assert branch.served is not None
    assert (branch.servable, branch.served.case_id, branch.references) == ("other_row", best.id, ())
    assert branch.served_reason is not None
    assert "onnxruntime in fp16 at batch 8 costs 3 ms a frame, 3.0 times the 1 ms a frame" in branch.served_reason


def test_triton_does_not_serve_onnxruntime_graph() -> None:
    (branch,) = choice_of(row(runtime="onnxruntime-graph")).branches
    assert (branch.servable, branch.served) == ("not_measured", None)
    assert "export the branch, and measure it" in (branch.served_reason or "")


def test_servable_row_that_breaks_the_budget_is_not_served() -> None:
    cases = row(p50=1, runtime="torch-compile"), row(runtime="triton", p50=30)
    (branch,) = choice_of(*cases, p95_ms=20, runtimes=BOTH).branches
    assert (branch.servable, branch.served) == ("over_budget", None)


# --- roles and their budgets ---


def test_each_role_has_its_own_budget_and_one_without_has_no_bounds() -> None:
    cases = [*ladder(256, 512), row("flow_256", role="flow", p50=900), row("flow_512", role="flow", p50=990, size=512)]
    choice = choose(run_of(*cases), {"depth": Budget(keep=1)})
    assert [(role.role, len(role.branches), role.budget["keep"]) for role in choice.roles] == [
        ("depth", 1, ["large"]),
        ("flow", 2, ["small", "medium", "large"]),
    ]
    assert (choice.feasible, choice.environment) == (True, MACHINE)


def test_role_without_a_branch_makes_the_choice_infeasible() -> None:
    choice = choose(run_of(row(), row("flow_256", role="flow", p50=900)), {"flow": Budget(p95_ms=100)})
    assert (choice.feasible, [len(role.branches) for role in choice.roles]) == (False, [1, 0])


def test_budget_of_a_role_without_rows_is_refused() -> None:
    with pytest.raises(InputError, match=r"^roles\.dpeth of night: role=dpeth, expected one of this run: depth\. "):
        choose(run_of(row()), {"dpeth": Budget()}, "night")


def test_run_without_latencies_or_with_a_case_twice_is_refused() -> None:
    with pytest.raises(InputError, match="run run: cases with latency=0, expected a run of bench_tests"):
        choose(run_of(), {})
    with pytest.raises(InputError, match="run run: depth_256-b1-fp16-torch=2 times, expected each case once"):
        choose(run_of(row(), row()), {})


def test_budgets_of_a_run_are_those_of_its_spec_for_roles_with_rows() -> None:
    budgets = {"depth": Budget(p95_ms=5, runtimes=("torch",), keep=("small", "large")), "flow": Budget(keep=2)}
    stored = {role: budget.model_dump(mode="json") for role, budget in budgets.items()}
    summary = run_of(row(), run={"roles": stored})
    assert budgets_of_run(summary) == {"depth": budgets["depth"]}, "only for the roles that it has rows of"
    assert budgets_of_run(run_of(row())) == {}


@pytest.mark.parametrize("roles", [None, 7, [], {"depth": 7}, {"depth": {"p95_ms": -1}}, {"depth": {"keep": 4}}])
def test_unreadable_budgets_of_a_run_are_refused(roles: object) -> None:
    with pytest.raises(InputError, match="run run: roles: budgets=unreadable, expected those of a spec"):
        budgets_of_run(run_of(row(), run={"roles": roles}))
