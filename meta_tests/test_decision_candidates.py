"""The candidates of a run: their figures, rows that never win, the Pareto front, and throughput by batch."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings

from fixtures.decision import choose
from fixtures.decision.candidates import pareto_front
from fixtures.records import Candidate, CaseSummary, Memory
from meta_tests.decision_runs import candidates_of, runs
from meta_tests.runs import MACHINE, bounds, choice_of, chosen, latency, row, run_of

# --- figures ---


def test_cost_and_throughput_follow_from_latency_of_batch() -> None:
    (branch,) = choice_of(row(batch=8, p50=16, p95=17, knobs={"dtype": "fp16", "channels_last": True})).branches
    figures = branch.candidate.figures
    assert (figures.p50_ms, figures.p95_ms, figures.cost_ms_per_item, figures.throughput_items_per_s) == (
        16,
        17,
        2,
        500,
    )
    assert (figures.memory_mb, figures.memory_source, figures.input_size) == (400, "fresh_process", 256**2)
    assert (branch.candidate.options, branch.candidate.dtype_used) == ({"channels_last": True}, "fp16")


def test_size_of_a_branch_is_its_own_where_the_graph_resizes_frames() -> None:
    frame = {"height": 720, "width": 1280}
    cases = [row(f"depth_{size}", p50=size / 10, input_bucket=frame, memory_mb=size) for size in (256, 384)]
    sizes = {f"depth_{size}": {"height": size, "width": size, "frame": frame} for size in (256, 384)}
    role = choose(run_of(*cases, run={"variants": sizes}), {}).roles[0]
    assert [branch.candidate.figures.input_size for branch in role.branches] == [256**2, 384**2]
    assert chosen(role) == {"small": cases[0].id, "large": cases[1].id}


@pytest.mark.parametrize(
    ("total_mb", "memory_mb", "instances"),
    [
        (10_000, 1000.0, 9),  # 95% of 10,000, less a context of 500
        (10_000, 1001.0, 8),
        (10_000, 9000.1, 0),
        (400, 100.0, 0),  # less than the context
        (10_000, 0.0, None),
        (10_000, -5.0, None),
        (10_000, None, None),
        (None, 1000.0, None),
        ("much", 1000.0, None),
        (float("nan"), 1000.0, None),
        (10**400, 1000.0, None),
    ],
    ids=lambda value: str(value)[:10],
)
def test_instances_fit_into_95_percent_of_memory_beside_one_context(
    total_mb: Any, memory_mb: float | None, instances: int | None
) -> None:
    summary = run_of(row(memory_mb=memory_mb), environment={**MACHINE, "gpu_memory_mb": total_mb})
    (branch,) = choose(summary, {}).roles[0].branches
    assert branch.candidate.figures.instances_per_gpu == instances
    assert (f"this GPU's memory holds {instances} instances" in branch.reason) is (instances is not None)


def test_memory_on_a_cpu_is_the_hosts_and_holds_no_instances() -> None:
    host = Memory(source="in_process", rss_mb={"before": 300, "steady": 750})
    environment = {**MACHINE, "device": "cpu", "gpu": None, "gpu_memory_mb": None}
    choice = choose(run_of(row(memory=host, device="cpu"), environment=environment, complete=False), {})
    figures = choice.roles[0].branches[0].candidate.figures
    assert (figures.memory_mb, figures.memory_source, figures.instances_per_gpu) == (450, "in_process", None)
    notes = " ".join(choice.notes)
    for said in ("measured on a CPU: memory is the host's", "the run is not complete", "beside other cases"):
        assert said in notes


@pytest.mark.parametrize(
    ("component", "role"),
    [
        ("visual.core_depth_midas", "depth"),
        ("visual.core_optical_flow_raft", "flow"),
        ("text.core_embedding_clip", "clip_text"),
        ("audio.mine", "audio.mine"),
        (None, "depth_256"),
    ],
)
def test_role_of_a_row_that_names_none_follows_from_its_component(component: str | None, role: str) -> None:
    assert choose(run_of(row(role=None, component_id=component)), {}).roles[0].role == role


# --- rows that never win ---


@pytest.mark.parametrize("status", ["unstable", "oom", "error"])
def test_row_that_failed_or_is_unstable_never_wins(status: str) -> None:
    fast = row(p50=0.1, runtime="torch-graph", status=status, notes=("the clock moved",))
    slow = row(p50=50)
    role = choice_of(fast, slow)
    assert chosen(role) == {"large": slow.id}
    assert bounds(role) == {fast.id: "status"}
    assert role.rejected[0].reason == f"{status}: the clock moved"
    assert fast.id not in {candidate.case_id for candidate in role.pareto_front}
    assert [one.runtime for one in role.saturation] == ["torch"]


@pytest.mark.parametrize("p50", [0.0, -1.0, 5e-324, 1e-305, 1e300])
def test_row_with_impossible_latency_never_wins(p50: float) -> None:
    broken = row(runtime="torch-graph", latency_ms=latency(p50))
    missing = row(runtime="torch-compile", latency_ms=None)
    role = choice_of(broken, missing, row())
    assert chosen(role) == {"large": row().id}
    assert bounds(role) == {broken.id: "latency", missing.id: "latency"}
    assert choice_of(row(latency_ms=latency(10, p95=-1))).branches == ()


def test_row_with_synthetic_weights_loses_to_real_ones_of_its_role() -> None:
    synthetic, real = row("depth_512", p50=1, size=512, synthetic=True), row(p50=50, size=256)
    role = choice_of(synthetic, real)
    assert chosen(role) == {"large": real.id}
    assert bounds(role) == {synthetic.id: "weights"}
    other_role = row("flow_256", role="flow", synthetic=True)
    choice = choose(run_of(synthetic, real, other_role), {})
    assert [len(one.branches) for one in choice.roles] == [1, 1], "what is real in one role is not asked of another"


def test_rows_with_synthetic_weights_win_among_themselves_unless_real_weights_are_asked_for() -> None:
    synthetic = row(synthetic=True)
    assert choice_of(synthetic).branches[0].candidate.synthetic_weights
    refused = choice_of(synthetic, real_weights=True)
    assert (refused.branches, bounds(refused)) == ((), {synthetic.id: "weights"})
    assert refused.nearest_miss is None


def test_unknown_weights_are_not_real_weights() -> None:
    unknown, real = row(synthetic=None), row("depth_384", size=384)
    refused = choice_of(unknown, real, real_weights=True)
    assert bounds(refused) == {unknown.id: "weights"}
    assert [branch.candidate.case_id for branch in refused.branches] == [real.id]
    assert len(choice_of(unknown, real).branches) == 2


# --- the Pareto front ---


def costs(candidate: Candidate) -> tuple[float, float, float, float]:
    figures = candidate.figures
    memory = math.inf if figures.memory_mb is None else figures.memory_mb
    return figures.p50_ms, -figures.throughput_items_per_s, memory, -figures.input_size


@settings(max_examples=80, deadline=None)
@given(cases=runs())
def test_pareto_front_equals_brute_force(cases: list[CaseSummary]) -> None:
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


# --- throughput by batch ---


def test_throughput_stops_growing_at_the_smallest_batch_within_three_percent_of_the_best() -> None:
    grown = {1: 10.0, 2: 12.0, 4: 20.0, 8: 39.0, 16: 78.5}
    role = choice_of(*(row(batch=batch, p50=p50) for batch, p50 in grown.items()))
    (one,) = role.saturation
    assert (one.stops_growing_at, one.still_growing) == (4, False)
    assert list(one.throughput_items_per_s) == ["1", "2", "4", "8", "16"]
    assert one.throughput_items_per_s["4"] == 200
    (branch,) = role.branches
    assert (branch.candidate.batch, "Throughput stops growing at batch 4" in branch.reason) == (4, True)


def test_throughput_that_grows_up_to_the_largest_batch_is_called_growing() -> None:
    role = choice_of(row(batch=1), row(batch=8, p50=20), row(runtime="torch-graph"))
    by_runtime = {one.runtime: (one.stops_growing_at, one.still_growing) for one in role.saturation}
    assert by_runtime == {"torch": (8, True), "torch-graph": (None, False)}
    assert "still grows at batch 8, the largest measured" in role.branches[0].reason


def test_of_rows_that_differ_in_options_alone_the_best_throughput_counts() -> None:
    rows = [row(batch=2, p50=p50, id=name, knobs={"server": name}) for name, p50 in (("a", 10), ("b", 4), ("c", 8))]
    assert choice_of(*rows).saturation[0].throughput_items_per_s == {"2": 500}
