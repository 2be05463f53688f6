"""Sides of a comparison, made from rows without files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fixtures.comparison.compare import compare_sides
from fixtures.comparison.sides import Side
from fixtures.records import CaseSummary, ComparedCase, ComparedRuns
from meta_tests.runs import row, run_of


def side(*processes: CaseSummary, **header: Any) -> Side:
    """Each row is what one process measured; `header` is of every run."""
    return Side(Path("side"), tuple(run_of(case, **header) for case in processes))


def pair_of(before: list[CaseSummary], after: list[CaseSummary], **header: Any) -> ComparedRuns:
    """Both sides compared; `header` is of the candidate's runs."""
    return compare_sides(side(*before), side(*after, **header))


def compared(before: list[CaseSummary], after: list[CaseSummary], **header: Any) -> ComparedCase:
    """The one case of both sides."""
    (case,) = pair_of(before, after, **header).cases
    return case


def processes(p50: float, count: int = 3, **facts: Any) -> list[CaseSummary]:
    """Processes that agree to a thousandth."""
    return [row(p50=p50 * (1 + 0.0005 * (index - 1)), **facts) for index in range(count)]
