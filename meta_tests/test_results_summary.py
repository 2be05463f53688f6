"""fixtures/results/summary.py: the form of summary.json."""

from __future__ import annotations

import pytest

from fixtures.results.summary import summarize
from fixtures.results.table import latency_table
from meta_tests.result_rows import case


def test_summary_has_the_form_of_the_contract() -> None:
    results = [case(), case(batch=8, rounds=4), case("raft", status="oom", rounds=0)]
    results.append(case(batch=1, id="midas_small_256-b1-fp16-torch-graph", runtime="torch-graph", rounds=3))
    summary = summarize(results, run_id="run", complete=True).model_dump(mode="json")
    assert (summary["schema_version"], summary["bench"], summary["complete"]) == (1, "pretriton", True)
    assert summary["table"] == {"midas_small_256": {"1": 1.2, "8": pytest.approx(1.15)}}
    assert summary["tables"]["torch-graph"] == {"midas_small_256": {"1": 1.1}}
    first, second, third, _ = summary["cases"]
    assert first["latency_ms"].keys() == {"p50", "p90", "p95", "p99", "mean", "std", "min", "max"}
    assert second["throughput_items_per_s"] == pytest.approx(8 / 1.15e-3)
    assert first["weights"]["synthetic"] is True
    assert (third["latency_ms"], third["throughput_items_per_s"], third["rounds"]) == (None, None, 0)


def test_table_shows_of_each_branch_what_triton_serves_first() -> None:
    measured = [
        ("b", "torch"),
        ("b", "onnxruntime"),
        ("a", "torch-compile"),
        ("a", "torch-aoti-graph"),
        ("a", "triton"),
    ]
    results = [case(variant, id=f"{variant}-{runtime}", runtime=runtime) for variant, runtime in measured]
    lines = latency_table(summarize(results, run_id="run", complete=True), 200).splitlines()
    shown = [(cells[1], cells[2]) for line in lines if len(cells := [cell.strip() for cell in line.split("│")]) > 2]
    assert shown == [
        *(("b", "onnxruntime"), ("b", "torch")),
        *(("a", "torch-aoti-graph"), ("a", "triton"), ("a", "torch-compile")),
    ]
