"""fixtures.parallel.run: several workers make one run, which survives the death of its parent or of a worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from fixtures.cases import cases_of
from fixtures.errors import InputError
from fixtures.files import write_atomically
from fixtures.parallel.merge import read_part
from fixtures.parallel.run import ShardedRun, run_shards
from fixtures.parallel.workers import Worker
from fixtures.results.reading import read_run, summarize_file
from fixtures.results.run_lock import only_writer
from fixtures.spec import load_spec
from meta_tests.conftest import ROOT, Suite, children_with, environment, wait_until
from meta_tests.forked import ForkedPython

IDS = tuple(f"{variant}-b{batch}" for variant in "abc" for batch in (1, 2, 4, 8))
STUB_ANSWERS_S = 30


@dataclass(frozen=True)
class Parent:
    """The parent of two stub workers, as a process, and the folder of their run."""

    folder: Path

    def allow(self, cases: int) -> tuple[str, ...]:
        """Allow each worker to begin so many cases, the ones before included. Returns the arguments to start with."""
        write_atomically(self.allowed, str(cases))
        return ("--may-begin", str(self.allowed))

    @property
    def allowed(self) -> Path:
        """The file that says how many cases a worker may begin."""
        return self.folder.parents[1] / "allowed"

    def start(self, state: str, *arguments: str) -> subprocess.Popen[str]:
        """Begin a run (`new`) or go on with it (`resume`)."""
        command = [sys.executable, "-m", "meta_tests.stub_worker", "parent", str(self.folder), state, *arguments]
        return subprocess.Popen(
            command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def finish(self, state: str, *arguments: str) -> tuple[int, str]:
        """Exit code, and what was said."""
        process = self.start(state, *arguments)
        said = process.communicate()[0]
        return process.returncode, said

    def finished(self) -> dict[str, float]:
        """Case → its first round, of every whole case on disk."""
        found: dict[str, float] = {}
        for folder in (self.folder, *self.folder.glob("shards/*/")):
            if part := read_part(folder.name, folder):
                found |= {result.facts.id: result.rounds_ms[0] for result in part.results}
        return found

    def wait_for(self, process: subprocess.Popen[str], cases: int) -> None:
        """Until so many cases are on disk."""
        wait_until(lambda: process.poll() is not None or len(self.finished()) >= cases, STUB_ANSWERS_S)
        assert process.poll() is None, process.communicate()[0]


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return children_with(process, "--claims")


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[Parent]:
    yield Parent(tmp_path / "out" / "r")
    for process in psutil.process_iter(["cmdline"]):
        assert str(tmp_path) not in " ".join(process.info["cmdline"] or ()), "no process is left behind"


SELECTED = ("--cases", ",".join(IDS))  # arguments of stub workers that measure all cases


def test_two_workers_make_one_run_in_the_order_of_the_selection(parent: Parent) -> None:
    code, said = parent.finish("new", *SELECTED)
    assert code == 0, said
    summary = read_run(parent.folder)
    assert (summary.complete, summary.run_id, summary.notes) == (True, "r", ())
    assert tuple(case.id for case in summary.cases) == IDS
    rows = [json.loads(line) for line in (parent.folder / "results.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * len(IDS), "each case once"
    file = parent.folder.parents[1] / "b.json"
    document = json.loads(file.read_text())
    assert [entry["param"] for entry in document["benchmarks"]] == list(IDS)
    assert (document["pretriton"]["run_id"], document["pretriton"]["complete"]) == ("r", True)
    assert f"wrote {file}" in said


@pytest.mark.parametrize("each", [1, 4])
def test_run_whose_parent_was_killed_is_resumed_without_measuring_anything_twice(parent: Parent, each: int) -> None:
    process = parent.start("new", *SELECTED, *parent.allow(each))
    parent.wait_for(process, 2 * each)
    workers = workers_of(process)
    assert len(workers) == 2
    process.kill()
    process.communicate()
    assert psutil.wait_procs(workers, timeout=STUB_ANSWERS_S)[1] == [], "workers end with their parent"
    before = parent.finished()
    assert len(before) == 2 * each

    code, said = parent.finish("resume", *SELECTED)
    assert code == 0, said
    assert before.items() <= parent.finished().items()
    summary = read_run(parent.folder)
    assert (summary.complete, tuple(case.id for case in summary.cases)) == (True, IDS)
    document = json.loads((parent.folder.parents[1] / "b.json").read_text())
    assert [entry["param"] for entry in document["benchmarks"]] == list(IDS)


def test_killed_worker_and_interrupt_leave_an_incomplete_run_that_names_what_is_missing(parent: Parent) -> None:
    process = parent.start("new", *SELECTED, *parent.allow(1))
    parent.wait_for(process, 2)
    workers_of(process)[0].kill()
    parent.allow(2)
    parent.wait_for(process, 3)  # the other worker goes on
    process.send_signal(signal.SIGINT)
    said = process.communicate()[0]
    assert process.returncode == 130, said
    assert " was ended by SIGKILL" in said
    assert "interrupted by SIGINT; --resume goes on" in said
    summary = read_run(parent.folder)
    finished = parent.finished()
    assert summary.complete is False
    assert {case.id for case in summary.cases} == finished.keys()
    assert {f"missing: {case_id}" for case_id in IDS if case_id not in finished} <= set(summary.notes)

    assert parent.finish("resume", *SELECTED)[0] == 0
    assert finished.items() <= parent.finished().items(), "finished cases are not measured again"
    assert read_run(parent.folder).complete is True


def test_killed_worker_makes_the_exit_code_1_and_the_run_incomplete(parent: Parent) -> None:
    process = parent.start("new", *SELECTED, *parent.allow(1))
    parent.wait_for(process, 2)
    workers_of(process)[0].kill()
    parent.allow(len(IDS))
    said = process.communicate()[0]
    assert process.returncode == 1, said
    assert read_run(parent.folder).complete is False


def test_bad_input_of_all_workers_is_said_once_and_leaves_no_run(parent: Parent) -> None:
    message = "ERROR: --variants x: variant='x', expected names of small: midas. Check it."
    code, said = parent.finish("new", "--says", message)
    assert (code, said) == (2, f"{message}\n")
    assert not parent.folder.exists()


def test_runs_that_are_missing_exist_or_have_a_writer_are_refused(tmp_path: Path) -> None:
    run = ShardedRun(tmp_path / "r", ())
    with pytest.raises(InputError, match="run=missing"):
        run_shards([], ShardedRun(run.folder, (), resume=True), print, 120)
    run.folder.mkdir()
    with pytest.raises(InputError, match="expected a run that is new"):
        run_shards([], run, print, 120)
    with only_writer(run.folder), pytest.raises(InputError, match="writer="):
        run_shards([], ShardedRun(run.folder, (), resume=True), print, 120)


# Six cases, of which a CPU measures one in about a tenth of a second.
SPEC = """\
schema_version: 1
name: small
dtype: fp32
runtimes: [torch]
batches: [1, 2, 3]
protocol: {cpu_budget_s: 0.1, cpu_warmup_s: 0}
variants:
  - {name: midas_small_32, family: midas, model: MiDaS_small, height: 32, width: 32}
  - {name: midas_small_64, family: midas, model: MiDaS_small, height: 64, width: 64}
"""


def test_run_of_real_workers_is_interrupted_and_resumed_by_one_process(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fixtures.parallel.worker_pool.subprocess.Popen", ForkedPython)
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC)
    ids = [case.id for case in cases_of(load_spec(spec))]
    measured = ("--spec", str(spec), "-k", "test_latency")
    parent = Parent(suite.folder / "out" / "r")
    interrupted = threading.Event()

    def interrupt_after_first_case(_line: str) -> None:
        if parent.finished() and not interrupted.is_set():
            interrupted.set()
            os.kill(os.getpid(), signal.SIGINT)

    run = ShardedRun(parent.folder, tuple(suite.arguments(*measured, "-v")))
    workers = [Worker(name, "a CPU", {"OMP_NUM_THREADS": "1"}) for name in ("cpu0", "cpu1")]
    assert run_shards(workers, run, interrupt_after_first_case, 120) == 130
    before = parent.finished()
    assert 1 <= len(before) < len(ids)
    assert {f"missing: {case_id}" for case_id in ids if case_id not in before} <= set(read_run(parent.folder).notes)

    ended = suite.run(*measured, "--run-id", "r", "--resume", f"--benchmark-json={tmp_path / 'b.json'}")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert before.items() <= parent.finished().items(), "finished cases are not measured again"
    summary = read_run(parent.folder)
    assert (summary.complete, sorted(case.id for case in summary.cases)) == (True, sorted(ids))
    assert summarize_file(tmp_path / "b.json").table == summary.table
