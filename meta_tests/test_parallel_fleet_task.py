"""fixtures.parallel.fleet_task: one shard by a pytest of its own, whose files come back as bytes."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest

from fixtures.measure.fork_server import fork_server
from fixtures.parallel import fleet_task
from fixtures.parallel.fleet_task import FleetTask, measure_shard
from fixtures.records import Summary
from meta_tests import stub_pytest
from meta_tests.conftest import SMALL_SPEC, wait_until
from meta_tests.forked import run_forked

ANSWERS_S = 60


def a_task(*arguments: str, models_root: Path | None = None) -> FleetTask:
    root = str(models_root) if models_root else None
    return FleetTask("midas_small_64", "specs/small.yaml", SMALL_SPEC, ("--device", "cpu", *arguments), root, "/here")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with a stub in the place of pytest."""
    folder = tmp_path / "checkout"
    stub_pytest.install(folder, {"results.jsonl": "a row\n"}, {"summary.json": "{}"})
    monkeypatch.setattr(fleet_task, "_CHECKOUT", folder)
    monkeypatch.delenv("DP_MODELS_ROOT", raising=False)
    return folder


def test_files_of_a_shard_come_back_and_its_folder_is_removed(checkout: Path) -> None:
    shard = measure_shard(a_task("-q"))
    assert (shard.variant, shard.exit_code) == ("midas_small_64", 0)
    assert shard.files == {"results.jsonl": b"a row\n", "summary.json": b"{}"}
    assert shard.output == "measured specs/small.yaml\n", "named as by the sender"
    (call,) = stub_pytest.calls_of(checkout)
    assert (call["variants"], call["device"], call["models_root"]) == ("midas_small_64", "cpu", "/here")
    assert call["words"] == ["bench_tests", "-q", "-p", "no:cacheprovider"]
    assert not Path(call["out"]).exists()


def test_models_root_is_the_one_asked_for_then_that_of_the_machine(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DP_MODELS_ROOT", "/of/this/machine")
    for root in (Path("/asked/for"), None):
        measure_shard(a_task(models_root=root))
    roots = [call["models_root"] for call in stub_pytest.calls_of(checkout)]
    assert roots == ["/asked/for", "/of/this/machine"]


def test_refused_shard_says_why(checkout: Path) -> None:
    shard = measure_shard(a_task("--unknown"))
    assert (shard.exit_code, shard.files) == (4, {})
    assert (checkout / "calls").exists() is False


def _measure_in(checkout: Path, task: FleetTask) -> None:
    fleet_task._CHECKOUT = checkout
    measure_shard(task)


def test_pytest_of_a_shard_ends_with_the_process_that_measures_it(checkout: Path) -> None:
    (checkout / "hang").touch()
    process = fork_server().Process(target=_measure_in, args=(checkout, a_task()))
    process.start()
    wait_until(lambda: bool(stub_pytest.calls_of(checkout)), ANSWERS_S)
    (call,) = stub_pytest.calls_of(checkout)
    stub = psutil.Process(call["pid"])
    process.kill()
    process.join()
    assert psutil.wait_procs([stub], timeout=ANSWERS_S)[1] == []


def test_shard_of_the_real_suite_is_measured(bundle_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fixtures.parallel.fleet_task.subprocess.run", run_forked)
    shard = measure_shard(a_task("-k", "test_latency and b1", models_root=bundle_root))
    assert shard.exit_code == 0, shard.output
    summary = Summary.model_validate_json(shard.files["summary.json"])
    assert (summary.complete, [case.id for case in summary.cases]) == (True, ["midas_small_64-b1-fp32-torch"])
    benchmarks = json.loads(shard.files["benchmark.json"])["benchmarks"]
    assert [entry["param"] for entry in benchmarks] == ["midas_small_64-b1-fp32-torch"]
