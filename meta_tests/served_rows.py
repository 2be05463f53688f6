"""Rows of a served branch and of its file in one process, for the tests of the waterfall and the CSV."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from fixtures.records import CaseSummary, Latency, LoadLevel, Served, ServedPath, ServedProtocol, ServerStep


def latency(p50: float, **changes: float | None) -> Latency:
    """Figures with this median."""
    facts: dict[str, float | None] = {
        "p50": p50,
        "p90": p50 + 1,
        "p95": p50 + 2,
        "p99": p50 + 3,
        "mean": p50 + 0.5,
        "std": 0.1,
        "min": p50,
        "max": p50 + 4,
    }
    return Latency.model_validate(facts | changes)


def case(runtime: str, p50: float | None, **changes: Any) -> CaseSummary:
    """A row of a runtime; None: without a time."""
    facts: dict[str, Any] = {
        "id": f"v-b1-fp32-{runtime}",
        "variant": "v",
        "batch": 1,
        "runtime": runtime,
        "device": "cpu",
        "dtype_requested": "fp32",
        "status": "ok",
        "rounds": 10,
        "latency_ms": None if p50 is None else latency(p50),
    }
    return CaseSummary.model_validate(facts | changes)


def step(total_ms: float = 5.0) -> ServerStep:
    """What the server counted of a model."""
    return ServerStep(
        model="v",
        requests=10,
        total_ms=total_ms,
        queue_ms=0.25,
        compute_input_ms=0.5,
        compute_infer_ms=4.0,
        compute_output_ms=0.125,
    )


def path(
    role: Literal["model", "fused", "ensemble"], p50: float, server_ms: float, protocol: ServedProtocol = "http"
) -> ServedPath:
    """One way to ask the server."""
    return ServedPath(role=role, protocol=protocol, rounds=10, latency_ms=latency(p50), server_ms=server_ms)


PATHS = (
    path("ensemble", 9.0, 7.0),
    path("ensemble", 90.0, 70.0, "grpc"),
    path("ensemble", 80.0, 60.0, "grpc+shm"),
    path("model", 6.5, 5.0),
    path("fused", 8.0, 6.0),
)


def served(
    paths: Sequence[ServedPath] = PATHS, levels: Sequence[LoadLevel] = (), protocol: ServedProtocol = "http"
) -> Served:
    """How a branch was served."""
    return Served(server="emulated", protocol=protocol, load_ms=1.0, steps=(), paths=tuple(paths), levels=tuple(levels))


TRITON = case("triton", 12.0, served=served())
TORCH, ORT = case("torch", 3.0), case("onnxruntime", 4.0)
