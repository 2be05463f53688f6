"""What a choice says beside its branches, what of them can be served, and what a role and its budget are."""

from __future__ import annotations

from typing import Any

import pytest

from fixtures.decision import budgets_of_run, choose
from fixtures.errors import InputError
from fixtures.records import Memory
from fixtures.spec.budget import Budget
from meta_tests.runs import MACHINE, choice_of, chosen, ladder, row, run_of

# --- what is said beside it ---


def test_throughput_stops_growing_at_the_smallest_batch_within_three_percent_of_the_best() -> None:
    grown = {1: 10.0, 2: 12.0, 4: 20.0, 8: 39.0, 16: 78.5}
    role = choice_of(*(row(batch=batch, p50=p50) for batch, p50 in grown.items()))
    (one,) = role.saturation
    assert (one.stops_growing_at, one.still_growing) == (4, False)
    assert list(one.throughput_items_per_s) == ["1", "2", "4", "8", "16"]
    assert one.throughput_items_per_s["4"] == 200
    (branch,) = role.branches
    assert (branch.candidate.batch, "throughput stops growing at batch 4" in branch.reason) == (4, True)


def test_throughput_that_still_grows_says_so_and_one_batch_says_nothing() -> None:
    role = choice_of(row(batch=1), row(batch=8, p50=20), row(runtime="torch-graph"))
    by_runtime = {one.runtime: (one.stops_growing_at, one.still_growing) for one in role.saturation}
    assert by_runtime == {"torch": (8, True), "torch-graph": (None, False)}
    assert "still grows at batch 8, the largest measured" in role.branches[0].reason


def test_of_rows_that_differ_in_their_options_alone_the_better_one_counts() -> None:
    rows = [row(batch=2, p50=p50, id=name, knobs={"server": name}) for name, p50 in (("a", 10), ("b", 4), ("c", 8))]
    assert choice_of(*rows).saturation[0].throughput_items_per_s == {"2": 500}


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
)
def test_instances_are_what_memory_holds_beside_one_context(
    total_mb: Any, memory_mb: float | None, instances: int | None
) -> None:
    summary = run_of(row(memory_mb=memory_mb), environment={**MACHINE, "gpu_memory_mb": total_mb})
    (branch,) = choose(summary, {}).roles[0].branches
    assert branch.candidate.figures.instances_per_gpu == instances
    assert (f"holds {instances} instances on this GPU" in branch.reason) is (instances is not None)


def test_frames_that_are_resized_in_the_graph_do_not_change_the_size_of_a_branch() -> None:
    frame = {"height": 720, "width": 1280}
    cases = [row(f"depth_{size}", p50=size / 10, input_bucket=frame, memory_mb=size) for size in (256, 384)]
    sizes = {f"depth_{size}": {"height": size, "width": size, "frame": frame} for size in (256, 384)}
    role = choose(run_of(*cases, run={"variants": sizes}), {}).roles[0]
    assert [branch.candidate.figures.input_size for branch in role.branches] == [256**2, 384**2]
    assert chosen(role) == {"small": cases[0].id, "large": cases[1].id}


def test_figures_follow_from_the_latency_of_the_batch() -> None:
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


# --- serving ---


@pytest.mark.parametrize("runtime", ["onnxruntime", "triton"])
def test_a_row_that_triton_runs_is_served_as_it_is(runtime: str) -> None:
    (branch,) = choice_of(row(p50=1, runtime=runtime), row()).branches
    assert (branch.servable, branch.served, branch.served_reason) == ("same", branch.candidate, None)


def test_a_row_that_triton_does_not_run_is_served_by_the_best_one_that_it_does() -> None:
    best, other = row(runtime="onnxruntime", batch=8, p50=24), row(runtime="onnxruntime", p50=9)
    (branch,) = choice_of(row(p50=1, runtime="torch-compile"), other, best).branches
    assert branch.served is not None
    assert (branch.servable, branch.served.case_id) == ("other_row", best.id)
    assert branch.served_reason is not None
    assert "onnxruntime in fp16 at batch 8 takes 3 ms a frame, 3.0 times the 1 ms a frame" in branch.served_reason


def test_a_graph_around_a_file_is_nothing_that_triton_does() -> None:
    (branch,) = choice_of(row(runtime="onnxruntime-graph")).branches
    assert (branch.servable, branch.served) == ("not_measured", None)
    assert "export the branch, and measure it" in (branch.served_reason or "")


def test_a_served_row_that_breaks_the_budget_is_not_served() -> None:
    (branch,) = choice_of(row(p50=1, runtime="torch-compile"), row(runtime="triton", p50=30), p95_ms=20).branches
    assert (branch.servable, branch.served) == ("over_budget", None)


# --- roles ---


def test_every_role_has_a_budget_of_its_own_and_one_without_has_no_bounds() -> None:
    cases = [*ladder(256, 512), row("flow_256", role="flow", p50=900), row("flow_512", role="flow", p50=990, size=512)]
    choice = choose(run_of(*cases), {"depth": Budget(keep=1)})
    assert [(role.role, len(role.branches), role.budget["keep"]) for role in choice.roles] == [
        ("depth", 1, ["large"]),
        ("flow", 2, ["small", "medium", "large"]),
    ]
    assert (choice.feasible, choice.environment) == (True, MACHINE)


def test_one_role_without_a_branch_makes_the_choice_infeasible() -> None:
    choice = choose(run_of(row(), row("flow_256", role="flow", p50=900)), {"flow": Budget(p95_ms=100)})
    assert (choice.feasible, [len(role.branches) for role in choice.roles]) == (False, [1, 0])


def test_a_budget_of_a_role_that_the_run_has_no_row_of_is_refused() -> None:
    with pytest.raises(InputError, match=r"^roles\.dpeth of night: role=dpeth, expected one of this run: depth\. "):
        choose(run_of(row()), {"dpeth": Budget()}, "night")


def test_a_run_without_latencies_and_one_with_a_case_twice_are_refused() -> None:
    with pytest.raises(InputError, match="run run: cases with latency=0, expected a run of bench_tests"):
        choose(run_of(), {})
    with pytest.raises(InputError, match="run run: depth_256-b1-fp16-torch=2 times, expected each case once"):
        choose(run_of(row(), row()), {})


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
def test_rows_from_before_roles_have_the_one_of_their_identity(component: str | None, role: str) -> None:
    assert choose(run_of(row(role=None, component_id=component)), {}).roles[0].role == role


def test_budgets_are_those_that_the_run_was_measured_with() -> None:
    budgets = {"depth": Budget(p95_ms=5, runtimes=("torch",), keep=("small", "large")), "flow": Budget(keep=2)}
    stored = {role: budget.model_dump(mode="json") for role, budget in budgets.items()}
    summary = run_of(row(), run={"roles": stored})
    assert budgets_of_run(summary) == {"depth": budgets["depth"]}, "only for the roles that it has rows of"
    assert budgets_of_run(run_of(row())) == {}


@pytest.mark.parametrize("roles", [None, 7, [], {"depth": 7}, {"depth": {"p95_ms": -1}}, {"depth": {"keep": 4}}])
def test_budgets_that_are_none_are_refused(roles: object) -> None:
    with pytest.raises(InputError, match="run run: roles: budgets=unreadable, expected those of a spec"):
        budgets_of_run(run_of(row(), run={"roles": roles}))


@pytest.mark.parametrize(("slowdowns", "said"), [((None, None), None), ((1.02, None), None), ((1.2, 1.84), "1.84")])
def test_a_choice_says_what_its_host_may_have_cost(slowdowns: tuple[float | None, ...], said: str | None) -> None:
    rows = (row(batch=batch, host_slowdown=slowdown) for batch, slowdown in enumerate(slowdowns, start=1))
    notes = [note for note in choose(run_of(*rows), {}).notes if "the host was slowed" in note]
    assert len(notes) == (said is not None)
    assert all(f"up to {said} times as long" in note for note in notes)


def test_on_a_cpu_memory_is_the_hosts_and_no_gpu_holds_instances() -> None:
    host = Memory(source="in_process", rss_mb={"before": 300, "steady": 750})
    environment = {**MACHINE, "device": "cpu", "gpu": None, "gpu_memory_mb": None}
    choice = choose(run_of(row(memory=host, device="cpu"), environment=environment, complete=False), {})
    figures = choice.roles[0].branches[0].candidate.figures
    assert (figures.memory_mb, figures.memory_source, figures.instances_per_gpu) == (450, "in_process", None)
    notes = " ".join(choice.notes)
    for said in ("measured on a CPU: memory is the host's", "the run is not complete", "beside other cases"):
        assert said in notes
