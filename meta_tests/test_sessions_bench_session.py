"""fixtures/sessions/bench_session.py as a person uses it: a command line, an exit code, and files on disk."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest
import torch
from PIL import Image

from fixtures.errors import InputError
from fixtures.parallel.run import ShardedRun, run_shards
from fixtures.results.reading import summarize_file
from fixtures.sessions.bench_session import _use_storage_of
from fixtures.weights.checkpoint import read_state_dict
from meta_tests import noisy
from meta_tests.conftest import HANGS_S, ROOT, SMALL_SPEC, Ended, Suite, environment, wait_until

RAFT_FILE = "torch_cache/hub/checkpoints/raft_small_C_T_V2-01064c6d.pth"
MIDAS = "midas_small_64-b1-fp32-torch"


def summary_of(suite: Suite, run_id: str = "r") -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((suite.folder / "out" / run_id / "summary.json").read_text())
    return summary


def rows_of(suite: Suite, run_id: str = "r") -> list[dict[str, Any]]:
    text = (suite.folder / "out" / run_id / "results.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def first_rounds(suite: Suite) -> dict[str, float]:
    """Case → its first round."""
    return {row["case_id"]: row["latency_ms"] for row in rows_of(suite) if row["round"] == 0}


def by_id(summary: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {case["id"]: case for case in summary["cases"]}


# --- a whole session, and a second one beside it ---


@dataclass(frozen=True)
class Whole:
    """A session that was started as a person does, and one that wanted to resume its run at the same time."""

    suite: Suite
    json_path: Path
    ended: Ended
    pid: int
    second: Ended

    @property
    def benchmarks(self) -> dict[str, Any]:
        """The benchmark JSON."""
        document: dict[str, Any] = json.loads(self.json_path.read_text())
        return document


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, bundle_root: Path) -> Whole:
    suite = Suite(tmp_path_factory.mktemp("whole"), bundle_root)
    (suite.folder / "small.yaml").write_text(SMALL_SPEC)
    (suite.folder / "photos").mkdir()
    Image.effect_noise((200, 150), 60).convert("RGB").save(os.fsencode(suite.folder / "photos" / "noise") + b"\xff.png")
    json_path = suite.folder / "new" / "bench.json"
    arguments = ("--spec", str(suite.folder / "small.yaml"), "--run-id", "r", "--frames", str(suite.folder / "photos"))
    more = (f"--benchmark-json={json_path}", "-k", "midas", "-p", "meta_tests.noisy")
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        suite.command(*arguments, *more), cwd=ROOT, env=environment(), stdout=pipe, stderr=pipe, text=True
    )
    begun = suite.folder / "out" / "r" / "summary.json"
    wait_until(lambda: begun.exists() or process.poll() is not None)
    process.send_signal(signal.SIGSTOP)  # so that it is at work for as long as the second one looks
    second = suite.run(*arguments, "--resume")
    process.send_signal(signal.SIGCONT)
    stdout, stderr = process.communicate(timeout=HANGS_S)
    return Whole(suite, json_path, Ended(process.returncode, stdout, stderr), process.pid, second)


def test_session_says_what_it_measures_and_what_it_wrote(whole: Whole) -> None:
    assert whole.ended.returncode == 0, whole.ended.stdout + whole.ended.stderr
    folder = whole.suite.folder / "out" / "r"
    for said in ("device:", "spec: small, 4 cases", "synthetic weights", f"run: {folder}", "p95 ms", "midas_small_64"):
        assert said in whole.ended.stdout
    written = [line.removeprefix("wrote ") for line in whole.ended.stdout.splitlines() if line.startswith("wrote ")]
    assert written == [str(folder / name) for name in ("results.jsonl", "memory.jsonl", "summary.json")]


def test_second_writer_of_a_run_is_refused_with_the_name_of_the_first(whole: Whole) -> None:
    assert whole.second.returncode == 2, whole.second.stdout
    (message,) = whole.second.stderr.splitlines()
    assert message.startswith(f"ERROR: --run-id r: writer=process {whole.pid} on ")
    assert " since 20" in message
    assert "-m pytest bench_tests -p no:cacheprovider --device cpu --out " in message
    assert message.endswith("…, expected no other writer. Wait for it to end.")
    assert not (whole.suite.folder / "out" / "r" / ".lock").exists()


def test_summary_tells_weights_memory_and_cold_start_of_every_selected_case(whole: Whole) -> None:
    summary = summary_of(whole.suite)
    assert (summary["complete"], list(by_id(summary))) == (True, [MIDAS, MIDAS.replace("b1", "b2")])
    assert summary["run"]["content"] == ["noise\ufffd.png", "prompts.txt"]
    rows = rows_of(whole.suite)
    for case in summary["cases"]:
        own = [row for row in rows if row["case_id"] == case["id"]]
        assert len(own) == case["rounds"] >= 5
        assert case["weights"]["synthetic"] is True
        assert len(case["weights"]["sha256"]) == len(case["model_signature"]) == 64
        assert case["memory"]["source"] == "fresh_process"
        assert case["cold_start"]["first_call_ms"] > 0
        assert {row["rss_mb"] for row in own} == {case["memory"]["rss_mb"]["steady"]}
        assert case["latency_ms"]["p50"] > 0


def test_benchmark_json_has_the_rounds_of_the_rows(whole: Whole) -> None:
    document, cases, rows = whole.benchmarks, by_id(summary_of(whole.suite)), rows_of(whole.suite)
    assert document["machine_info"]["pretriton"]["torch"] == torch.__version__.split("+")[0]
    assert [entry["param"] for entry in document["benchmarks"]] == list(cases)
    for entry in document["benchmarks"]:
        case = cases[entry["param"]]
        assert entry["params"] == {"case": case["id"]}
        assert entry["extra_info"]["case"] == case
        measured = [row["latency_ms"] for row in rows if row["case_id"] == case["id"]]
        assert [seconds * 1e3 for seconds in entry["stats"]["data"]] == pytest.approx(measured, rel=1e-12)
        assert entry["stats"]["median"] * 1e3 == pytest.approx(case["latency_ms"]["p50"])


def test_either_file_of_a_run_gives_its_summary_again(whole: Whole) -> None:
    summary = summary_of(whole.suite)
    for source in (whole.json_path, whole.suite.folder / "out" / "r" / "results.jsonl"):
        again = summarize_file(source).model_dump(mode="json")
        assert again["table"] == {"midas_small_64": pytest.approx(summary["table"]["midas_small_64"])}
        assert list(by_id(again)) == list(by_id(summary))
        assert by_id(again)[MIDAS]["memory"] == by_id(summary)[MIDAS]["memory"]
        assert again["complete"] is (source == whole.json_path)


def test_warning_of_a_library_is_shown_once_and_fails_nothing(whole: Whole) -> None:
    assert "4 passed" in whole.ended.stdout
    assert whole.ended.stdout.count(noisy.MESSAGE) == 1


# --- outcomes that are no times ---

MIXED_SPEC = """\
schema_version: 1
name: mixed
dtype: fp32
runtimes: [torch]
batches: [1]
protocol: {cpu_budget_s: 0.1, cpu_warmup_s: 0}
variants:
  - {name: midas_small_64, family: midas, model: MiDaS_small, height: 64, width: 96}
  - {name: broken, family: raft, model: raft_small, height: 128, width: 128}
  - {name: huge, family: midas, model: MiDaS_small, height: 4096, width: 4096, batches: [4096]}
  - {name: graph, family: midas, model: MiDaS_small, height: 64, width: 64, runtimes: [torch-graph]}
  - {name: absent, family: raft, model: raft_large, height: 128, width: 128, optional: true}
"""


@dataclass(frozen=True)
class Mixed:
    """A session with a case of every outcome, its files, and a session that resumes its run."""

    ended: Ended
    summary: dict[str, Any]
    rows: list[dict[str, Any]]
    benchmarks: dict[str, Any]
    resumed: Ended
    rows_resumed: list[dict[str, Any]]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, bundle_root: Path) -> Mixed:
    folder = tmp_path_factory.mktemp("mixed")
    root = Path(shutil.copytree(bundle_root, folder / "root"))
    state_dict = read_state_dict(root / RAFT_FILE)
    state_dict["update_block.flow_head.conv2.bias"][0] = torch.nan
    (root / RAFT_FILE).unlink()
    torch.save(state_dict, (root / RAFT_FILE).with_name("raft_small_own.pth"))
    (folder / "mixed.yaml").write_text(MIXED_SPEC)
    suite, json_path = Suite(folder, root), folder / "bench.json"
    arguments = ("--spec", str(folder / "mixed.yaml"), "--run-id", "r", "-rs", f"--benchmark-json={json_path}")
    ended = suite.run(*arguments)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    summary, rows, benchmarks = summary_of(suite), rows_of(suite), json.loads(json_path.read_text())
    resumed = suite.run(*arguments, "--resume", "-k", "test_latency")
    return Mixed(ended, summary, rows, benchmarks, resumed, rows_of(suite))


def test_output_that_is_not_finite_is_an_error_row_and_no_time_anywhere(mixed: Mixed) -> None:
    failed = by_id(mixed.summary)["broken-b1-fp32-torch"]
    assert (failed["status"], failed["latency_ms"], failed["rounds"]) == ("error", None, 0)
    assert "photograph 0: the model overflows in fp32: 32768 of 32768 output values" in failed["error"]
    assert failed["error"].endswith("Check its weights.")
    (row,) = [row for row in mixed.rows if row["case_id"] == failed["id"]]
    assert (row["status"], row["latency_ms"]) == ("error", None)
    assert list(mixed.summary["table"]) == ["midas_small_64"]


def test_out_of_memory_is_a_row_and_fails_nothing(mixed: Mixed) -> None:
    case = by_id(mixed.summary)["huge-b4096-fp32-torch"]
    assert (case["status"], case["latency_ms"]) == ("oom", None)
    assert "out of memory, which is a result" in mixed.ended.stdout
    assert "oom" in mixed.ended.stdout
    assert "1 failed" in mixed.ended.stdout, "the one whose output is not finite"


def test_case_that_cannot_run_here_is_skipped_with_its_reason(mixed: Mixed) -> None:
    assert "runtime torch-graph needs a CUDA device, and this run uses cpu" in mixed.ended.stdout
    assert "raft_large_C_T_SKHT_V2-ff5fadd5.pth: file=missing" in mixed.ended.stdout
    assert list(by_id(mixed.summary)) == [
        "midas_small_64-b1-fp32-torch",
        "broken-b1-fp32-torch",
        "huge-b4096-fp32-torch",
    ]
    assert mixed.summary["complete"] is True


def test_benchmark_json_names_cases_without_a_time_apart(mixed: Mixed) -> None:
    assert [entry["param"] for entry in mixed.benchmarks["benchmarks"]] == ["midas_small_64-b1-fp32-torch"]
    untimed = [case["id"] for case in mixed.benchmarks["pretriton"]["cases_without_timing"]]
    assert untimed == ["broken-b1-fp32-torch", "huge-b4096-fp32-torch"]


def test_failure_that_was_measured_before_is_still_a_failure(mixed: Mixed) -> None:
    assert mixed.resumed.returncode == 1
    assert mixed.rows_resumed == mixed.rows


# --- parts of a run ---


def test_memory_pass_alone_is_a_run_and_its_remarks_stay_with_the_latency(suite: Suite, small_spec: Path) -> None:
    json_path = suite.folder / "bench.json"
    json_path.write_text('{"benchmarks": ["of an earlier run"]}')
    arguments = ("--spec", str(small_spec), "--run-id", "r", "-k", "test_memory and midas_small_64-b1")
    ended = suite.run(*arguments, f"--benchmark-json={json_path}")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"{MIDAS}: memory " in ended.stdout
    folder = suite.folder / "out" / "r"
    written = [line.removeprefix("wrote ") for line in ended.stdout.splitlines() if line.startswith("wrote ")]
    assert written == [str(folder / "memory.jsonl"), str(folder / "summary.json")]
    summary = summary_of(suite)
    assert (summary["complete"], summary["cases"]) == (True, [])
    (line,) = (folder / "memory.jsonl").read_text().splitlines()
    assert json.loads(line)["status"] == "ok"
    assert summary["memory_cases"] == [json.loads(line)]
    document = json.loads(json_path.read_text())
    assert (document["benchmarks"], document["pretriton"]["run_id"]) == ([], "r")
    assert summarize_file(json_path).memory_cases[0].case_id == MIDAS

    noted = {**json.loads(line), "notes": ["memory: 1 foreign process(es) on the GPU"]}
    (folder / "memory.jsonl").write_text(json.dumps(noted) + "\n")
    ended = suite.run(*arguments[:-1], "midas_small_64-b1", "--resume")
    (case,) = summary_of(suite)["cases"]
    assert case["notes"][0] == noted["notes"][0]
    assert f"{MIDAS}: {noted['notes'][0]}" in ended.stdout
    assert summary_of(suite)["memory_cases"] == []


def test_killed_at_any_case_a_run_keeps_what_it_has_and_is_resumed_by_one_process(
    suite: Suite, small_spec: Path
) -> None:
    """The first process is killed after a case, the second after two more, and the third measures the rest."""
    json_path = suite.folder / "bench.json"
    arguments = ("--spec", str(small_spec), "--run-id", "r", "-k", "test_latency", "--dtype", "fp16")
    resume: tuple[str, ...] = ()
    for finished in (1, 3):
        process = suite.start(*arguments, *resume)
        _wait_for_cases(process, suite, finished)
        _stop(psutil.Process(process.pid))
        rows = rows_of(suite)
        with pytest.raises(InputError, match=f"--run-id r: writer=process {process.pid} on "):
            run_shards([], ShardedRun(suite.folder / "out" / "r", (), resume=True), pytest.fail, 80)
        assert rows_of(suite) == rows
        process.kill()
        process.join()
        summary = summary_of(suite)
        assert summary["complete"] is False
        # The summary follows its rows; the kill may fall between the two.
        assert first_rounds(suite).keys() >= by_id(summary).keys()
        assert len(first_rounds(suite).keys() - by_id(summary).keys()) <= 1
        resume = ("--resume",)

    before = first_rounds(suite)
    ended = suite.run(*arguments, "--resume", f"--benchmark-json={json_path}")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    after, summary = first_rounds(suite), summary_of(suite)
    assert (summary["complete"], len(after)) == (True, 4)
    assert before.items() <= after.items(), "finished cases are not measured again"
    assert len(json.loads(json_path.read_text())["benchmarks"]) == 4
    for case in summary["cases"]:
        assert (case["dtype_requested"], case["dtype_used"], case["memory"]["source"]) == ("fp16", "fp32", "in_process")


def _stop(process: psutil.Process) -> None:
    """Stop a process that still ends what it is writing."""
    process.suspend()
    wait_until(lambda: process.status() == psutil.STATUS_STOPPED)


def _wait_for_cases(process: BaseProcess, suite: Suite, count: int) -> None:
    results = suite.folder / "out" / "r" / "results.jsonl"

    def are_there() -> bool:
        assert process.is_alive(), "it has ended by itself"
        return results.exists() and results.read_text().count('"round":0,') >= count

    wait_until(are_there)


def test_runs_saved_by_pytest_benchmark_are_kept_apart_by_device() -> None:
    """Its own folder knows the interpreter and the processor, and neither the GPU nor torch."""
    for storage, expected in (
        ("file://./.benchmarks", "file://./.benchmarks/NVIDIA_H200"),
        ("file:///a/folder/of/mine", "file:///a/folder/of/mine"),
    ):
        config = mock.Mock(option=argparse.Namespace(benchmark_storage=storage))
        _use_storage_of(config, {"gpu": "NVIDIA H200", "cpu": "a CPU"})
        assert config.option.benchmark_storage == expected


# --- bad input ---


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ("-k", "nothing_like_this"),
            "-k nothing_like_this: cases=0, expected part of a case id such as midas_small_64",
        ),
        (("--out", "/proc/nowhere"), "--out /proc/nowhere: folder=No such file or directory"),
        (("--benchmark-json=/proc/nowhere/b.json",), "--benchmark-json /proc/nowhere/b.json: file=No such file"),
    ],
    ids=["selection", "out", "json"],
)
def test_bad_input_ends_with_one_message_and_code_2(
    suite: Suite, small_spec: Path, arguments: tuple[str, ...], says: str
) -> None:
    ended = suite.run("--spec", str(small_spec), *arguments)
    assert ended.returncode == 2, ended.stdout + ended.stderr
    (message,) = [line for line in ended.stderr.splitlines() if line.startswith("ERROR: ")]
    assert says in message
    assert "Traceback" not in ended.stdout + ended.stderr
    assert not (suite.folder / "out").exists()
