"""The memory pass: a fresh process, its stages, and what becomes of one that dies."""

from __future__ import annotations

import dataclasses
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest
import torch

from fixtures.cases import Case
from fixtures.measure import memory
from fixtures.measure.memory import ProbeRequest, measure_memory
from fixtures.measure.out_of_memory import is_out_of_memory
from fixtures.nvml import Gpu
from fixtures.spec import Variant
from fixtures.subject import locate_checkpoint
from fixtures.triton.access import ServerAccess
from fixtures.weights.bundle import Bundle
from meta_tests.conftest import ROOT
from meta_tests.loading import CONTENT


def request_for(bundle_root: Path, batch: int = 1, size: int = 128) -> ProbeRequest:
    variant = Variant(name="r", family="raft", model="raft_small", height=size, width=size)
    bundle = Bundle(bundle_root)
    weights = bundle.weights(locate_checkpoint(variant, bundle))
    case = Case(variant, batch, "fp32", "torch")
    return ProbeRequest(case, bundle_root, weights, bundle_root, ServerAccess(), CONTENT, "cpu", offline=True)


def test_stages_of_a_cpu_case(bundle_root: Path) -> None:
    measured = measure_memory(request_for(bundle_root))
    assert (measured.status, measured.error) == ("ok", None)
    assert measured.memory is not None
    assert measured.memory.source == "fresh_process"
    assert list(measured.memory.rss_mb) == ["before", "loaded", "first_call", "steady"]
    assert measured.memory.rss_mb["steady"] > measured.memory.rss_mb["before"]
    assert measured.memory.gpu_used_mb == {}


def test_memory_that_no_machine_has_is_a_result(bundle_root: Path) -> None:
    measured = measure_memory(request_for(bundle_root, batch=4096, size=4096))
    assert measured.status == "oom", measured.error
    assert measured.memory is None


def test_an_error_in_the_process_comes_back_in_words(bundle_root: Path, tmp_path: Path) -> None:
    request = request_for(bundle_root)
    lost = dataclasses.replace(request, models_root=tmp_path)
    measured = measure_memory(lost)
    assert measured.status == "error"
    assert "InputError" in str(measured.error)


def _kill_itself(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _end_early(*_: object) -> None:
    os._exit(3)


def test_a_process_that_the_kernel_kills_was_out_of_memory(bundle_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_probe", _kill_itself)
    assert measure_memory(request_for(bundle_root)).status == "oom"
    monkeypatch.setattr(memory, "_probe", _end_early)
    ended = measure_memory(request_for(bundle_root))
    assert (ended.status, ended.error) == ("error", "the process of the memory pass ended with code 3")


def test_a_process_does_not_outlive_the_run_that_started_it(bundle_root: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "frame.png"
    os.mkfifo(pipe)  # the probe waits for its content
    program = (
        "from dataclasses import replace; from pathlib import Path; from meta_tests.test_measure_memory import *\n"
        f"content = replace(CONTENT, frames=(Path({str(pipe)!r}),))\n"
        f"measure_memory(replace(request_for(Path({str(bundle_root)!r})), content=content))"
    )
    run = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
    with pipe.open("wb", buffering=0) as writer:  # the probe has opened the other end when this returns
        run.kill()
        run.wait()
        other_end = select.poll()
        other_end.register(writer, 0)  # reports only that nobody reads any more
        assert other_end.poll(30_000) == [(writer.fileno(), select.POLLERR)]


class _SharedGpu:
    """A GPU on which our process appears with its context, and another one comes and goes."""

    def __init__(self, *seen: set[int]) -> None:
        self._seen = iter(seen)

    def used_mb(self) -> float:
        return 100.0

    def compute_processes(self) -> frozenset[int]:
        return frozenset(next(self._seen))


@pytest.mark.parametrize(
    ("seen", "notes"),
    [
        (({7}, {7, 1}, {7, 1}), ("memory: 1 foreign process(es) on the GPU",)),
        ((set(), {1}, {1, 8, 9}), ("memory: 2 foreign process(es) on the GPU",)),
        ((set(), {1}, {1}), ()),
    ],
)
def test_foreign_processes_during_the_stages_are_noted(seen: tuple[set[int], ...], notes: tuple[str, ...]) -> None:
    stages = memory._Stages(cast(Gpu, _SharedGpu(*seen)))
    for stage in ("before", "context", "steady"):
        stages.read(stage)
    assert stages.notes() == notes


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),
    ],
    ids=str,
)
def test_out_of_memory_is_told_from_other_errors(error: Exception, is_memory: bool) -> None:
    assert is_out_of_memory(error) is is_memory
    follow_up = RuntimeError("capture failed")
    follow_up.__context__ = error
    assert is_out_of_memory(follow_up) is is_memory
