"""What is on disk: rows, their reading back, damage, predecessors' rows, and the run's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fixtures.errors import InputError
from fixtures.files import write_atomically
from fixtures.records import CaseFacts, Memory, MemoryCase, ResultRow, WeightsRecord
from fixtures.results.percentiles import MIN_ROUNDS_FOR_P99, latency_of
from fixtures.results.rows import CaseResult, Provenance, read_results, rows_of
from fixtures.results.run_folder import RunFolder
from fixtures.results.summary import summarize

PROVENANCE = Provenance("run", "vision", "pretriton", {"device": "cuda", "gpu": "X"}, "0.1.0", "abc", False)

# The keys that a registry of costs reads from each line.
CONTRACT_KEYS = {
    *("bench", "status", "component_id", "component_part", "unit", "runtime", "owner", "stage", "model_signature"),
    *("model_branch", "batch", "latency_ms", "device_profile", "input_bucket", "knobs", "artifact_uri"),
    *("producer_version", "git_commit", "git_dirty", "rss_mb", "base_rss_mb", "gpu_mem_mb", "base_gpu_mem_mb"),
    *("dtype_requested", "dtype_used"),
}


def case(variant: str = "midas_small_256", batch: int = 1, rounds: int = 5, **facts: Any) -> CaseResult:
    known: dict[str, Any] = {
        "id": f"{variant}-b{batch}-fp16-torch",
        "variant": variant,
        "batch": batch,
        "runtime": "torch",
        "device": "cuda",
        "dtype_requested": "fp16",
        "dtype_used": "fp16",
        "status": "ok",
        "unit": "frame",
        "component_id": "visual.core_depth_midas",
        "weights": WeightsRecord(sha256="0" * 64, synthetic=True, uri="a.pt"),
        "memory": Memory(
            source="fresh_process",
            gpu_used_mb={"before": 100, "context": 600, "steady": 900},
            rss_mb={"before": 300, "steady": 700},
        ),
    }
    return CaseResult(CaseFacts(**{**known, **facts}), tuple(1.0 + index / 10 for index in range(rounds)))


def lines(*results: CaseResult) -> list[str]:
    return [row.model_dump_json() for result in results for row in rows_of(result, PROVENANCE)]


def test_one_line_per_round_with_the_keys_of_the_contract() -> None:
    rows = [json.loads(line) for line in lines(case(rounds=7))]
    assert len(rows) == 7
    assert [row["latency_ms"] for row in rows] == [1.0 + index / 10 for index in range(7)]
    for row in rows:
        assert row.keys() >= CONTRACT_KEYS
        assert row["bench"] == "pretriton"
        assert row["gpu_mem_mb"]["gpu0_used_mb"] - row["base_gpu_mem_mb"]["gpu0_used_mb"] == 300
        assert (row["rss_mb"], row["base_rss_mb"]) == (700, 300)


@pytest.mark.parametrize("status", ["oom", "error"])
def test_a_case_without_a_timing_is_one_line(status: str) -> None:
    (line,) = lines(case(rounds=0, status=status, error="why"))
    row = json.loads(line)
    assert (row["status"], row["latency_ms"], row["error"]) == (status, None, "why")


def test_rows_tell_everything_again() -> None:
    results = [case(), case(batch=8, rounds=3, status="unstable"), case("raft", rounds=0, status="oom", error="full")]
    reading = read_results(lines(*results))
    assert reading.results == results
    assert not reading.unusable
    assert reading.run_ids == ["run"]


def test_a_record_refuses_what_json_cannot_hold() -> None:
    row = next(rows_of(case(), PROVENANCE))
    with pytest.raises(ValueError, match="finite"):
        ResultRow.model_validate({**row.model_dump(), "latency_ms": float("nan")})


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"bench": "pretriton", "status"', "line that is no JSON"),
        ("[" * 100_000, "line that is no JSON"),
        ("[1]", "line that is no object"),
        ('{"batch": 1, "latency_ms": 1}', "row without model_branch"),
        ('{"model_branch": "m", "latency_ms": 1}', "row without batch"),
        ('{"model_branch": "m", "batch": true, "latency_ms": 1}', "row without batch"),
        ('{"model_branch": "m", "batch": 1}', "row without latency_ms"),
        ('{"model_branch": "m", "batch": 1, "latency_ms": NaN}', "row without latency_ms"),
        ('{"model_branch": "m", "batch": 1, "latency_ms": 5e-324}', "row without latency_ms"),
        ('{"model_branch": "m", "batch": 1, "latency_ms": 1' + "0" * 400 + "}", "row without latency_ms"),
        ('{"model_branch": "m", "batch": 1' + "0" * 400 + ', "latency_ms": 1}', "row without batch"),
        ('{"model_branch": "\\ud800", "batch": 1, "latency_ms": 1}', "line that is no JSON"),
        ('{"model_branch": "m", "batch": 1, "latency_ms": -1}', "row without latency_ms"),
        ('{"model_branch": "m", "batch": 1, "latency_ms": 1, "status": "fine"}', "row with unknown status (fine)"),
        ('{"bench": "other", "model_branch": "m", "batch": 1, "latency_ms": 1}', "row of another bench (other)"),
    ],
)
def test_an_unusable_line_is_counted_and_named(line: str, reason: str) -> None:
    good = '{"model_branch": "m", "batch": 1, "latency_ms": 2.5, "runtime": "torch", "dtype_requested": "fp16"}'
    reading = read_results([good, line, "", good])
    assert dict(reading.unusable) == {reason: 1}
    (result,) = reading.results
    assert (result.facts.id, result.rounds_ms) == ("m-b1-fp16-torch", (2.5, 2.5))


def test_rows_of_predecessors_need_only_branch_batch_and_latency() -> None:
    reading = read_results(['{"model_branch": "m", "batch": 8, "latency_ms": 20, "knobs": {"dtype": "fp16"}}'])
    (result,) = reading.results
    assert result.facts.id == "m-b8-fp16-unknown"
    assert result.facts.memory is None


def test_a_round_counts_once_and_a_case_cut_short_not_at_all() -> None:
    whole, short = lines(case()), lines(case(batch=8))[:3]
    reading = read_results([*whole, whole[2], *short, lines(case(batch=8))[3][:50]])
    assert [result.facts.batch for result in reading.results] == [1]
    assert reading.cut_short == {"midas_small_256-b8-fp16-torch": "3 of 5 rounds"}
    assert dict(reading.unusable) == {
        "round that stands there twice": 1,
        "round of a case that was cut short": 3,
        "line that is no JSON": 1,
    }


def test_a_run_is_never_written_over(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, "run")
    with pytest.raises(InputError, match=r"--run-id run: folder=.* exists.*--resume"):
        RunFolder.create(tmp_path, "run")


def test_an_unwritable_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="folder=Not a directory, expected a folder to write to"):
        RunFolder.create(tmp_path / "file", "run")


def test_recovery_keeps_finished_cases_and_removes_what_was_cut_short(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "run")
    folder.append(case(), PROVENANCE)
    memory = MemoryCase(case_id="m", status="ok")
    folder.append_memory(memory)
    path = folder.path / "results.jsonl"
    finished = path.read_text()
    path.write_text(finished + "\n".join(lines(case(batch=8))[:2]) + '\n{"cut')
    with (folder.path / "memory.jsonl").open("a") as file:
        file.write('{"case_id": "n", "sta')
    assert folder.recover() == ([case()], [memory])
    assert path.read_text() == finished
    folder.append(case(batch=8), PROVENANCE)
    assert len(read_results(path.read_text().splitlines()).results) == 2


def test_a_summary_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "summary.json"
    write_atomically(path, "old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "new")
    assert path.read_text() == "old"


def test_percentiles_interpolate_and_p99_needs_enough_rounds() -> None:
    latency = latency_of([1.0, 2.0, 3.0, 4.0])
    assert (latency.p50, latency.min, latency.max) == (2.5, 1.0, 4.0)
    assert latency.p90 == pytest.approx(3.7)
    assert latency.std == pytest.approx(1.2909944)
    assert latency_of(range(1, MIN_ROUNDS_FOR_P99)).p99 is None
    assert latency_of(range(1, MIN_ROUNDS_FOR_P99 + 1)).p99 == pytest.approx(655.39)
    assert latency_of([3.0]).std == 0


def test_the_summary_has_the_form_of_the_contract() -> None:
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
