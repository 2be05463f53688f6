"""fixtures.parallel.merge: shards become one run, each case once, of one kind of device."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fixtures.errors import InputError
from fixtures.parallel.claims import Selection
from fixtures.parallel.merge import merge, read_part
from fixtures.records import CaseFacts, MemoryCase, Plain
from fixtures.results.reading import read_run, summarize_file
from fixtures.results.rows import CaseResult, Provenance
from fixtures.results.run_folder import RunFolder
from fixtures.results.summary import summarize

ENVIRONMENT: dict[str, Plain] = {"device": "cuda", "gpu": "H100", "torch": "2.15.0", "torch_threads": 4, "pytest": "9"}
RUN: dict[str, Any] = {
    "dtype": "fp16",
    "protocol": {},
    "content_digests": [],
    "variants": {"a": {}, "b": {}, "c": {}},
}
Shard = Callable[..., Path]


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    """Writes the folder of a shard: `name`, its cases (`variant-bN` → rounds), and what its summary says."""

    def write(name: str, cases: dict[str, tuple[float, ...]], **changed: Any) -> Path:
        memory = changed.pop("memory", cases)
        found = {**ENVIRONMENT, **changed.pop("environment", {})}
        run = {**RUN, **changed.pop("run", {})}
        folder = RunFolder.create(tmp_path / "shards", name)
        provenance = Provenance(name, "owner", "stage", found, "1", "c0ffee", False)
        results = [CaseResult(_facts(case_id), rounds) for case_id, rounds in cases.items()]
        for result in results:
            folder.append(result, provenance)
        for case_id in memory:
            folder.append_memory(MemoryCase(case_id=case_id, status="ok"))
        complete = changed.pop("complete", True)
        folder.write_summary(summarize(results, run_id=name, complete=complete, environment=found, run=run))
        return folder.path

    return write


def _facts(case_id: str) -> CaseFacts:
    variant, batch = case_id.split("-b")
    return CaseFacts(id=case_id, variant=variant, batch=int(batch), runtime="torch", device="cuda", status="ok")


def _merged(tmp_path: Path, *folders: Path, complete: bool = True, selection: Selection | None = None) -> Any:
    (tmp_path / "run").mkdir(exist_ok=True)
    parts = [part for folder in folders if (part := read_part(folder.name, folder))]
    return merge(parts, tmp_path / "run", complete=complete, selection=selection or Selection())


def test_merged_run_has_all_cases_in_the_order_of_the_selection(tmp_path: Path, shard: Shard) -> None:
    one = shard("gpu0", {"c-b2": (1.0, 2.0), "c-b1": (3.0,)})
    two = shard("gpu1", {"b-b1": (4.0,), "a-b1": (5.0, 6.0)}, environment={"pytest": "10", "torch_threads": 2})
    ids = ("a-b1", "b-b1", "c-b1", "c-b2")
    summary = _merged(tmp_path, one, two, selection=Selection(memory=ids, latency=ids))
    assert (summary.run_id, summary.complete, summary.notes) == ("run", True, ())
    assert tuple(case.id for case in summary.cases) == ids
    assert summary.table == {"a": {"1": 5.5}, "b": {"1": 4.0}, "c": {"1": 3.0, "2": 1.5}}
    assert read_run(tmp_path / "run") == summary
    rows = [json.loads(line) for line in (tmp_path / "run/results.jsonl").read_text().splitlines()]
    assert {row["run_id"] for row in rows} == {"run"}
    assert [(row["case_id"], row["latency_ms"]) for row in rows][:2] == [("a-b1", 5.0), ("a-b1", 6.0)]
    assert rows[0]["device_profile"]["torch_threads"] == 2
    assert rows[0]["git_commit"] == "c0ffee"
    again = summarize_file(tmp_path / "run/results.jsonl")
    assert again.table == summary.table


def test_case_measured_twice_counts_once_with_a_note(tmp_path: Path, shard: Shard) -> None:
    one, two = shard("gpu0", {"a-b1": (1.0,), "b-b1": (2.0,)}), shard("gpu1", {"a-b1": (9.0,), "b-b1": (2.0,)})
    summary = _merged(tmp_path, one, two)
    assert summary.table == {"a": {"1": 1.0}, "b": {"1": 2.0}}
    assert summary.notes == ("a-b1: measured twice; that of gpu0 is kept, that of gpu1 not",)
    assert len((tmp_path / "run/results.jsonl").read_text().splitlines()) == 2


def test_truncated_case_is_taken_from_another_shard_or_named_as_missing(tmp_path: Path, shard: Shard) -> None:
    one, two = shard("gpu0", {"a-b1": (1.0, 1.0, 1.0), "b-b1": (5.0, 5.0)}), shard("gpu1", {"a-b1": (2.0, 2.0)})
    text = (one / "results.jsonl").read_text().splitlines(keepends=True)
    (one / "results.jsonl").write_text("".join([*text[:2], *text[3:4], '{"schema_version":1,"ben']))
    selection = Selection(latency=("a-b1", "b-b1"), memory=("a-b1", "c-b1"))
    summary = _merged(tmp_path, one, two, selection=selection)
    assert summary.table == {"a": {"1": 2.0}}
    assert summary.complete is False
    assert summary.notes == ("missing: b-b1", "missing: memory of c-b1")
    assert [case.case_id for case in summary.memory_cases] == ["b-b1"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"environment": {"gpu": "A100"}}, "gpu1: gpu=A100, expected H100, as in gpu0."),
        ({"environment": {"torch": "2.14.0"}}, "torch=2.14.0"),
        ({"environment": {"device": "cpu"}}, "device=cpu, expected cuda"),
        ({"run": {"dtype": "fp32"}}, "dtype=fp32, expected fp16"),
        ({"run": {"protocol": {"rounds": 1}}}, "protocol="),
        ({"run": {"content_digests": ["x"]}}, "frames, sounds or prompts=others"),
        ({"run": {"variants": {"a": {"height": 1}}}}, "variant=a changed"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_shards_of_different_devices_or_settings_are_refused(
    tmp_path: Path, shard: Shard, changed: dict[str, Any], message: str
) -> None:
    one, two = shard("gpu0", {"a-b1": (1.0,)}), shard("gpu1", {"b-b1": (1.0,)}, **changed)
    with pytest.raises(InputError) as error:
        _merged(tmp_path, one, two)
    assert message in str(error.value)
    assert not list((tmp_path / "run").iterdir())
