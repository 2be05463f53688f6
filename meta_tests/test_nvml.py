"""fixtures.nvml: the GPU that NVML reads is the first one that CUDA may see; products match by whole words."""

from __future__ import annotations

import pynvml
import pytest

from fixtures.nvml import Gpu, is_product

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
def test_without_a_visible_gpu_there_is_none(monkeypatch: pytest.MonkeyPatch, visible: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert Gpu.first_visible() is None


@pytest.mark.parametrize(
    ("wanted", "name", "expected"),
    [
        ("H100", "NVIDIA H100 80GB HBM3", True),
        ("h100 80gb", "NVIDIA H100 80GB HBM3", True),
        ("A100-SXM4", "NVIDIA A100-SXM4-40GB", True),
        ("A10", "NVIDIA A100-SXM4-40GB", False),
        ("H200", "NVIDIA GH200 480GB", False),
        ("L4", "NVIDIA L40S", False),
        ("RTX 4090", "NVIDIA GeForce RTX 4090", True),
    ],
)
def test_product_matches_whole_words_of_a_name(wanted: str, name: str, expected: bool) -> None:
    assert is_product(wanted, name) is expected
