"""Rows of finished cases, as a GPU would have measured them."""

from __future__ import annotations

from typing import Any

from fixtures.records import CaseFacts, Memory, WeightsRecord
from fixtures.results.rows import CaseResult, Provenance, rows_of

PROVENANCE = Provenance("run", "vision", "pretriton", {"device": "cuda", "gpu": "X"}, "0.1.0", "abc", False)


def case(variant: str = "midas_small_256", batch: int = 1, rounds: int = 5, **facts: Any) -> CaseResult:
    """A case of MiDaS in fp16 by torch, with rounds of 1.0, 1.1, … ms; `facts` are fields of its record."""
    known: dict[str, Any] = {
        "id": f"{variant}-b{batch}-fp16-torch",
        "variant": variant,
        "batch": batch,
        "runtime": "torch",
        "device": "cuda",
        "dtype_requested": "fp16",
        "dtype_used": "fp16",
        "status": "ok",
        "unit": "frame",
        "component_id": "visual.core_depth_midas",
        "weights": WeightsRecord(sha256="0" * 64, synthetic=True, uri="a.pt"),
        "memory": Memory(
            source="fresh_process",
            gpu_used_mb={"before": 100, "context": 600, "steady": 900},
            rss_mb={"before": 300, "steady": 700},
        ),
    }
    return CaseResult(CaseFacts(**{**known, **facts}), tuple(1.0 + index / 10 for index in range(rounds)))


def lines(*results: CaseResult) -> list[str]:
    """Their lines in results.jsonl."""
    return [row.model_dump_json() for result in results for row in rows_of(result, PROVENANCE)]
