"""What each section shows, and what it says where a run lacks something."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from fixtures.decision import choose
from fixtures.manifest import enter
from fixtures.records import ColdStart, MeasuredFile, Memory, MemoryCase, Served, Summary
from fixtures.report import read_material
from fixtures.report.cases import ReportCase, cold_parts, report_cases, stacked_memory
from fixtures.report.section import Section
from fixtures.report.sections import ALL_CASES, SECTIONS
from fixtures.report.series import Series
from fixtures.report.table import WHOLE, Column, Table
from fixtures.results.summary import summarize, summarize_case
from fixtures.spec.budget import Budget
from meta_tests.file_records import record
from meta_tests.report_pages import STORED, made_run, page_of, stored_run, telemetry_case, written
from meta_tests.result_rows import case
from meta_tests.runs import run_of


def test_served_run_has_waterfalls_server_start_and_memory(tmp_path: Path) -> None:
    served = page_of(stored_run(tmp_path, "h100_served"), manifest=STORED / "h100_served")
    hops = served.table("Medians, hop by hop")
    assert [(row["hop"], row["at the hop ms"]) for row in hops][-1] == ("client, http", "9.49")
    (waterfall,) = served.section("latency-waterfall").all("figure")
    assert "serving tax 161% over ONNX Runtime" in (waterfall.attributes["aria-label"] or "")
    (row,) = [row for row in served.table("Cold start") if row["runtime"] == "triton"]
    assert (row["start server ms"], row["prepare ms"]) == ("13,280", "1,258")
    assert len(served.table("Relative L2 error, hop by hop")) == 8
    assert served.table("Parity of the exported files")
    assert "Every case has one bar: stages in between were not read." in served.section("memory").text
    for key in ("batch", "input-size"):
        assert "Measured at one" in served.section(key).text
        assert not served.section(key).all("figure")


@pytest.mark.parametrize(("sha256", "says"), [("0" * 64, False), ("1" * 64, True)])
def test_errors_of_another_export_than_was_measured_are_called_so(tmp_path: Path, sha256: str, says: bool) -> None:
    name = "midas/a.onnx"
    enter(tmp_path, name, record("0" * 64))
    facts = case(runtime="onnxruntime", file=MeasuredFile(uri=name, sha256=sha256))
    run = written(tmp_path / "run", run_of(summarize_case(facts)))
    said = page_of(run, manifest=tmp_path).section("error-waterfall").text
    assert (f"The run measured an earlier or later export of {name}: errors here are of another file." in said) is says


def test_lines_and_bars_reach_up_to_p95(tmp_path: Path) -> None:
    made = made_run(tmp_path / "made")
    figures = page_of(made).json("figures")
    latency = read_material(made, None, None, None).cases[0].latency_ms
    assert latency
    for key in ("Batch-0-0", "Input size-0-0", "Runtimes-0-0"):
        series = figures[key]["series"][0]
        assert (latency.p50 in series["x"] + series["y"], series["high"][0]) == (True, latency.p95)


def test_latency_waterfall_draws_what_a_hop_adds_or_saves(tmp_path: Path) -> None:
    series = page_of(made_run(tmp_path / "made")).json("figures")["Latency waterfall-0-0"]["series"]
    drawn = {one["name"]: (one["y"], *([round(ms, 6) for ms in one[key]] for key in ("base", "x"))) for one in series}
    assert drawn == {
        "first hop": (["torch"], [0], [7.2]),
        "saves": (["ONNX Runtime"], [3.6], [3.6]),
        "adds": (["client, http"], [3.6], [5.9]),
    }


def test_run_without_rounds_says_what_would_give_them(tmp_path: Path) -> None:
    document = page_of(written(tmp_path, summarize([case()], run_id="run", complete=True)))
    assert "There is no results.jsonl beside the summary" in document.section("rounds").text
    assert "pytest bench_tests" in document.section("rounds").text
    assert not document.section("rounds").all("select")
    assert document.json("all-rounds") == {}


def test_run_without_any_time_still_is_a_page(tmp_path: Path) -> None:
    nothing = summarize([case(rounds=0, status="oom", memory=None)], run_id="run", complete=False)
    document = page_of(written(tmp_path, nothing))
    for key, says in {
        "decision": "No branch can be deployed for depth; the reasons are below.",
        "batch": "No case has a time.",
        "input-size": "No case has a time.",
        "memory": "No case has its memory.",
        "runtimes": "Not measured in this run: torch, onnxruntime, triton, torch-aoti",
        "cold-start": "No case has its cold start",
        "telemetry": "No case has telemetry.",
        "latency-waterfall": "Nothing was served.",
        "error-waterfall": "No manifest was named: --manifest models/optimized/manifest.json.",
        "environment": "does not name its machine",
    }.items():
        assert says in document.section(key).text
        assert not document.section(key).all("figure")
    assert "The run is not complete" in document.all("header")[0].text
    assert "1 case has failed or did not fit into memory" in document.all("header")[0].text


def test_budget_without_a_feasible_row_names_the_nearest_miss(tmp_path: Path) -> None:
    run = stored_run(tmp_path, "h200")
    (run / "results.jsonl").unlink()
    summary = Summary.model_validate_json((run / "summary.json").read_text())
    choice = tmp_path / "choice.json"
    choice.write_text(choose(summary, {"depth": Budget(p95_ms=0.5)}, "mine").model_dump_json())
    decision = page_of(run, choice=choice).section("decision").text
    assert "No branch can be deployed for depth; the reasons are below." in decision
    assert "Budget: p95_ms 0.5." in decision
    assert "Nothing is feasible. Nearest is midas_small_256-b1-fp16-" in decision
    assert "read from choice.json, with the budgets of spec mine" in decision


@pytest.mark.parametrize(
    ("started_at", "shown"),
    [("2026-11-25T04:00:30+02:00", "2026-11-25 02:00 UTC"), ("yesterday", "not recorded"), (None, "not recorded")],
)
def test_head_shows_the_start_of_the_run(tmp_path: Path, started_at: str | None, shown: str) -> None:
    summary = summarize([case()], run_id="run", complete=True, run={"started_at": started_at})
    assert shown in page_of(written(tmp_path, summary)).all("header")[0].text


def test_telemetry_is_drawn_over_time(tmp_path: Path) -> None:
    start_s = 1_700_000_000.0
    summary = summarize([], run_id="run", complete=True)
    cases = (telemetry_case(start_s + 60, batch=8), telemetry_case(start_s))
    document = page_of(written(tmp_path, summary.model_copy(update={"cases": cases})))
    figures = document.json("figures")
    (samples,) = figures["Telemetry-0-0"]["series"]
    assert samples["x"] == [0.0, 0.1, 0.2, None, 60.0, 60.1, 60.2, None]
    assert samples["y"] == [1980, None, 1900, None] * 2
    # A quantity that the driver does not give has no chart.
    assert [key for key in figures if key.startswith("Telemetry")] == ["Telemetry-0-0", "Telemetry-0-1"]


def test_telemetry_without_samples_shows_ranges_in_the_order_of_cases(tmp_path: Path) -> None:
    figures = page_of(stored_run(tmp_path, "h100_served")).json("figures")
    (ranges,) = figures["Telemetry-1-1"]["series"]
    assert (ranges["x"], ranges["low"][-1], ranges["y"][-1], ranges["high"][-1]) == ([1, 2, 3, 4, 5], 40, 41, 41)


def test_memory_bars_are_stacked_in_parts(tmp_path: Path) -> None:
    figure = page_of(made_run(tmp_path / "made")).json("figures")["Memory-0-0"]
    assert {series["name"]: series["x"][0] for series in figure["series"]} == {
        "weights": 40,
        "workspace": 260,
        "steady rest": -20,
        "steady, not split": 300,
    }
    assert figure["y"]["names"] == ["b1 onnxruntime", "b8 onnxruntime", "b1 torch", "b8 torch", "b16 torch"]


def test_memory_of_unmeasured_cases_is_a_table_of_its_own(tmp_path: Path) -> None:
    summary = summarize([case()], run_id="run", complete=True)
    alone = MemoryCase(case_id="alone", status="oom", notes=("small GPU",), error="too large")
    document = page_of(written(tmp_path, summary.model_copy(update={"memory_cases": (alone,)})))
    (row,) = document.table("Memory of cases whose latency was not measured")
    assert row == {"case": "alone", "status": "oom", "steady, all MiB": "–", "remark": "small GPU; too large"}


# --- columns and values ---

OF_CASES = {section.name: section for section in SECTIONS if isinstance(section, Section) and section.columns}


def test_new_column_of_all_cases_is_one_line(tmp_path: Path) -> None:
    material = read_material(stored_run(tmp_path, "h100_served"), None, None, None)
    new = Column("cold_start.warmup_calls", "warm-up", "calls", WHOLE)
    (table,) = replace(OF_CASES["All cases"], columns=(*ALL_CASES, new))(material).blocks
    assert isinstance(table, Table)
    assert [row[-1].text for row in table.rows] == ["326", "110", "128", "101", "46"]


@pytest.mark.parametrize("name", ["Batch", "Input size", "Memory", "Cold start", "All cases"])
def test_every_field_of_a_column_exists(name: str) -> None:
    columns = OF_CASES[name].columns
    assert not callable(columns)
    for column in columns:
        if isinstance(column.field, str):
            assert exists(ReportCase, column.field.split(".")), column.field


def exists(model: Any, path: list[str]) -> bool:
    """Whether a path leads through fields of records to a field, a property or a key of a dictionary."""
    name, *rest = path
    if not isinstance(model, type) or not issubclass(model, BaseModel):
        return model is not float and not rest
    if name not in model.model_fields:
        return isinstance(getattr(model, name, None), property)
    annotation = model.model_fields[name].annotation
    inner = [one for one in get_args(annotation) if one is not type(None)] or [annotation]
    return not rest or exists(inner[0], rest)


@pytest.mark.parametrize(
    ("stages", "parts"),
    [
        (
            {"context": 600, "loaded": 640, "first_call": 900, "steady": 880},
            {"weights": 40, "workspace": 260, "steady rest": -20},
        ),
        ({"context": 600, "steady": 880}, {"steady, not split": 280}),
        ({"context": 600, "loaded": 640}, {}),
        ({}, {}),
    ],
)
def test_memory_is_split_as_far_as_it_was_read(stages: dict[str, float], parts: dict[str, float]) -> None:
    memory = Memory(source="fresh_process", gpu_used_mb=stages)
    assert stacked_memory(only_case(summarize([case(memory=memory)], run_id="run", complete=True))) == parts


def test_memory_of_a_cpu_run_is_that_of_the_host(tmp_path: Path) -> None:
    stages = {"before": 100.0, "loaded": 130.0, "first_call": 150.0, "steady": 150.0}
    summary = summarize([case(memory=Memory(source="fresh_process", rss_mb=stages))], run_id="run", complete=True)
    assert only_case(summary).memory_mb == {"weights": 30, "workspace": 20, "steady rest": 0, "steady, all": 50}
    assert (
        "MiB of host memory above that of an idle process" in page_of(written(tmp_path, summary)).section("memory").text
    )


@pytest.mark.parametrize(("server_ms", "prepare_ms"), [(400.0, 100.0), (None, 500.0), (501.0, 500.0)])
def test_start_of_a_server_is_counted_once(server_ms: float | None, prepare_ms: float) -> None:
    served = Served(server="emulated", protocol="http", load_ms=server_ms, steps=())
    cold = ColdStart(load_ms=1, prepare_ms=500, first_call_ms=2, warmup_calls=3)
    parts = cold_parts(summarize_case(case(served=served, cold_start=cold)))
    assert (parts["prepare"], sum(parts.values())) == (prepare_ms, 503)


def only_case(summary: Summary) -> ReportCase:
    (one,) = report_cases(summary, Series(summary.cases))
    return one
