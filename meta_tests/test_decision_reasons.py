"""Reasons and caveats of a choice."""

from __future__ import annotations

import pytest

from fixtures.decision import choose
from meta_tests.runs import choice_of, row, run_of


def test_reason_of_a_branch_is_sentences_with_one_fact_each() -> None:
    winner, other = row(batch=8, p50=16, p95=18), row(p50=5)
    (branch,) = choice_of(winner, other, p95_ms=20, vram_mb=500, batch=None).branches
    assert branch.reason == (
        "depth_256 with torch in fp16 at batch 8 costs 2 ms a frame (p50 16.00 ms a batch, 500 frames/s). "
        "p95 is 18.00 ms of 20 ms. Memory is 400 MiB of 500 MiB. "
        "Next best is torch in fp16 at batch 1 with 5 ms a frame (+150%). "
        "Throughput still grows at batch 8, the largest measured. "
        "It needs 400 MiB: this GPU's memory holds 340 instances."
    )


def test_reason_of_a_lone_row_says_that_no_other_keeps_the_budget() -> None:
    (branch,) = choice_of(row(memory_mb=None), batch=1, min_throughput=50).branches
    assert branch.reason == (
        "depth_256 with torch in fp16 at batch 1 costs 10 ms a frame (p50 10.00 ms a batch, 100 frames/s). "
        "The budget asks for at least 50 frames/s. The budget asks for batch 1. "
        "No other row of this branch keeps the budget. Memory was not measured."
    )


@pytest.mark.parametrize(("slowdowns", "said"), [((None, None), None), ((1.02, None), None), ((1.2, 1.84), "1.84")])
def test_caveat_names_largest_slowdown_of_the_host(slowdowns: tuple[float | None, ...], said: str | None) -> None:
    rows = (row(batch=batch, host_slowdown=slowdown) for batch, slowdown in enumerate(slowdowns, start=1))
    notes = [note for note in choose(run_of(*rows), {}).notes if "the host was slowed" in note]
    assert len(notes) == (said is not None)
    assert all(f"up to {said} times as long" in note for note in notes)
