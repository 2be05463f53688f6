"""Manifest entries of files that have passed their gate, for tests that export nothing."""

from __future__ import annotations

from typing import Any

from fixtures.records import FileRecord, ParityRecord, WeightsRecord

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
