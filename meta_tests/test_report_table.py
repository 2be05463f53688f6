"""Cells of a table, numbers as they are written, and how series are drawn."""

from __future__ import annotations

from typing import Any

import pytest

from fixtures.report.number_format import duration, extent, figure
from fixtures.report.series import Series, Style
from fixtures.report.table import WHOLE, Cell, Column
from fixtures.results.summary import summarize_case
from meta_tests.result_rows import case


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        (Column("a.b", "x"), Cell("text", "text")),
        (Column("a.b", "x", link="id"), Cell("text", "text", "case")),
        (Column("a.c.1", "x", digits=2), Cell("2.0", 2.0)),
        (Column("a.c.1", "x", digits=WHOLE), Cell("2", 2.0)),
        (Column("none.b.c", "x", digits=3), Cell("–", None)),
        (Column("a.missing", "x"), Cell("–", None)),
        (Column("infinite", "x", digits=3), Cell("–", None)),
        (Column("yes", "x"), Cell("yes", "yes")),
        (Column(lambda row: [row["id"], 7], "x"), Cell("case; 7", "case; 7")),
        (Column(lambda _: [], "x"), Cell("–", None)),
        (Column(lambda _: Cell("(8)", 8), "x", digits=WHOLE), Cell("(8)", 8)),
    ],
)
def test_cell_shows_the_field_of_its_row(column: Column, cell: Cell) -> None:
    row: dict[str, Any] = {"a": {"b": "text", "c": (1, 2.0)}, "none": None, "infinite": float("inf"), "yes": True}
    assert column.cell({**row, "id": "case"}) == cell


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (0, "0"),
        (2.0835, "2.08"),
        (9.999, "10.0"),
        (0.0123456, "0.0123"),
        (27115.4, "27,115"),
        (-3.53, "-3.53"),
        (6.1e-5, "6.10e-05"),
        (1e12, "1.00e+12"),
    ],
)
def test_number_has_three_significant_digits(value: float, says: str) -> None:
    assert figure(value) == says


def test_duration_has_the_unit_that_suits_it() -> None:
    assert (duration(2.0835), duration(17400)) == ("2.08 ms", "17.4 s")


def test_extent_names_the_smallest_and_the_largest() -> None:
    assert extent({"a": 2, "b": 1, "c": 3}, str) == "from 1 (b) to 3 (c)"
    assert extent({"a": 2, "b": 2}, str) == "2 (a)"


def test_runtime_is_drawn_the_same_in_every_report() -> None:
    def styles(*runtimes: str) -> dict[str, Style]:
        series = Series([summarize_case(case(runtime=runtime, id=runtime)) for runtime in runtimes])
        return {runtime: series.styles[runtime] for runtime in runtimes}

    many, few = styles("triton", "onnxruntime", "torch", "new"), styles("onnxruntime")
    assert many["onnxruntime"] == few["onnxruntime"]
    # Beyond eight runtimes colours and symbols repeat, never both at once.
    assert len({(style.colour, style.symbol) for style in many.values()}) == 4
    assert len({Style.numbered(index) for index in range(24)}) == 24


def test_runtime_with_two_dtypes_is_two_series() -> None:
    cases = [summarize_case(case(dtype_used=dtype, id=dtype)) for dtype in ("fp16", "fp32")]
    series = Series(cases)
    assert [series.label(one) for one in cases] == ["torch fp16", "torch fp32"]
    assert series.styles["torch fp16"] != series.styles["torch fp32"]
