"""What is chosen of a run, and why: bounds, ties, rows that never win, and places."""

from __future__ import annotations

import math
from typing import Any

import pytest

from fixtures.decision import choose
from meta_tests.runs import bounds, choice_of, chosen, ladder, latency, row, run_of

SIZES = (128, 192, 256, 384, 512)


# --- bounds ---


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
def test_what_equals_a_bound_keeps_it_and_the_next_number_does_not(
    kept: dict[str, Any], broken: dict[str, Any], bound: str
) -> None:
    only = row(batch=8, p50=16.0, p95=20.0, memory_mb=400.0)
    assert chosen(choice_of(only, **kept)) == {"large": only.id}
    refused = choice_of(only, **broken)
    assert refused.branches == ()
    assert bounds(refused) == {only.id: bound}


def test_all_broken_bounds_are_named_and_the_first_counts() -> None:
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
    assert "p95 19.00 ms of 20 ms; 100 MiB of 500 MiB; at least 200 frames/s were asked for" in branch.reason


def test_memory_that_was_not_measured_keeps_no_bound_of_memory() -> None:
    unknown = row(p50=1, memory_mb=None)
    role = choice_of(unknown, vram_mb=1e6)
    assert (role.branches, role.nearest_miss) == ((), None)
    assert role.rejected[0].reason == "memory was not measured; run bench_tests whole"
    assert chosen(choice_of(unknown)) == {"large": unknown.id}
    assert "memory was not measured" in choice_of(unknown).branches[0].reason


# --- who wins within a branch ---


def test_the_least_cost_for_an_item_wins_not_the_least_latency() -> None:
    quick, cheap = row(batch=1, p50=5), row(batch=8, p50=16)
    role = choice_of(quick, cheap)
    assert chosen(role) == {"large": cheap.id}
    assert role.rejected[0].reason == "5 ms a frame, 150% more than the 2 ms a frame of torch in fp16 at batch 8"
    assert "next best is torch in fp16 at batch 1 with 5 ms a frame (+150%)" in role.branches[0].reason


@pytest.mark.parametrize(("p50", "wins"), [(10.3, True), (10.31, False)])
def test_of_rows_within_three_percent_the_one_with_less_memory_wins(p50: float, wins: bool) -> None:
    fast, lean = row(p50=10, memory_mb=500), row(runtime="torch-graph", p50=p50, memory_mb=400)
    role = choice_of(fast, lean)
    assert chosen(role) == {"large": lean.id if wins else fast.id}
    assert ("which needs less memory" in role.rejected[0].reason) is wins
    assert ("a tie with torch in fp16 at batch 1 (10 ms a frame), and needs less" in role.branches[0].reason) is wins


def test_of_rows_that_tie_in_memory_too_the_smaller_batch_wins() -> None:
    many, few = row(batch=8, p50=80), row(batch=4, p50=41)
    role = choice_of(many, few)
    assert chosen(role) == {"large": few.id}
    assert role.rejected[0].reason.endswith("which waits for fewer items")


def test_less_memory_comes_before_the_smaller_batch() -> None:
    few, lean = row(batch=4, p50=40, memory_mb=400), row(batch=8, p50=80, memory_mb=399)
    assert chosen(choice_of(few, lean)) == chosen(choice_of(lean, few)) == {"large": lean.id}


def test_of_rows_that_tie_in_everything_the_cheaper_wins_and_nothing_else_is_claimed() -> None:
    eager, graph = row(p50=10.1, memory_mb=None), row(runtime="torch-graph", p50=10, memory_mb=None)
    role = choice_of(eager, graph)
    assert chosen(role) == {"large": graph.id}
    assert role.rejected[0].reason.endswith("which costs no more")


def test_memory_that_is_not_known_loses_a_tie() -> None:
    unknown, known = row(p50=10, memory_mb=None), row(runtime="torch-graph", p50=10.2, memory_mb=5000)
    role = choice_of(unknown, known)
    assert chosen(role) == {"large": known.id}
    assert role.rejected[0].reason.endswith("which is known to need less memory")


# --- rows that never win ---


@pytest.mark.parametrize("status", ["unstable", "oom", "error"])
def test_a_row_that_failed_or_cannot_be_trusted_never_wins(status: str) -> None:
    fast = row(p50=0.1, runtime="torch-graph", status=status, notes=("the clock moved",))
    slow = row(p50=50)
    role = choice_of(fast, slow)
    assert chosen(role) == {"large": slow.id}
    assert bounds(role) == {fast.id: "status"}
    assert role.rejected[0].reason == f"{status}: the clock moved"
    assert fast.id not in {candidate.case_id for candidate in role.pareto_front}
    assert [one.runtime for one in role.saturation] == ["torch"]


@pytest.mark.parametrize("p50", [0.0, -1.0, 5e-324, 1e-305, 1e300])
def test_a_latency_that_nothing_takes_never_wins(p50: float) -> None:
    broken = row(runtime="torch-graph", latency_ms=latency(p50))
    missing = row(runtime="torch-compile", latency_ms=None)
    role = choice_of(broken, missing, row())
    assert chosen(role) == {"large": row().id}
    assert bounds(role) == {broken.id: "latency", missing.id: "latency"}
    assert choice_of(row(latency_ms=latency(10, p95=-1))).branches == ()


def test_synthetic_weights_lose_to_real_ones_of_the_role_whatever_they_cost() -> None:
    synthetic, real = row("depth_512", p50=1, size=512, synthetic=True), row(p50=50, size=256)
    role = choice_of(synthetic, real)
    assert chosen(role) == {"large": real.id}
    assert bounds(role) == {synthetic.id: "weights"}
    other_role = row("flow_256", role="flow", synthetic=True)
    choice = choose(run_of(synthetic, real, other_role), {})
    assert [len(one.branches) for one in choice.roles] == [1, 1], "what is real in one role is not asked of another"


def test_synthetic_weights_alone_win_where_only_costs_count() -> None:
    synthetic = row(synthetic=True)
    assert choice_of(synthetic).branches[0].candidate.synthetic_weights
    refused = choice_of(synthetic, real_weights=True)
    assert (refused.branches, bounds(refused)) == ((), {synthetic.id: "weights"})
    assert refused.nearest_miss is None


def test_real_weights_are_those_that_a_row_says_to_be_real() -> None:
    unknown, real = row(synthetic=None), row("depth_384", size=384)
    refused = choice_of(unknown, real, real_weights=True)
    assert bounds(refused) == {unknown.id: "weights"}
    assert [branch.candidate.case_id for branch in refused.branches] == [real.id]
    assert len(choice_of(unknown, real).branches) == 2


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
    assert all(one.reason.endswith(f"and the places are taken ({kept})") for one in role.rejected)


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


def test_a_branch_is_dominated_by_one_that_takes_more_for_less() -> None:
    small, large = row("depth_a", p50=10, size=256), row("depth_b", p50=8, size=384)
    role = choice_of(small, large)
    assert chosen(role) == {"large": large.id}
    assert bounds(role) == {small.id: "dominated"}
    assert role.rejected[0].reason.startswith("depth_b takes an input at least as large for less: 8 ms a frame")


@pytest.mark.parametrize(
    "better_in_something",
    [{"p50": 9.8, "p95": 9.9}, {"p50": 8.0, "p95": 10.3}, {"p50": 8.0, "memory_mb": 401.0}, {"p50": 8.0, "size": 192}],
    ids=["a tie", "p95", "memory", "size"],
)
def test_a_branch_that_is_better_in_something_is_not_dominated(better_in_something: dict[str, Any]) -> None:
    own = row("depth_a", p50=10, p95=10.2)
    other = row("depth_b", **{"size": 384, **better_in_something})
    assert len(choice_of(own, other).branches) == 2
