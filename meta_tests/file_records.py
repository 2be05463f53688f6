"""Manifest entries of files that have passed their gate, for tests that export nothing."""

from __future__ import annotations

from typing import Any

from fixtures.records import Dtype, FileRecord, ParityRecord, Provider, TuningRecord, WeightsRecord

PASSED = ParityRecord(provider="cpu", dtype="fp32", passed=True, inputs=())


def record(sha256: str = "0" * 64, **changes: Any) -> FileRecord:
    """An entry of a file of MiDaS_small.

    Args:
        changes: fields with other values.
    """
    facts: dict[str, Any] = {
        "sha256": sha256,
        "size_bytes": 7,
        "variant": "v",
        "family": "midas",
        "model": "MiDaS_small",
        "height": 64,
        "width": 96,
        "batch": 1,
        "precision": "fp32",
        "weights": WeightsRecord(sha256="1" * 64, synthetic=True),
        "inputs": (),
        "outputs": (),
        "opsets": {"": 18},
        "ir_version": 10,
        "triton": "24.08",
        "producers": {"torch": "2"},
        "parity": (PASSED,),
        "placement": None,
        "seconds": 1.0,
    }
    return FileRecord(**facts | changes)


def with_tuning(
    tuned: FileRecord, options: dict[str, str], provider: Provider, dtype: Dtype = "fp32", **changes: Any
) -> FileRecord:
    """The same entry of a file that was tuned to these options on some device, for Triton 24.12."""
    facts: dict[str, Any] = {
        "provider": provider,
        "dtype": dtype,
        "options": options,
        "device": "NVIDIA H200",
        "driver": "580.1",
        "onnxruntime": "1.20.1",
        "triton": "24.12",
        "candidates": (),
        "parity": None,
    }
    return tuned.model_copy(update={"tunings": (*tuned.tunings, TuningRecord(**facts | changes))})
