"""A real GPU run, kept as test data: its files are read, and its rows give its summary."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from fixtures.cases import exports_of
from fixtures.manifest import read_manifest
from fixtures.records import PlatformRecord, Summary
from fixtures.results.latency_waterfall import waterfalls
from fixtures.results.reading import summarize_file
from fixtures.spec import load_spec
from meta_tests.conftest import ROOT

STORED = Path(__file__).parent / "data" / "h200"
BASELINE = Path(__file__).parent / "data" / "h100_baseline"
PACKAGES = Path(__file__).parent / "data" / "h100_packages"
SERVED = Path(__file__).parent / "data" / "h100_served"


@pytest.fixture(scope="module")
def stored() -> Summary:
    return Summary.model_validate_json((STORED / "summary.json").read_text())


def test_stored_summary_is_read(stored: Summary) -> None:
    assert stored.complete
    assert stored.environment["gpu"] == "NVIDIA H200"
    assert len(stored.cases) == 60
    assert {case.status for case in stored.cases} == {"ok"}
    assert all(case.weights is not None and case.weights.synthetic for case in stored.cases)


def test_rows_alone_give_the_same_summary(stored: Summary, tmp_path: Path) -> None:
    rows = tmp_path / "results.jsonl"
    rows.write_bytes(gzip.decompress((STORED / "results.jsonl.gz").read_bytes()))
    again = summarize_file(rows)
    assert again.cases == stored.cases
    assert (again.table, again.tables) == (stored.table, stored.tables)
    assert not again.unusable
    assert (again.run_id, again.environment) == (stored.run_id, stored.environment)


def test_damaged_line_costs_one_case_and_is_named(stored: Summary, tmp_path: Path) -> None:
    lines = gzip.decompress((STORED / "results.jsonl.gz").read_bytes()).decode().splitlines()
    lines[1000] = lines[1000][:100]
    rows = tmp_path / "results.jsonl"
    rows.write_text("\n".join(lines))
    again = summarize_file(rows)
    lost = json.loads(lines[999])["case_id"]
    assert {case.id for case in stored.cases} - {case.id for case in again.cases} == {lost}
    assert again.unusable["line that is no JSON"] == 1
    assert any(lost in note for note in again.notes)


def test_device_time_never_exceeds_host_time(stored: Summary) -> None:
    """ONNX Runtime works on a stream of its own, where torch's events see nothing."""
    assert {case.runtime for case in stored.cases if case.device_p50_ms is None} == {"onnxruntime", "onnxruntime-graph"}
    for case in stored.cases:
        if case.device_p50_ms is None:
            continue
        assert case.latency_ms is not None
        assert case.latency_ms.p50 > case.device_p50_ms > 0
        assert case.launch_bound is (case.latency_ms.p50 > 1.5 * case.device_p50_ms)


def test_stored_manifest_has_every_file_passed_on_both_providers() -> None:
    manifest = read_manifest(STORED)
    assert len(manifest.files) == 13
    for record in manifest.files.values():
        assert {(one.provider, one.dtype) for one in record.parity if one.passed} == {("cpu", "fp16"), ("cuda", "fp16")}
        assert record.placement is not None
        assert set(record.placement.nodes) == {"CUDAExecutionProvider"}
        assert [hop.hop for hop in record.waterfall][1:] == [
            "torch fp16 on cuda",
            "ONNX fp16 on cpu",
            "ONNX fp16 on cuda",
        ]


def test_stored_manifest_of_the_full_matrix_has_every_file_passed_on_a_gpu() -> None:
    """One manifest for both machines: in fp16, with every node on CUDA."""
    files = read_manifest(BASELINE).files
    assert set(files) == {export.file for export in exports_of(load_spec(ROOT / "specs/baseline_gpu.yaml"))}
    for record in files.values():
        assert record.problem is None
        assert {(one.provider, one.dtype) for one in record.parity} == {("cpu", "fp16"), ("cuda", "fp16")}
        assert record.placement is not None
        assert set(record.placement.nodes) == {"CUDAExecutionProvider"}


def test_stored_manifest_of_packages_has_every_file_passed_on_a_gpu() -> None:
    spec = load_spec(ROOT / "specs/deployable_gpu.yaml")
    files = read_manifest(PACKAGES).files
    assert set(files) == {export.file for export in exports_of(spec)}
    for record in files.values():
        judged = {(one.provider, one.dtype) for one in record.parity if one.passed}
        if record.format == "aoti":
            assert record.platform == PlatformRecord(torch="2.11.0", device="cuda", architecture="sm_90")
            assert judged == {("cuda", "fp16")}
        else:
            assert judged == {("cpu", "fp16"), ("cuda", "fp16")}


def test_stored_run_of_packages_was_judged_and_resumed_after_tuning() -> None:
    """Rows of ONNX files name the options that stand in the manifest."""
    summary = Summary.model_validate_json((PACKAGES / "summary.json").read_text())
    assert summary.complete
    assert summary.environment["gpu"] == "NVIDIA H100 80GB HBM3"
    assert len(summary.cases) == 72
    assert all(0 < (case.output_error or 0) <= (case.output_budget or 0) for case in summary.cases)
    records = read_manifest(PACKAGES).files.values()
    tuned = {record.sha256: record.tunings[0].options for record in records if record.tunings}
    of_files = [case.file for case in summary.cases if case.file and case.runtime == "onnxruntime"]
    assert len(of_files) == 12
    assert all(file.options == tuned.get(file.sha256, {}) for file in of_files)


def test_stored_summary_of_an_interrupted_run_says_what_is_missing() -> None:
    summary = Summary.model_validate_json((PACKAGES / "served_summary.json").read_text())
    assert not summary.complete
    assert [case.runtime for case in summary.cases] == ["torch-aoti-graph", "triton-aoti", "triton", "torch-aoti-graph"]


@pytest.mark.parametrize(("name", "cases"), [("summary.json", 40), ("raft_resnet_summary.json", 16)])
def test_stored_summaries_of_the_full_matrix_are_read(name: str, cases: int) -> None:
    summary = Summary.model_validate_json((BASELINE / name).read_text())
    assert summary.environment["gpu"] == "NVIDIA H100 80GB HBM3"
    assert len(summary.cases) == cases
    assert {case.status for case in summary.cases} == {"ok"}
    assert {case.unit for case in summary.cases} >= {"frame", "frame_pair"}


@pytest.mark.parametrize("name", ["summary.json", "raft_summary.json"])
def test_stored_summary_of_a_served_run_is_read(name: str) -> None:
    """A branch on a GPU, through the emulated backend: what is at the server is part of what its client waits."""
    summary = Summary.model_validate_json((SERVED / name).read_text())
    assert summary.environment["gpu"] == "NVIDIA H100 80GB HBM3"
    (case,) = [case for case in summary.cases if case.served]
    assert case.served is not None
    assert case.served.server == case.knobs["server"] == "emulated"
    assert all(0 < path.server_ms < path.latency_ms.p50 for path in case.served.paths)
    (stored,), (made_now,) = summary.waterfalls, waterfalls(summary.cases)
    assert all(hop.together is None for hop in stored.hops)  # of before it was known
    unknown = [hop.model_copy(update={"together": None}) for hop in made_now.hops]
    assert stored == made_now.model_copy(update={"hops": tuple(unknown)})


def test_stored_rows_of_a_served_case_name_their_server() -> None:
    lines = gzip.decompress((SERVED / "results.jsonl.gz").read_bytes()).decode().splitlines()
    served = [row for row in map(json.loads, lines) if row["runtime"] == "triton"]
    assert len(served) >= 100
    assert {row["knobs"]["server"] for row in served} == {"emulated"}
    assert set(read_manifest(SERVED).files) == {"midas/midas_small_256.onnx", "raft/raft_small_256.onnx"}
