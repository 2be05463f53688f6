"""The runtime `triton` as a person runs it: rows, summary, waterfall and perf_analyzer's columns of one run."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from fixtures.cases import Case
from fixtures.errors import InputError
from fixtures.runtimes.triton import Triton
from fixtures.subject import Sources
from fixtures.triton.access import ServerAccess
from fixtures.weights.bundle import Bundle
from meta_tests.exports import MIDAS, published
from meta_tests.served import ONE_THREAD, ServeSuite, SmallServer


def test_served_branch_is_measured_on_a_server_of_its_own(
    tmp_path: Path, bundle_root: Path, small_server: SmallServer
) -> None:
    suite = ServeSuite(tmp_path, bundle_root, onnx_dir=small_server.onnx_dir, tests="bench_tests")
    perf = suite.folder / "perf.csv"
    ended = suite.run("--run-id", "served", "--perf-csv", str(perf), "-k", "midas")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    run = suite.folder / "out" / "served"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["complete"]
    case = next(case for case in summary["cases"] if case["runtime"] == "triton")
    require_served(case)
    local = next(case for case in summary["cases"] if case["runtime"] == "onnxruntime")
    assert case["knobs"]["onnx_graph"] == local["knobs"]["onnx_graph"] == "portable"
    assert case["file"] == local["file"] == local["file"] | {"options": ONE_THREAD}
    passes = [json.loads(line) for line in (run / "memory.jsonl").read_text().splitlines()]
    assert {one["case_id"]: one["file"] for one in passes} == {one["id"]: one["file"] for one in summary["cases"]}
    (waterfall,) = summary["waterfalls"]
    assert [hop["hop"] for hop in waterfall["hops"]] == [
        *("torch", "ONNX Runtime", "Triton, model alone", "Triton, ensemble", "client, http")
    ]
    assert waterfall["serving_tax_percent"] is not None
    assert [hop["together"] for hop in waterfall["hops"]] == [False, True, True, True, True]
    assert waterfall["hops"][1]["ms"] == case["served"]["in_process"]["p50"]
    assert "(emulated server); serving tax " in ended.stdout
    assert "over ONNX Runtime; not measured together with the rest: torch" in ended.stdout
    rows = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    served = [row for row in rows if row["runtime"] == "triton"]
    assert len(served) == case["rounds"] >= 5
    assert all(row["knobs"]["server"] == "emulated" and row["knobs"]["protocol"] == "http" for row in served)
    levels = list(csv.DictReader(perf.read_text().splitlines()))
    assert [level["Concurrency"] for level in levels] == ["1", "2", "4", "8"]
    assert all(0 < float(level["p50 latency"]) <= float(level["p95 latency"]) for level in levels)


def require_served(case: dict[str, Any]) -> None:
    served = case["served"]
    assert served["server"] == "emulated"
    assert served["load_ms"] > 0
    assert [(path["role"], path["protocol"]) for path in served["paths"]] == [
        ("ensemble", "http"),
        ("ensemble", "grpc"),
        ("ensemble", "grpc+shm"),
        ("model", "http"),
        ("fused", "http"),
    ]
    models = ("midas_64x96", "preprocess_midas_64x96", "midas_64x96_onnx")
    assert {step["model"]: step["requests"] for step in served["steps"]} == dict.fromkeys(models, case["rounds"])
    for path in served["paths"]:
        assert 0 < path["server_ms"] <= path["latency_ms"]["p50"]
    assert case["cold_start"]["prepare_ms"] >= served["load_ms"]
    # The server's processes count: more than this process alone.
    memory = case["memory"]["rss_mb"]
    assert memory["first_call"] > memory["loaded"] + 50


def test_without_a_server_the_runtime_is_refused(bundle_root: Path) -> None:
    one = published(bundle_root, MIDAS)
    sources = Sources(Bundle(bundle_root), one.folder, ServerAccess(Path("/absent/python")))
    with pytest.raises(InputError) as caught:
        Triton.require_artifact(Case(MIDAS, 1, "fp32", "triton"), sources)
    assert str(caught.value) == (
        "runtime triton of midas_small_64-b1-fp32-triton: no Triton: /absent/python does not exist. Run "
        "`make serve-env`, or set TRITON_HTTP_URL to a server of your own., expected a server. Then run again."
    )
