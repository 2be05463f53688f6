"""fixtures.measure.memory: a fresh process for each case, its stages, and the outcome when it dies."""

from __future__ import annotations

import dataclasses
import os
import select
import signal
import warnings
from pathlib import Path
from typing import cast

import pytest

from fixtures.cases import Case
from fixtures.measure import memory
from fixtures.measure.fork_server import fork_server
from fixtures.measure.memory import ProbeRequest, measure_memory
from fixtures.nvml import Gpu
from fixtures.records import MemoryCase
from fixtures.spec import Variant
from fixtures.subject import locate_checkpoint
from fixtures.triton.access import ServerAccess
from fixtures.weights.bundle import Bundle
from meta_tests.loading import CONTENT


def request_for(bundle_root: Path, batch: int = 1, size: int = 128) -> ProbeRequest:
    variant = Variant(name="r", family="raft", model="raft_small", height=size, width=size)
    bundle = Bundle(bundle_root)
    weights = bundle.weights(locate_checkpoint(variant, bundle))
    case = Case(variant, batch, "fp32", "torch")
    return ProbeRequest(case, bundle_root, weights, bundle_root, ServerAccess(), CONTENT, "cpu", offline=True)


def test_cpu_case_has_all_stages(bundle_root: Path) -> None:
    measured = measure_memory(request_for(bundle_root))
    assert (measured.status, measured.error) == ("ok", None)
    assert measured.memory is not None
    assert measured.memory.source == "fresh_process"
    assert list(measured.memory.rss_mb) == ["before", "loaded", "first_call", "steady"]
    assert measured.memory.rss_mb["steady"] > measured.memory.rss_mb["before"]
    assert measured.memory.gpu_used_mb == {}


def test_case_larger_than_host_memory_has_status_oom(bundle_root: Path) -> None:
    measured = measure_memory(request_for(bundle_root, batch=4096, size=4096))
    assert measured.status == "oom", measured.error
    assert measured.memory is None


def test_error_in_the_process_is_reported_with_its_type(bundle_root: Path, tmp_path: Path) -> None:
    request = request_for(bundle_root)
    lost = dataclasses.replace(request, models_root=tmp_path)
    measured = measure_memory(lost)
    assert measured.status == "error"
    assert "InputError" in str(measured.error)


def _kill_itself(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _end_early(*_: object) -> None:
    os._exit(3)


def test_process_killed_by_the_kernel_has_status_oom(bundle_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_read_stages", _kill_itself)
    assert measure_memory(request_for(bundle_root)).status == "oom"
    monkeypatch.setattr(memory, "_read_stages", _end_early)
    ended = measure_memory(request_for(bundle_root))
    assert (ended.status, ended.error) == ("error", "the process ended with code 3")


def _warn(request: ProbeRequest) -> MemoryCase:
    with warnings.catch_warnings(record=True) as caught:
        warnings.warn("a name of this library has changed", UserWarning, stacklevel=1)
    return MemoryCase(case_id=request.case.id, status="ok", notes=tuple(str(one.message) for one in caught))


def test_warning_of_a_library_is_not_shown_again(bundle_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_read_stages", _warn)
    measured = measure_memory(request_for(bundle_root))
    assert (measured.status, measured.notes) == ("ok", ())


def test_process_of_the_memory_pass_ends_with_the_run_that_started_it(bundle_root: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "frame.png"
    os.mkfifo(pipe)  # the process of the memory pass waits for its content
    content = dataclasses.replace(CONTENT, frames=(pipe,))
    request = dataclasses.replace(request_for(bundle_root), content=content)
    # A run with a fork server of its own, which ends with it.
    run = fork_server().Process(target=measure_memory, args=(request,))
    run.start()
    with pipe.open("wb", buffering=0) as writer:  # returns when the other end has been opened
        run.kill()
        run.join()
        other_end = select.poll()
        other_end.register(writer, 0)  # reports only that the other end was closed
        assert other_end.poll(30_000) == [(writer.fileno(), select.POLLERR)]


class _SharedGpu:
    """A GPU whose compute processes are, reading by reading, those of `seen`."""

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
