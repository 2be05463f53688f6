"""Which hop adds how much from torch to a client, and a server under load in the columns of perf_analyzer."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any, Literal

import pytest

from fixtures.records import CaseSummary, Latency, LoadLevel, Served, ServedPath, ServedProtocol, ServerStep
from fixtures.results.latency_waterfall import sentence, waterfalls
from fixtures.results.percentiles import MIN_ROUNDS_FOR_P99, latency_of
from fixtures.results.perf_csv import COLUMNS, perf_csv

# The example of perf_analyzer's documentation on its option -f.
PERF_ANALYZER = (
    "Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,"
    "Server Compute Infer,Server Compute Output,Client Recv,p50 latency,p90 latency,p95 latency,p99 latency"
)


def latency(p50: float, **changes: float | None) -> Latency:
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
    return Served(server="emulated", protocol=protocol, load_ms=1.0, steps=(), paths=tuple(paths), levels=tuple(levels))


TRITON = case("triton", 12.0, served=served())
TORCH, ORT = case("torch", 3.0), case("onnxruntime", 4.0)


def hops(*cases: CaseSummary) -> dict[str, tuple[float, float]]:
    (waterfall,) = waterfalls(cases)
    return {hop.hop: (hop.ms, hop.added_ms) for hop in waterfall.hops}


def test_each_hop_adds_to_the_one_before() -> None:
    assert hops(TORCH, ORT, TRITON) == {
        "torch": (3.0, 0.0),
        "ONNX Runtime": (4.0, 1.0),
        "Triton, model alone": (5.0, 1.0),
        "Triton, ensemble": (7.0, 2.0),
        "client, http": (9.0, 2.0),
    }


def test_the_order_of_the_cases_does_not_count() -> None:
    assert waterfalls([TRITON, ORT, TORCH]) == waterfalls([TORCH, ORT, TRITON])


def test_a_waterfall_may_step_down() -> None:
    assert hops(case("torch", 6.0), ORT, TRITON)["ONNX Runtime"] == (4.0, -2.0)


def test_without_torch_the_waterfall_begins_at_onnx_runtime() -> None:
    assert next(iter(hops(ORT, TRITON).items())) == ("ONNX Runtime", (4.0, 0.0))
    assert "torch" not in hops(case("torch", None, status="error", error="no"), ORT, TRITON)


@pytest.mark.parametrize("others", [(TORCH,), (TORCH, case("onnxruntime", None, status="oom"))])
def test_without_onnx_runtime_there_is_no_tax(others: tuple[CaseSummary, ...]) -> None:
    assert hops(*others, TRITON)["Triton, model alone"] == (5.0, 2.0)
    (waterfall,) = waterfalls([*others, TRITON])
    assert waterfall.serving_tax_percent is None
    assert "tax" not in sentence(waterfall)


def test_the_tax_is_what_the_client_waits_beyond_onnx_runtime() -> None:
    (waterfall,) = waterfalls([TORCH, ORT, TRITON])
    assert waterfall.serving_tax_percent == pytest.approx((9.0 / 4.0 - 1) * 100)
    assert (waterfall.case_id, waterfall.server) == (TRITON.id, "emulated")
    assert sentence(waterfall) == (
        "torch 3.00 → ONNX Runtime 4.00 → Triton, model alone 5.00 → Triton, ensemble 7.00 → client, http 9.00 ms "
        "(emulated server); serving tax 125% over ONNX Runtime"
    )


@pytest.mark.parametrize("changes", [{"batch": 2}, {"variant": "w"}, {"dtype_requested": "fp16"}], ids=str)
def test_another_branch_is_not_mixed_in(changes: dict[str, Any]) -> None:
    others = [case("torch", 1.0, **changes), case("onnxruntime", 2.0, **changes)]
    assert list(hops(*others, TRITON)) == ["Triton, model alone", "Triton, ensemble", "client, http"]
    assert hops(*others, TORCH, ORT, TRITON) == hops(TORCH, ORT, TRITON)


@pytest.mark.parametrize("runtime", ["torch_graph", "torch_compile"])
def test_another_runtime_is_not_mixed_in(runtime: str) -> None:
    assert hops(case(runtime, 1.0), ORT, TRITON) == hops(ORT, TRITON)


def test_the_client_is_the_one_of_the_bench_s_protocol() -> None:
    both = (*PATHS, path("model", 65.0, 50.0, "grpc"))
    over_grpc = case("triton", 12.0, served=served(both, protocol="grpc"))
    assert hops(over_grpc) == {
        "Triton, model alone": (50.0, 0.0),
        "Triton, ensemble": (70.0, 20.0),
        "client, grpc": (90.0, 20.0),
    }


def test_without_ways_the_client_s_own_rounds_count() -> None:
    assert hops(ORT, case("triton", 12.0, served=served(()))) == {
        "ONNX Runtime": (4.0, 0.0),
        "client, http": (12.0, 8.0),
    }


def test_each_served_case_has_its_own_waterfall() -> None:
    second = case("triton", 20.0, id="second", batch=2, served=served(()))
    assert [one.case_id for one in waterfalls([TRITON, TORCH, second, ORT])] == [TRITON.id, "second"]


def test_what_was_not_served_or_has_no_time_has_no_waterfall() -> None:
    assert waterfalls([TORCH, ORT]) == ()
    assert waterfalls([TORCH, case("triton", None, status="error", served=served())]) == ()


def level(concurrency: int = 4, **changes: Any) -> LoadLevel:
    facts: dict[str, Any] = {
        "concurrency": concurrency,
        "requests": 40,
        "requests_per_s": 100.0,
        "latency_ms": latency(8.0),
        "ensemble": step(),
    }
    return LoadLevel.model_validate(facts | changes)


def under_load(*levels: LoadLevel, **changes: Any) -> CaseSummary:
    return case("triton", 12.0, served=served(levels=levels), **changes)


def lines(*cases: CaseSummary) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(perf_csv(cases))))


def test_columns_begin_with_those_of_perf_analyzer() -> None:
    header = perf_csv([under_load(level())]).splitlines()[0]
    assert header == f"{PERF_ANALYZER},Case,Items/Second"
    assert header == ",".join(COLUMNS)


def test_times_are_in_microseconds() -> None:
    (line,) = lines(under_load(level()))
    assert line == {
        "Concurrency": "4",
        "Inferences/Second": "100.00",
        "Client Send": "0",
        "Network+Server Send/Recv": "3500",  # of a mean of 8.5 ms the server had 5
        "Server Queue": "250",
        "Server Compute Input": "500",
        "Server Compute Infer": "4000",
        "Server Compute Output": "125",
        "Client Recv": "0",
        "p50 latency": "8000",
        "p90 latency": "9000",
        "p95 latency": "10000",
        "p99 latency": "11000",
        "Case": "v-b1-fp32-triton",
        "Items/Second": "100.00",
    }


def test_a_server_that_took_longer_than_its_clients_saw_leaves_nothing_to_the_network() -> None:
    (line,) = lines(under_load(level(ensemble=step(total_ms=99.0))))
    assert line["Network+Server Send/Recv"] == "0"


@pytest.mark.parametrize(("requests", "p99"), [(MIN_ROUNDS_FOR_P99 - 1, ""), (MIN_ROUNDS_FOR_P99, "2000")])
def test_p99_is_empty_below_what_can_establish_it(requests: int, p99: str) -> None:
    assert MIN_ROUNDS_FOR_P99 == 662
    (line,) = lines(under_load(level(requests=requests, latency_ms=latency_of([2.0] * requests))))
    assert line["p99 latency"] == p99
    assert line["p95 latency"] == "2000"


@pytest.mark.parametrize("batch", [1, 8])
def test_items_are_requests_times_the_batch(batch: int) -> None:
    (line,) = lines(under_load(level(), batch=batch))
    assert (line["Inferences/Second"], line["Items/Second"]) == ("100.00", f"{100 * batch}.00")


def test_each_level_has_a_line_in_its_order() -> None:
    found = lines(TORCH, under_load(level(1), level(2)), under_load(level(8), id="another, with a comma"))
    assert [(line["Case"], line["Concurrency"]) for line in found] == [
        ("v-b1-fp32-triton", "1"),
        ("v-b1-fp32-triton", "2"),
        ("another, with a comma", "8"),
    ]


@pytest.mark.parametrize("cases", [[], [TORCH, ORT], [TRITON]], ids=["none", "not served", "no levels"])
def test_without_levels_there_is_a_header_alone(cases: list[CaseSummary]) -> None:
    assert perf_csv(cases) == f"{PERF_ANALYZER},Case,Items/Second\n"
