"""fixtures.parallel.workers: the processes of `--gpus 0,1`, and the GPUs that are refused."""

from __future__ import annotations

import os
import subprocess
import sys

import pynvml
import pytest

from fixtures.errors import InputError
from fixtures.parallel.workers import gpu_workers
from meta_tests.conftest import ROOT


@pytest.fixture
def three_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two H100 and an A100; a handle is the GPU's index."""
    names = ["NVIDIA H100 80GB HBM3", "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB"]
    memory = type("Memory", (), {"total": 80 * 1024**3})
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: len(names))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: index)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetName", lambda handle: names[handle])
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUUID", lambda handle: f"GPU-{handle}{handle}-aa")
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", lambda handle: memory)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCpuAffinity", lambda handle, size: [0b11, *([0] * (size - 1))])
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})


@pytest.mark.usefixtures("three_gpus")
def test_worker_sees_only_its_gpu() -> None:
    workers = gpu_workers("1,0")
    assert [(worker.name, worker.environment["CUDA_VISIBLE_DEVICES"]) for worker in workers] == [
        ("gpu1", "1"),
        ("gpu0", "0"),
    ]
    assert {worker.environment["CUDA_DEVICE_ORDER"] for worker in workers} == {"PCI_BUS_ID"}
    assert {frozenset(worker.cpus or ()) for worker in workers} in ({frozenset({0}), frozenset({1})}, {frozenset()})


@pytest.mark.usefixtures("three_gpus")
@pytest.mark.parametrize(
    ("text", "visible", "message"),
    [
        ("0,x", None, "gpu='x', expected numbers such as 0,1"),
        ("0,", None, "gpu='', expected numbers"),
        ("²", None, "expected numbers"),
        ("1,1", None, "gpu 1=named twice"),
        ("0,3", None, "gpu 3=missing, expected 0 to 2"),
        ("1,2", None, "gpu 1 is NVIDIA H100 80GB HBM3, gpu 2 is NVIDIA A100-SXM4-80GB, expected GPUs of one product"),
        ("0,1", "1,2", "gpu 0=withheld, expected one of CUDA_VISIBLE_DEVICES=1,2"),
        ("0,1", "GPU-11", "gpu 0=withheld"),
    ],
)
def test_unusable_gpus_are_refused(
    monkeypatch: pytest.MonkeyPatch, text: str, visible: str | None, message: str
) -> None:
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(InputError, match=f"--gpus {text}: ") as error:
        gpu_workers(text)
    assert message in str(error.value)


@pytest.mark.usefixtures("three_gpus")
def test_gpu_may_be_visible_by_a_prefix_of_its_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-11,0")
    assert [worker.name for worker in gpu_workers("0,1")] == ["gpu0", "gpu1"]


def test_tool_without_nvml_ends_with_one_message_and_imports_little() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "tools.run_shards", "--gpus", "7"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    messages = [line for line in ended.stderr.splitlines() if not line.startswith("import time:")]
    imported = {line.split("|")[-1].strip() for line in ended.stderr.splitlines() if line.startswith("import time:")}
    assert ended.returncode == 2
    assert len(messages) == 1
    assert messages[0].startswith("ERROR: --gpus 7: ")
    assert not imported & {"torch", "pytest", "ray"}
