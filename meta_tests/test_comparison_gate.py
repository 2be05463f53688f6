"""The gate `--fail-slower` as a function: what each case of a comparison is judged as."""

from __future__ import annotations

from typing import Any

import pytest

from fixtures.comparison.gate import judge
from fixtures.comparison.ratio import Ratio
from fixtures.errors import InputError
from fixtures.records import ComparedCase, ComparedRuns, ComparedSide


def case(ratio: float, low: float, high: float, **facts: Any) -> ComparedCase:
    """A compared case with the verdict that its interval shows."""
    known: dict[str, Any] = {
        "id": "v",
        "p50_ms": (10, 10 * ratio),
        "ratio": ratio,
        "interval": (low, high),
        "spread": 0.01,
        "verdict": Ratio(ratio, low, high, spread=0.01, assumed=False).verdict,
        "processes": (3, 3),
        "reason": "why",
    }
    return ComparedCase(**{**known, **facts})


def pair(*cases: ComparedCase, complete: bool = True, missing: tuple[str, ...] = ()) -> ComparedRuns:
    sides = [ComparedSide(path=path, run_ids=("r",), complete=complete, environment={}) for path in ("a", "b")]
    return ComparedRuns(baseline=sides[0], candidate=sides[1], cases=cases, only_in_baseline=missing)


@pytest.mark.parametrize(
    ("ratio", "low", "high", "verdict", "outcome", "said"),
    [
        (1.0, 0.98, 1.02, "same", "passed", ""),
        (0.9, 0.85, 0.95, "faster", "passed", ""),
        (1.0, 0.96, 1.04, "inconclusive", "passed", "inconclusive, but the interval, 0.960 to 1.040, excludes"),
        (1.04, 1.031, 1.049, "slower", "passed", "slower, but the interval, 1.031 to 1.049, excludes a slowdown of 5%"),
        (1.0, 0.95, 1.05, "inconclusive", "inconclusive", "allows a slowdown of 5%; about 3 processes a side would"),
        (1.04, 1.02, 1.06, "slower", "inconclusive", "the interval, 1.020 to 1.060, allows a slowdown of 5%; about"),
        (0.9, 0.7, 1.2, "inconclusive", "inconclusive", "inconclusive: the interval, 0.700 to 1.200, allows"),
        (1.5, 0.9, 2.4, "inconclusive", "inconclusive", "inconclusive: the interval, 0.900 to 2.400, allows"),
        (1.05, 1.04, 1.06, "slower", "slower", "slower by 5.0% (interval 1.040 to 1.060); the limit is 5%"),
        (1.5, 1.4, 1.6, "slower", "slower", "slower by 50.0% (interval 1.400 to 1.600); the limit is 5%"),
    ],
)
def test_case_passes_only_if_its_interval_excludes_the_slowdown(
    ratio: float, low: float, high: float, verdict: str, outcome: str, said: str
) -> None:
    compared = case(ratio, low, high)
    (judgment,) = judge(pair(compared), 0.05)
    assert compared.verdict == verdict
    assert (judgment.case_id, judgment.outcome) == ("v", outcome)
    assert said in judgment.reason
    assert bool(judgment.reason) is bool(said)


@pytest.mark.parametrize(("limit", "outcome"), [(0.05, "slower"), (0.0501, "inconclusive"), (0.1, "passed")])
def test_ratio_that_equals_the_limit_is_slower_despite_rounding(limit: float, outcome: str) -> None:
    (judgment,) = judge(pair(case(1.05 - 1e-12, 1.04, 1.06)), limit)
    assert judgment.outcome == outcome


def test_failed_case_fails_whatever_its_interval() -> None:
    no_time: dict[str, Any] = {"ratio": None, "interval": None, "spread": None}
    without_time = case(1, 1, 1, verdict="failed").model_copy(update=no_time)
    for failed in (without_time, case(0.5, 0.4, 0.6, verdict="failed")):
        (judgment,) = judge(pair(failed), 0.05)
        assert (judgment.outcome, judgment.reason) == ("failed", "why")


@pytest.mark.parametrize("complete", [True, False])
def test_case_missing_from_a_run_that_was_cut_short_fails(complete: bool) -> None:
    judgments = judge(pair(case(1, 0.99, 1.01), complete=complete, missing=("w",)), 0.05)
    assert [(one.case_id, one.outcome) for one in judgments] == [("v", "passed")] + [("w", "missing")] * (not complete)


def test_cases_that_cannot_be_compared_are_not_judged() -> None:
    cases = (case(1, 0.99, 1.01), case(2, 1.9, 2.1, id="w", verdict="not_comparable"))
    assert [one.case_id for one in judge(pair(*cases), 0.05)] == ["v"]


@pytest.mark.parametrize(
    ("cases", "reason"),
    [
        ((), "no case is in both"),
        ((case(1, 1, 1, verdict="not_comparable", reason="another gpu: a, then b"),) * 2, "another gpu: a, then b"),
    ],
)
def test_gate_that_can_judge_no_case_is_refused(cases: tuple[ComparedCase, ...], reason: str) -> None:
    with pytest.raises(InputError, match=rf"--fail-slower, b: comparable cases=0 \({reason}\), expected runs of the"):
        judge(pair(*cases), 0.05)
