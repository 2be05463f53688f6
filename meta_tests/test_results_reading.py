"""fixtures/results/reading.py: a run is read from any of its files, and damage in them is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic_core import from_json

from fixtures.errors import InputError
from fixtures.records import MemoryCase, Summary
from fixtures.results.reading import read_run, summarize_content, summarize_file
from fixtures.results.run_folder import plain
from fixtures.results.summary import summarize_case
from meta_tests.any_value import places, values
from meta_tests.result_rows import case, lines


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A results.jsonl of two cases and a line that was cut short."""
    path = tmp_path / "results.jsonl"
    path.write_text("\n".join([*lines(case(), case(batch=8)), '{"bench": "pretriton", "la']) + "\n")
    return path


def test_rows_of_another_bench_are_left_out(rows: Path) -> None:
    with pytest.raises(InputError, match=r"row of another bench \(pretriton\)"):
        summarize_file(rows, bench="served")


def test_one_run_of_several_in_a_file_must_be_named(rows: Path) -> None:
    rows.write_text(rows.read_text() + "\n".join(lines(case())).replace('"run_id":"run"', '"run_id":"second"'))
    with pytest.raises(InputError, match=r"run_id=run, second, expected rows of one run\. Choose one with --run-id\."):
        summarize_file(rows)
    first, second = (summarize_file(rows, run_id=run_id) for run_id in ("run", "second"))
    assert [len(summary.cases) for summary in (first, second)] == [2, 1]
    assert second.cases == first.cases[:1]
    assert second.run_id == "second"
    assert second.unusable["row of another run (run)"] == 10


def document() -> dict[str, Any]:
    timed, untimed = (plain(summarize_case(one)) for one in (case(), case(batch=8, rounds=0, status="oom")))
    entry = {"extra_info": {"case": timed}, "stats": {"data": [1e-3, 2e-3]}}
    memory = plain(MemoryCase(case_id="m", status="ok"))
    run = {"run_id": "run", "complete": True, "environment": {"gpu": "X"}, "run": {}}
    run |= {"cases_without_timing": [untimed], "memory_cases": [memory]}
    return {"benchmarks": [entry], "pretriton": run}


def test_benchmark_json_has_timed_and_untimed_cases(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(document()))
    summary = summarize_file(path)
    assert ([one.status for one in summary.cases], summary.complete, summary.unusable) == (["ok", "oom"], True, {})
    assert summary.memory_cases == (MemoryCase(case_id="m", status="ok"),)


def test_summary_without_a_case_is_refused(tmp_path: Path) -> None:
    """As a run leaves it that ends before its first case."""
    path = tmp_path / "summary.json"
    path.write_text(Summary(bench="pretriton", run_id="run", complete=False, cases=(), table={}).model_dump_json())
    with pytest.raises(InputError) as refused:
        read_run(tmp_path)
    assert str(refused.value) == (f"{path}: cases=0, expected a run that has measured something. Name another run.")


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (("pretriton", "cases_without_timing"), {"a": 1}, "cases_without_timing that is no list"),
        (("pretriton", "cases_without_timing"), [7, {}], "case without timing that is no case"),
        (("pretriton", "memory_cases"), [7], "memory of a case that is no case"),
        (("pretriton", "environment"), [1], "environment that is no dict"),
        (("pretriton", "run_id"), 7, "run_id that is no str"),
        (("pretriton", "run"), "r", "run that is no dict"),
        (("pretriton",), [], "pretriton that is no dict"),
        (("benchmarks", 0, "stats", "data"), [1e-3, 0], "benchmark without a case of this suite"),
        (("benchmarks", 0, "stats", "data"), [-1e-3], "benchmark without a case of this suite"),
        (("benchmarks", 0, "stats", "data"), [5e-324], "benchmark without a case of this suite"),
        (("benchmarks", 0, "stats", "data"), [float("nan")], "benchmark without a case of this suite"),
        (("benchmarks", 0, "stats", "data"), [10**400], "benchmark without a case of this suite"),
        (("benchmarks", 0, "extra_info", "case"), "case", "benchmark without a case of this suite"),
        (("benchmarks", 0, "extra_info", "case", "batch"), 0, "benchmark without a case of this suite"),
    ],
    ids=repr,
)
def test_unusable_part_of_benchmark_json_is_counted(place: tuple[str | int, ...], value: object, reason: str) -> None:
    summary = summary_with(document(), place, value)
    assert summary is not None
    assert set(summary.unusable) == {reason}


def summary_with(content: Any, place: tuple[str | int, ...], value: object) -> Summary | None:
    """The summary of a benchmark JSON or a row with another value in one place; None where it is refused."""
    parent = content
    for key in place[:-1]:
        parent = parent[key]
    parent[place[-1]] = value
    text = json.dumps(content, default=str)
    try:
        document = from_json(text)
    except ValueError:
        document = None
    try:
        read = summarize_content(Path("bench.json"), text.encode(), document if isinstance(document, dict) else None)
    except InputError:
        return None
    read.summary.model_dump_json()
    return read.summary


@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(place=st.sampled_from(places(document())), value=values | st.just("\ud800") | st.just(10**400))
def test_benchmark_json_with_any_value_is_summarized_or_refused(place: tuple[str | int, ...], value: object) -> None:
    summary_with(document(), place, value)


@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(place=st.sampled_from(places(json.loads(lines(case())[0]))), value=values | st.just("\ud800") | st.just(10**400))
def test_row_with_any_value_is_summarized_or_refused(place: tuple[str | int, ...], value: object) -> None:
    summary_with(json.loads(lines(case(rounds=1))[0]), place, value)
