"""fixtures/results/rows.py: what a line of results.jsonl holds, and how it is read back."""

from __future__ import annotations

import json

import pytest

from fixtures.records import ResultRow
from fixtures.results.rows import read_results, rows_of
from meta_tests.result_rows import PROVENANCE, case, lines

# The keys that a registry of costs reads from each line.
CONTRACT_KEYS = {
    *("bench", "status", "component_id", "component_part", "unit", "runtime", "owner", "stage", "model_signature"),
    *("model_branch", "batch", "latency_ms", "device_profile", "input_bucket", "knobs", "artifact_uri"),
    *("producer_version", "git_commit", "git_dirty", "rss_mb", "base_rss_mb", "gpu_mem_mb", "base_gpu_mem_mb"),
    *("dtype_requested", "dtype_used"),
}


def test_each_round_is_a_line_with_the_keys_of_the_contract() -> None:
    rows = [json.loads(line) for line in lines(case(rounds=7))]
    assert len(rows) == 7
    assert [row["latency_ms"] for row in rows] == [1.0 + index / 10 for index in range(7)]
    for row in rows:
        assert row.keys() >= CONTRACT_KEYS
        assert row["bench"] == "pretriton"
        assert row["gpu_mem_mb"]["gpu0_used_mb"] - row["base_gpu_mem_mb"]["gpu0_used_mb"] == 300
        assert (row["rss_mb"], row["base_rss_mb"]) == (700, 300)


@pytest.mark.parametrize("status", ["oom", "error"])
def test_case_without_timing_is_one_line(status: str) -> None:
    (line,) = lines(case(rounds=0, status=status, error="why"))
    row = json.loads(line)
    assert (row["status"], row["latency_ms"], row["error"]) == (status, None, "why")


def test_rows_read_back_are_the_results_written() -> None:
    results = [case(), case(batch=8, rounds=3, status="unstable"), case("raft", rounds=0, status="oom", error="full")]
    reading = read_results(lines(*results))
    assert reading.results == results
    assert not reading.unusable
    assert reading.run_ids == ["run"]


def test_row_refuses_number_that_json_cannot_hold() -> None:
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
def test_unusable_line_is_counted_by_its_reason(line: str, reason: str) -> None:
    good = '{"model_branch": "m", "batch": 1, "latency_ms": 2.5, "runtime": "torch", "dtype_requested": "fp16"}'
    reading = read_results([good, line, "", good])
    assert dict(reading.unusable) == {reason: 1}
    (result,) = reading.results
    assert (result.facts.id, result.rounds_ms) == ("m-b1-fp16-torch", (2.5, 2.5))


def test_row_of_predecessor_needs_only_branch_batch_and_latency() -> None:
    reading = read_results(['{"model_branch": "m", "batch": 8, "latency_ms": 20, "knobs": {"dtype": "fp16"}}'])
    (result,) = reading.results
    assert result.facts.id == "m-b8-fp16-unknown"
    assert result.facts.memory is None


def test_rounds_are_in_the_order_in_which_they_were_timed() -> None:
    """Whatever `sort` or another program has made of the file."""
    (read,) = read_results(sorted(lines(case()), reverse=True)).results
    assert read == case()


def test_round_counts_once_and_case_cut_short_is_left_out() -> None:
    whole, short = lines(case()), lines(case(batch=8))[:3]
    reading = read_results([*whole, whole[2], *short, lines(case(batch=8))[3][:50]])
    assert [result.facts.batch for result in reading.results] == [1]
    assert reading.cut_short == {"midas_small_256-b8-fp16-torch": "3 of 5 rounds"}
    assert dict(reading.unusable) == {
        "round that stands there twice": 1,
        "round of a case that was cut short": 3,
        "line that is no JSON": 1,
    }
