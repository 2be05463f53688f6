"""The verdict on a case of two sides: what may be compared, what the interval is made of, and what is said of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from fixtures.comparison import compare
from fixtures.comparison.ratio import ASSUMED_SPREAD, HOST_SPREAD, MIN_DIFFERENCE, ProcessMedian, ratio_of
from fixtures.errors import InputError
from fixtures.records import CaseSummary, ComparedCase, ComparedRuns, Memory, WeightsRecord
from meta_tests.runs import MACHINE, latency, on_gpu, row, stored

STEADY = 0.0005  # between the processes of a side, in the tests of what is said


def sides(folder: Path, before: list[CaseSummary], after: list[CaseSummary], **header: Any) -> ComparedRuns:
    """Each row is what one process found of its case; `header` is of the candidate's runs."""
    for name, cases, said in (("before", before, {}), ("after", after, header)):
        for index, case in enumerate(cases):
            stored(folder / name / str(index), case, **said)
    (pair,) = compare([folder / "before", folder / "after"]).pairs
    return pair


def judged(folder: Path, before: list[CaseSummary], after: list[CaseSummary], **header: Any) -> ComparedCase:
    """The one case of both sides."""
    (case,) = sides(folder, before, after, **header).cases
    return case


def processes(p50: float, count: int = 3, **facts: Any) -> list[CaseSummary]:
    return [row(p50=p50 * (1 + STEADY * (index - 1)), **facts) for index in range(count)]


# --- the ratio ---


@pytest.mark.parametrize(
    ("p50", "verdict", "said"),
    [
        (10.0, "tie", "less than 3% apart"),
        (10.29, "tie", "less than 3% apart"),
        (10.31, "slower", "+3.1%"),
        (9.72, "tie", "less than 3% apart"),
        (9.5, "faster", "-5.0%"),
        (20.0, "slower", "+100.0%"),
    ],
)
def test_a_verdict_needs_three_percent(tmp_path: Path, p50: float, verdict: str, said: str) -> None:
    case = judged(tmp_path, processes(10), processes(p50))
    assert (case.verdict, case.reason, case.assumed, case.processes) == (verdict, said, False, (3, 3))
    assert case.ratio is not None
    assert case.ratio == pytest.approx(p50 / 10, rel=1e-6)
    assert [*case.p50_ms] == pytest.approx([10, p50], rel=1e-6)
    assert case.interval is not None
    assert case.interval[0] < case.ratio < case.interval[1]


def test_a_verdict_needs_an_interval_without_one(tmp_path: Path) -> None:
    before, after = ([row(p50=p50) for p50 in side] for side in ((10, 11, 12), (11, 12, 13)))
    case = judged(tmp_path, before, after)
    assert (case.verdict, case.reason) == ("tie", "+9.1%, and the interval includes 1")


def test_swapped_sides_give_the_inverse(tmp_path: Path) -> None:
    there = judged(tmp_path / "there", processes(10), processes(13))
    back = judged(tmp_path / "back", processes(13), processes(10))
    assert (there.verdict, back.verdict) == ("slower", "faster")
    assert (there.ratio or 0) * (back.ratio or 0) == pytest.approx(1)
    assert (there.interval or (0, 0))[0] * (back.interval or (0, 0))[1] == pytest.approx(1)


def test_the_interval_of_several_processes_is_students() -> None:
    """Two samples with a pooled variance, by hand: t of 4 degrees of freedom is 2.776."""
    before, after = ([ProcessMedian(p50, 0.0) for p50 in side] for side in ((10.0, 10.1, 10.2), (11.0, 11.0, 11.3)))
    logs = [[math.log(process.p50_ms) for process in side] for side in (before, after)]
    means = [sum(side) / 3 for side in logs]
    squares = sum((value - mean) ** 2 for side, mean in zip(logs, means, strict=True) for value in side)
    margin = 2.7764451 * math.sqrt(squares / 4 * 2 / 3)
    ratio = ratio_of(before, after)
    assert math.log(ratio.value) == pytest.approx(means[1] - means[0])
    assert math.log(ratio.high / ratio.value) == pytest.approx(margin)
    assert not ratio.assumed


def test_fewer_than_three_processes_assume_a_spread_or_take_a_larger_one_that_they_saw() -> None:
    steady, other = [ProcessMedian(10.0, 0.0)], [ProcessMedian(10.0, 0.0), ProcessMedian(11.0, 0.0)]
    assumed = ratio_of(steady, steady)
    assert assumed.assumed
    assert math.log(assumed.high) == pytest.approx(1.959964 * ASSUMED_SPREAD * math.sqrt(2))
    noisy = ratio_of([ProcessMedian(10.0, 0.05)], steady)
    assert math.log(noisy.high) == pytest.approx(1.959964 * math.hypot(0.05, ASSUMED_SPREAD * math.sqrt(2)))
    seen = ratio_of(other, other)
    assert not seen.assumed
    assert math.log(seen.high) == pytest.approx(4.302653 * math.log(1.1) / math.sqrt(2), rel=1e-5)  # t, 2 degrees
    assert not ratio_of(other * 3, steady).assumed
    assert ratio_of(steady * 6, steady).assumed, "six times the same is no spread"


def test_the_error_of_a_median_follows_from_its_rounds_and_outliers_do_not_move_it() -> None:
    few, many = (ProcessMedian.of(latency(10, p95=1e6, p90=10.2), rounds) for rounds in (100, 400))
    assert few.relative_error == pytest.approx(1.2533 * 0.02 / 1.28155 / 10, rel=1e-4)
    assert many.relative_error == pytest.approx(few.relative_error / 2)
    assert ProcessMedian.of(latency(10, p90=9.0), -3).relative_error == 0


def test_two_processes_that_saw_a_spread_are_not_believed_more_than_two() -> None:
    """A normal quantile would call 1 of 12 pairs different that are equal."""
    before = [ProcessMedian(10.0, 0.0), ProcessMedian(10.2, 0.0)]
    after = [ProcessMedian(10.7, 0.0), ProcessMedian(10.5, 0.0)]
    assert ratio_of(before, after).verdict == "tie"


def test_the_smallest_difference_that_matters_is_the_one_of_the_design() -> None:
    assert MIN_DIFFERENCE == 0.03


# --- what may be compared ---


@pytest.mark.parametrize("key", ["device", "gpu", "driver"])
def test_another_machine_is_not_comparable(tmp_path: Path, key: str) -> None:
    case = judged(tmp_path, processes(10), processes(20), environment={**MACHINE, key: "other"})
    assert (case.verdict, case.ratio) == ("not_comparable", None)
    assert case.reason == f"another {key}: {MACHINE[key]}, then other"
    assert case.p50_ms[0] == pytest.approx(10, rel=1e-6), "the figures are shown all the same"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_another_processor_matters_on_a_cpu(tmp_path: Path, device: str) -> None:
    machine = {**MACHINE, "device": device}
    stored(tmp_path / "a", row(), environment=machine)
    stored(tmp_path / "b", row(), environment={**machine, "cpu": "other", "torch_threads": 2})
    (pair,) = compare([tmp_path / "a", tmp_path / "b"]).pairs
    on_cpu = device == "cpu"
    assert pair.cases[0].verdict == ("not_comparable" if on_cpu else "tie")
    assert "cpu: a host's, then other" in pair.notes
    assert ("torch_threads: None, then 2" in pair.notes) is on_cpu


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"dtype_used": "tf32"}, "another precision class: fp16, then tf32"),
        ({"dtype_used": None, "dtype_requested": "fp32"}, "another precision class: fp16, then fp32"),
        ({"batch": 8}, "another batch: 1, then 8"),
        ({"size": 384}, "another input size: height 256, width 256, then height 384, width 384"),
        (
            {"weights": WeightsRecord(sha256="1" * 64, synthetic=False)},
            "another weights (sha256): 000000000000, then 111111111111",
        ),
    ],
    ids=lambda value: str(value)[:30],
)
@pytest.mark.parametrize("which", [0, 2])
def test_another_subject_is_not_comparable_in_whichever_process(
    tmp_path: Path, facts: dict[str, Any], said: str, which: int
) -> None:
    after = [row(p50=20, id="c", **(facts if index >= which else {})) for index in range(3)]
    case = judged(tmp_path, processes(10, id="c"), after)
    then, now = said.split(": ")[1].split(", then ")
    both = said.replace(f", then {now}", f", then {then} and {now}")
    assert (case.verdict, case.reason) == ("not_comparable", said if which == 0 else both)


def test_what_a_row_does_not_know_it_does_not_contradict(tmp_path: Path) -> None:
    unknown: dict[str, Any] = {"dtype_used": None, "input_bucket": {}, "synthetic": None, "id": row().id}
    assert judged(tmp_path, processes(10), processes(20, **unknown)).verdict == "slower"


def test_another_library_is_what_one_compares_and_is_noted(tmp_path: Path) -> None:
    pair = sides(tmp_path, processes(10), processes(9), environment={**MACHINE, "torch": "2.12.0"})
    assert pair.cases[0].verdict == "faster"
    assert pair.notes == ("torch: 2.11.0, then 2.12.0",)


def test_other_frames_and_another_protocol_are_noted(tmp_path: Path) -> None:
    run = {"content_digests": ["1"], "protocol": {"rounds_s": 1}}
    notes = sides(tmp_path, processes(10), processes(9), run=run).notes
    assert notes == ("frames, sounds or prompts differ", "the measuring protocol differ")


def test_machines_that_nobody_names_are_noted(tmp_path: Path) -> None:
    paths = [stored(tmp_path / name, row(), environment={}) for name in "ab"]
    (pair,) = compare(paths).pairs
    assert (pair.cases[0].verdict, pair.notes) == ("tie", ("neither side says which machine it ran on",))


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
def test_a_case_without_a_time(tmp_path: Path, before: str, after: str, verdict: str, said: str) -> None:
    rows = [[row(status=status, error=None if status == "ok" else "why")] for status in (before, after)]
    case = judged(tmp_path, *rows)
    assert (case.verdict, case.reason, case.ratio) == (verdict, said, None)


@pytest.mark.parametrize("figures", [None, latency(0), latency(-1), latency(5e-324), latency(1, p90=1e308)])
def test_a_time_that_is_none_is_no_time(tmp_path: Path, figures: Any) -> None:
    case = judged(tmp_path, [row()], [row(latency_ms=figures)])
    assert (case.verdict, case.reason) == ("not_comparable", "no time in the candidate")


@pytest.mark.parametrize("status", ["oom", "error"])
def test_a_candidate_that_fails_now_and_then_has_failed(tmp_path: Path, status: str) -> None:
    after = [*processes(5, 4), row(status=status, error="why")]
    case = judged(tmp_path / "sound", processes(10), after)
    assert (case.verdict, case.processes) == ("failed", (3, 4))
    assert case.reason == f"{status} (why) in 1 of 5 processes of the candidate; -50.0%"
    both = judged(tmp_path / "both", [*processes(10), row(status="error")], after)
    assert both.verdict == "faster", "the baseline did so, too"


def test_unstable_processes_are_left_out_and_counted(tmp_path: Path) -> None:
    pair = sides(tmp_path, processes(10), [*processes(10), row(p50=99, status="unstable")])
    assert (pair.cases[0].verdict, pair.cases[0].processes) == ("tie", (3, 3))
    assert pair.notes == ("1 unstable rows of the candidate are left out",)


# --- what is said beside ---


def test_of_a_tie_the_smaller_memory_is_named(tmp_path: Path) -> None:
    case = judged(tmp_path, processes(10), processes(10, memory=on_gpu(300)))
    assert (case.verdict, case.memory_mb) == ("tie", (400, 300))
    assert case.reason.endswith("the candidate needs less memory")


def test_a_memory_that_is_no_number_is_not_known(tmp_path: Path) -> None:
    broken = Memory(source="fresh_process", gpu_used_mb={"context": -1e308, "steady": 1e308})
    assert judged(tmp_path, processes(10), processes(10, memory=broken)).memory_mb == (400, None)


def test_one_process_a_side_says_where_its_assumption_is_weak(tmp_path: Path) -> None:
    launch_bound = judged(tmp_path / "a", [row(launch_bound=True)], [row(p50=20)])
    assert (launch_bound.assumed, launch_bound.processes) == (True, (1, 1))
    assert launch_bound.reason == "+100.0%; launch-bound, so it moves with the host"
    paths = [stored(tmp_path / name, row(), environment={**MACHINE, "device": "cpu"}) for name in "bc"]
    assert "on a CPU, where processes differ by more" in compare(paths).pairs[0].cases[0].reason


@pytest.mark.parametrize(("spread", "assumed"), [(0.09, ASSUMED_SPREAD), (0.11, 0.11), (0.5, 0.5)])
def test_processes_with_noisy_rounds_are_assumed_to_differ_as_these_do(
    tmp_path: Path, spread: float, assumed: float
) -> None:
    noisy = row(launch_bound=True, p90=10 * (1 + 1.28155 * spread), rounds=10**9)
    case = judged(tmp_path, [noisy], [noisy])
    assert case.interval is not None
    assert math.log(case.interval[1]) == pytest.approx(1.959964 * assumed * math.sqrt(2), rel=1e-3)
    said = f"moves with the host, by {spread:.0%} or so"
    assert (said in case.reason) is (assumed == spread)


@pytest.mark.parametrize(
    ("slowdowns", "spreads", "factors"),
    [
        ((None, None), (ASSUMED_SPREAD, ASSUMED_SPREAD), (1, 1)),
        ((1.0, None), (HOST_SPREAD, ASSUMED_SPREAD), (1, 1)),
        ((1.1, 1.2), (HOST_SPREAD, HOST_SPREAD), (1.21, 1.44)),
        ((None, 1.7), (ASSUMED_SPREAD, HOST_SPREAD), (1, 2.89)),
        ((0.0, -1e308), (ASSUMED_SPREAD, ASSUMED_SPREAD), (1, 1)),
        ((1e308, math.nan), (ASSUMED_SPREAD, ASSUMED_SPREAD), (1, 1)),
    ],
    ids=str,
)
def test_the_interval_reaches_as_far_as_a_side_may_be_shorter_on_a_host_at_its_best(
    tmp_path: Path, slowdowns: tuple[float | None, float | None], spreads: tuple[float, float], factors: tuple[int, int]
) -> None:
    before, after = (
        row(p50=10).model_copy(update={"host_slowdown": slowdown, "latency_ms": latency(10, p90=10), "rounds": 10**9})
        for slowdown in slowdowns
    )
    case = judged(tmp_path, [before], [after])
    margin = math.exp(1.959964 * math.hypot(*spreads))
    assert case.interval == pytest.approx((1 / margin / factors[1], margin * factors[0]), rel=1e-4)
    assert ("moves with the host" in case.reason) is (max(spreads) > ASSUMED_SPREAD)


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ((10, 1.1), (17, 1.8), "tie"),
        ((10, 1.1), (14, 1.1), "slower"),
        ((10, 1.0), (45, 1.8), "slower"),  # no host does that
        ((10, 1.3), (13, 1.0), "slower"),  # and it would be more, had both been quiet
        ((13, 1.0), (10, 1.3), "faster"),
        ((17, 1.8), (10, 1.0), "tie"),
        ((10, 1.0), (10.5, 1.0), "tie"),
    ],
    ids=str,
)
def test_a_host_makes_rows_longer_and_never_shorter(
    tmp_path: Path, before: tuple[float, float], after: tuple[float, float], verdict: str
) -> None:
    case = judged(tmp_path, *([row(p50=p50, host_slowdown=slowdown)] for p50, slowdown in (before, after)))
    assert (case.verdict, case.assumed) == (verdict, True)


def test_a_row_that_its_host_may_explain_says_so(tmp_path: Path) -> None:
    case = judged(tmp_path, [row(p50=10, host_slowdown=1.1)], [row(p50=17, host_slowdown=1.8)])
    assert case.reason == (
        "+70.0%, and the interval includes 1; moves with the host, which may have made it 3.2 times as long"
    )


def test_few_processes_that_show_a_spread_are_slowed_all_the_same(tmp_path: Path) -> None:
    before = [row(p50=p50, host_slowdown=1.0) for p50 in (9.6, 10.4)]
    quiet, slowed = (
        judged(tmp_path / str(slowdown), before, [row(p50=10, host_slowdown=slowdown)] * 2) for slowdown in (1.0, 1.5)
    )
    assert quiet.interval is not None
    assert slowed.interval == pytest.approx((quiet.interval[0] / 1.5**2, quiet.interval[1]))
    assert not slowed.assumed


def test_several_processes_show_how_far_they_are_apart_whatever_their_rounds_do(tmp_path: Path) -> None:
    before, after = (row(launch_bound=True, p50=p50, p90=15) for p50 in (10, 10.5))
    case = judged(tmp_path, [before] * 3, [after] * 3)
    assert (case.verdict, case.assumed, case.reason) == ("slower", False, "+5.0%")


# --- sides ---


def test_cases_of_one_side_alone_are_named_and_the_order_is_the_baselines(tmp_path: Path) -> None:
    paths = [
        stored(tmp_path / "a", row("v3"), row("v1"), row("v2")),
        stored(tmp_path / "b", row("v4"), row("v1"), row("v3"), complete=False),
    ]
    (pair,) = compare(paths).pairs
    assert [case.id[:2] for case in pair.cases] == ["v3", "v1"]
    assert (pair.only_in_baseline, pair.only_in_candidate) == ((row("v2").id,), (row("v4").id,))
    assert (pair.baseline.complete, pair.candidate.complete) == (True, False)
    assert "the candidate is not complete, or made from rows alone" in pair.notes


def test_several_candidates_each_stand_beside_the_baseline(tmp_path: Path) -> None:
    paths = [stored(tmp_path / str(p50), row(p50=p50)) for p50 in (10, 20, 5)]
    comparison = compare(paths)
    assert [pair.cases[0].verdict for pair in comparison.pairs] == ["slower", "faster"]
    assert {pair.baseline.path for pair in comparison.pairs} == {str(paths[0])}
    assert [pair.candidate.run_ids for pair in comparison.pairs] == [("20",), ("5",)]


def test_runs_of_one_side_must_be_repeats_of_one_another(tmp_path: Path) -> None:
    stored(tmp_path / "a" / "1", row())
    stored(tmp_path / "a" / "2", row(), environment={**MACHINE, "torch": "2.12.0"})
    with pytest.raises(
        InputError, match=r"a: torch=2\.12\.0 in run 2, expected 2\.11\.0, as in run 1\. Compare them as"
    ):
        compare([tmp_path / "a", tmp_path / "a"])


def test_a_case_that_stands_in_a_run_twice_is_no_second_process(tmp_path: Path) -> None:
    path = stored(tmp_path / "a", row(), row())
    with pytest.raises(InputError, match=r"a: run a: depth_256-b1-fp16-torch=2 times, expected each case once\."):
        compare([path, path])


def test_one_run_alone_and_a_folder_without_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="runs=1, expected a baseline and at least one other"):
        compare([stored(tmp_path / "a", row())])
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    with pytest.raises(InputError, match=r"empty: runs=0, expected the folder of a run, or one of repeated runs\."):
        compare([tmp_path / "empty", tmp_path / "empty"])
