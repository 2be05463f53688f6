"""Stands in for the process of one worker where only its parent is under test: writes a run without measuring.

`python -m meta_tests.stub_worker --cases IDS --out DIR --run-id NAME --claims DIR …` claims, writes and sums up as a
worker does, with the same code. It waits while the file `--may-begin` allows it no more cases than it has begun. SIGINT
ends it in order, with an incomplete run.

`python -m meta_tests.stub_worker parent FOLDER new|resume ARGUMENTS` is the parent of two such workers, as a process
that may be killed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fixtures.errors import InputError
from fixtures.parallel.claims import Claims, Selection
from fixtures.parallel.run import ShardedRun, run_shards
from fixtures.parallel.workers import Worker
from fixtures.records import CaseFacts, MemoryCase
from fixtures.results.rows import CaseResult, Provenance
from fixtures.results.run_folder import SUMMARY, RunFolder
from fixtures.results.summary import summarize

WORKERS = ("cpu0", "cpu1")
_INTERRUPTED = 2  # pytest's exit code of an interrupted run; as a worker's, bad input only with a message
_ENVIRONMENT = {"device": "cpu", "cpu": "a host's"}


@dataclass(frozen=True)
class StubRun(ShardedRun):
    """A run whose workers are this module."""

    def command(self, worker: Worker) -> list[str]:
        command = super().command(worker)
        return [*command[:2], "meta_tests.stub_worker", *command[3:]]


class StubWorker:
    """A worker that has the cases of its command line to measure."""

    def __init__(self, given: argparse.Namespace) -> None:
        self._ids: tuple[str, ...] = tuple(given.cases.split(","))
        self._may_begin: Path | None = given.may_begin
        self._name: str = given.run_id
        self._claims = Claims(Path(given.claims), given.run_id)
        self._claims.select(Selection(memory=self._ids, latency=self._ids))
        self._folder = RunFolder.create(Path(given.out), given.run_id)
        self._found: dict[str, CaseResult] = {}

    def measure(self) -> None:
        """Take every case that no other worker has taken, and that the run does not hold already."""
        shared = RunFolder(self._claims.folder.parent)
        before = {result.facts.id: result for result in shared.read()[0]} if (shared.path / SUMMARY).exists() else {}
        for case_id in self._ids:
            if self._claims.claim("test_latency", case_id) != self._name:
                continue
            if case_id in before:
                self._found[case_id] = before[case_id]
                continue
            self._wait_until_allowed()
            self._folder.append_memory(MemoryCase(case_id=case_id, status="ok"))
            self._found[case_id] = CaseResult(_facts(case_id), (time.monotonic(), 1.0))
            provenance = Provenance(self._name, "owner", "stage", dict(_ENVIRONMENT), "1", None, None)
            self._folder.append(self._found[case_id], provenance)
            self.summarize(complete=False)

    def _wait_until_allowed(self) -> None:
        while self._may_begin and len(self._found) >= int(self._may_begin.read_text()):
            time.sleep(0.01)

    def summarize(self, *, complete: bool) -> None:
        """Write the summary of what has been measured so far."""
        variants: dict[str, Any] = {case_id.split("-b")[0]: {} for case_id in self._ids}
        run = {"dtype": "fp32", "protocol": {}, "content_digests": [], "variants": variants}
        environment = dict(_ENVIRONMENT)
        self._folder.write_summary(
            summarize(self._found.values(), run_id=self._name, complete=complete, environment=environment, run=run)
        )

    def write_json(self, path: Path) -> None:
        """Write what stands for pytest-benchmark's JSON."""
        benchmarks = [
            {"param": case_id, "stats": {"data": list(result.rounds_ms)}} for case_id, result in self._found.items()
        ]
        path.write_text(json.dumps({"benchmarks": benchmarks}))


def main() -> int:
    """Be a parent or a worker, as the command line says."""
    if sys.argv[1] == "parent":
        return _parent(*sys.argv[2:])
    parser = argparse.ArgumentParser()
    for option in ("--cases", "--out", "--run-id", "--claims", "--says"):
        parser.add_argument(option)
    parser.add_argument("--may-begin", type=Path)
    parser.add_argument("--benchmark-json", type=Path)
    parser.add_argument("--benchmark-quiet", action="store_true")
    given = parser.parse_args()
    if given.says:
        sys.stderr.write(f"{given.says}\n")
        return 2
    worker = StubWorker(given)
    try:
        worker.measure()
    except KeyboardInterrupt:
        worker.summarize(complete=False)
        return _INTERRUPTED
    worker.summarize(complete=True)
    worker.write_json(given.benchmark_json)
    return 0


def _parent(folder: str, resume: str, *arguments: str) -> int:
    workers = [Worker(name, "a CPU") for name in WORKERS]
    run = StubRun(Path(folder), arguments, resume == "resume", Path(folder).parents[1] / "b.json")
    try:
        return run_shards(workers, run, _report, 120)
    except InputError as error:
        sys.stderr.write(f"ERROR: {error}\n")
        return 2


def _report(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _facts(case_id: str) -> CaseFacts:
    variant, batch = case_id.split("-b")
    return CaseFacts(id=case_id, variant=variant, batch=int(batch), runtime="torch", device="cpu", status="ok")


if __name__ == "__main__":
    sys.exit(main())
