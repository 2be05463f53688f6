"""The GPU that NVML reads is the one that CUDA is allowed to see, however it is named."""

from __future__ import annotations

import pynvml
import pytest

from fixtures.nvml import Gpu

UUIDS = ("GPU-11112222-0000", "GPU-33334444-0000")


@pytest.fixture(autouse=True)
def _two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handle is the GPU's index, and its product name is its UUID."""

    def by_uuid(uuid: bytes) -> int:
        if uuid.decode() not in UUIDS:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return UUIDS.index(uuid.decode())

    def by_index(index: int) -> int:
        if index >= len(UUIDS):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return index

    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: len(UUIDS))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", by_index)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", by_uuid)
    for reading in ("nvmlDeviceGetUUID", "nvmlDeviceGetName"):
        monkeypatch.setattr(pynvml, reading, lambda handle: UUIDS[handle])


@pytest.mark.parametrize(
    ("visible", "uuid"),
    [
        (None, UUIDS[0]),
        ("1", UUIDS[1]),
        ("1,0", UUIDS[1]),
        (UUIDS[1], UUIDS[1]),
        ("GPU-3333", UUIDS[1]),
        ("GPU-1111,GPU-3333", UUIDS[0]),
    ],
)
def test_the_first_visible_gpu_is_read(monkeypatch: pytest.MonkeyPatch, visible: str | None, uuid: str) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    gpu = Gpu.first_visible()
    assert gpu is not None
    assert gpu.name() == uuid


@pytest.mark.parametrize("visible", ["", "-1", "2", "GPU-5555", "MIG-1111"])
def test_no_visible_gpu_is_none(monkeypatch: pytest.MonkeyPatch, visible: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert Gpu.first_visible() is None
