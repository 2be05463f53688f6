"""A run on two GPUs has the rows of a run on one, in little more than half of its time; also of the stored runs."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pynvml
import pytest

from fixtures.comparison.ratio import ASSUMED_SPREAD, ProcessMedian
from fixtures.measure.retries import is_slowed
from fixtures.records import Summary
from fixtures.results.reading import read_run
from meta_tests.conftest import ROOT, environment
from tools.make_bundle import make_bundle

STORED = Path(__file__).parent / "data" / "h100_two_gpus"


@pytest.mark.gpu
def test_run_on_two_gpus_equals_that_on_one_and_takes_less_time(tmp_path: Path) -> None:
    if len(_gpus()) < 2:
        pytest.skip("needs two GPUs of one product, and there is one")
    models_root, out = tmp_path / "bundle", tmp_path / "out"
    make_bundle(models_root, seed=0, models=["MiDaS_small", "DPT_Hybrid", "raft_small"])
    arguments = ["bench_tests", "-p", "no:cacheprovider", "--spec", "specs/pretriton_gpu.yaml", "-k", "not compile"]
    arguments += ["--models-root", str(models_root), "--out", str(out)]
    seconds = []
    for run_id, how in (("one", ["pytest"]), ("two", ["tools.run_shards", "--gpus", "0,1", "--"])):
        started = time.monotonic()
        command = [sys.executable, "-m", *how, *arguments, "--run-id", run_id]
        ended = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
        seconds.append(time.monotonic() - started)
        assert ended.returncode == 0, ended.stdout + ended.stderr
    one, two = (read_run(out / name) for name in ("one", "two"))
    graphs = {case.id for case in one.cases if case.runtime == "torch-graph"}
    assert len(graphs) == 12
    assert graphs <= same_table(one, two), "no graph row waits for its host"
    assert not any("foreign process" in note for case in two.cases for note in case.notes)
    assert seconds[1] <= 0.6 * seconds[0]


def test_stored_run_on_two_gpus_equals_that_on_one() -> None:
    one, two = (read_run(STORED / f"{name}.json") for name in ("one", "two"))
    assert len(same_table(one, two)) == 13


def same_table(one: Summary, two: Summary) -> set[str]:
    """Hold two complete runs to the same cases, and to p50 within 3% where the GPU alone decides it.

    Rows that are launch-bound, whose rounds spread, or whose host was slowed are as long as the host makes them.

    Returns:
        Ids of the cases that the GPU alone decides.
    """
    assert one.complete
    assert two.complete
    assert [case.id for case in one.cases] == [case.id for case in two.cases]
    times: dict[str, list[float]] = {}
    for case in (*one.cases, *two.cases):
        assert case.latency_ms is not None, case.error
        median = ProcessMedian.of(case.latency_ms, case.rounds)
        is_disturbed = median.assumed_spread > ASSUMED_SPREAD or is_slowed(case.host_slowdown)
        if not case.launch_bound and not is_disturbed:
            times.setdefault(case.id, []).append(median.p50_ms)
    steady = {case_id: pair for case_id, pair in times.items() if len(pair) == 2}
    apart = {case_id: second / first for case_id, (first, second) in steady.items()}
    assert apart == pytest.approx(dict.fromkeys(apart, 1), rel=0.03)
    return set(apart)


def _gpus() -> list[Any]:
    """The handles of GPUs that are the same product as the first."""
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []
    return [h for h in handles if pynvml.nvmlDeviceGetName(h) == pynvml.nvmlDeviceGetName(handles[0])]
