"""fixtures.parallel.arguments: which of pytest's arguments are the run's, and which several workers cannot share."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from fixtures.errors import InputError
from fixtures.parallel.arguments import fleet_run, sharded_run
from fixtures.parallel.run import ShardedRun
from fixtures.parallel.workers import Worker
from meta_tests.conftest import ROOT
from tools import run_shards as tool


def _run_of(*arguments: str, before: Sequence[str] = ()) -> ShardedRun:
    given = tool.parser().parse_args(["--gpus", "0", *before])
    return sharded_run(given, arguments)


def test_run_options_may_stand_before_or_among_pytest_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = ("--run-id", "x", "--benchmark-json", "b.json")
    run = _run_of("bench_tests", "-k", "a and b", "--out", "o", "--resume", "--perf-csv=p.csv", before=before)
    assert (run.folder, run.resume) == (tmp_path / "o" / "x", True)
    assert (run.benchmark_json, run.perf_csv) == (tmp_path / "b.json", tmp_path / "p.csv")
    assert run.arguments == ("bench_tests", "-k", "a and b", "--device", "cuda")
    later = _run_of("--run-id=y", "--benchmark-json", "c.json", before=before)
    assert (later.folder.name, later.benchmark_json) == ("y", tmp_path / "c.json")
    assert later.arguments == ("bench_tests", "--device", "cuda")
    command = run.command(Worker("gpu1", "H100"))
    assert command[-2:] == ["--perf-csv", str(tmp_path / "o/x/shards/gpu1.csv")]
    assert ["--out", str(tmp_path / "o/x/shards"), "--run-id", "gpu1"] == command[8:12]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--claims", "c"), "--claims: "),
        (("--collect-only",), "Run pytest itself."),
        (("--benchmark-save=x",), "Use --benchmark-json."),
        (("--device", "cpu"), "--device cpu: GPUs=named, expected cuda"),
        (("--run-id", "../x"), "expected a plain folder name"),
        (("--run-id",), "expected options with their values"),
        (("--benchmark-json", "/proc/nowhere/b.json"), "--benchmark-json /proc/nowhere/b.json: "),
    ],
)
def test_options_of_a_single_process_are_refused(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError) as error:
        _run_of(*arguments)
    assert message in str(error.value)


def test_make_bench_with_gpus_runs_the_shards_tool() -> None:
    command_of = {}
    for gpus in ("GPUS=", "GPUS=0,1"):
        command = ["make", "--no-print-directory", "--dry-run", "bench", gpus, "ARGS=-k midas", "DP_MODELS_ROOT=root"]
        lines = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
        command_of[gpus] = lines[-1]
    arguments = ' bench_tests --models-root "root" --benchmark-json=out/benchmark.json -k midas'
    assert command_of["GPUS="].endswith(f"python -m pytest{arguments}")
    assert command_of["GPUS=0,1"].endswith(f'python -m tools.run_shards --gpus "0,1" --{arguments}')


def test_fleet_refuses_its_own_options_among_pytest_arguments() -> None:
    given = tool.parser().parse_args(["--gpus", "0"])
    assert fleet_run(given, ["--device", "cpu", "-x"])[1] is True
    with pytest.raises(InputError, match="--variants: place=after --"):
        fleet_run(given, ["--variants=a"])
