"""The latency waterfall from torch to a client: which hop adds how much."""

from __future__ import annotations

from typing import Any

import pytest

from fixtures.records import CaseSummary
from fixtures.results.latency_waterfall import sentence, waterfalls
from meta_tests.served_rows import ORT, PATHS, TORCH, TRITON, case, latency, path, served


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


def test_order_of_cases_does_not_change_the_waterfall() -> None:
    assert waterfalls([TRITON, ORT, TORCH]) == waterfalls([TORCH, ORT, TRITON])


def test_hop_that_is_faster_adds_a_negative_time() -> None:
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


def test_tax_is_the_time_of_the_client_over_onnx_runtime() -> None:
    (waterfall,) = waterfalls([TORCH, ORT, TRITON])
    assert waterfall.serving_tax_percent == pytest.approx((9.0 / 4.0 - 1) * 100)
    assert (waterfall.case_id, waterfall.server) == (TRITON.id, "emulated")
    assert sentence(waterfall) == (
        "torch 3.00 → ONNX Runtime 4.00 → Triton, model alone 5.00 → Triton, ensemble 7.00 → client, http 9.00 ms "
        "(emulated server); serving tax 125% over ONNX Runtime; not measured together with the rest: torch, "
        "ONNX Runtime"
    )


def test_file_that_was_timed_beside_the_requests_stands_for_its_row() -> None:
    """The row is of another minute, in which the host was another one: it would say a tax of 125%."""
    beside = served().model_copy(update={"in_process": latency(8.0), "in_process_runtime": "onnxruntime"})
    (waterfall,) = waterfalls([TORCH, ORT, case("triton", 12.0, served=beside)])
    assert [(hop.hop, hop.ms, hop.together) for hop in waterfall.hops] == [
        ("torch", 3.0, False),
        ("ONNX Runtime", 8.0, True),
        ("Triton, model alone", 5.0, True),
        ("Triton, ensemble", 7.0, True),
        ("client, http", 9.0, True),
    ]
    assert waterfall.serving_tax_percent == pytest.approx((9.0 / 8.0 - 1) * 100)
    assert sentence(waterfall).endswith("serving tax 12% over ONNX Runtime; not measured together with the rest: torch")


def test_file_that_was_timed_beside_the_requests_needs_no_row() -> None:
    beside = served().model_copy(update={"in_process": latency(8.0), "in_process_runtime": "onnxruntime"})
    (waterfall,) = waterfalls([case("triton", 12.0, served=beside)])
    assert "together" not in sentence(waterfall)
    assert waterfall.serving_tax_percent is not None


@pytest.mark.parametrize("changes", [{"batch": 2}, {"variant": "w"}, {"dtype_requested": "fp16"}], ids=str)
def test_rows_of_another_variant_batch_or_dtype_are_no_hop(changes: dict[str, Any]) -> None:
    others = [case("torch", 1.0, **changes), case("onnxruntime", 2.0, **changes)]
    assert list(hops(*others, TRITON)) == ["Triton, model alone", "Triton, ensemble", "client, http"]
    assert hops(*others, TORCH, ORT, TRITON) == hops(TORCH, ORT, TRITON)


@pytest.mark.parametrize("runtime", ["torch_graph", "torch_compile"])
def test_rows_of_another_runtime_are_no_hop(runtime: str) -> None:
    assert hops(case(runtime, 1.0), ORT, TRITON) == hops(ORT, TRITON)


def test_client_is_that_of_the_protocol_of_the_case() -> None:
    both = (*PATHS, path("model", 65.0, 50.0, "grpc"))
    over_grpc = case("triton", 12.0, served=served(both, protocol="grpc"))
    assert hops(over_grpc) == {
        "Triton, model alone": (50.0, 0.0),
        "Triton, ensemble": (70.0, 20.0),
        "client, grpc": (90.0, 20.0),
    }


def test_without_request_paths_the_rounds_of_the_case_are_the_client() -> None:
    assert hops(ORT, case("triton", 12.0, served=served(()))) == {
        "ONNX Runtime": (4.0, 0.0),
        "client, http": (12.0, 8.0),
    }


def test_each_served_case_has_its_own_waterfall() -> None:
    second = case("triton", 20.0, id="second", batch=2, served=served(()))
    assert [one.case_id for one in waterfalls([TRITON, TORCH, second, ORT])] == [TRITON.id, "second"]


def test_case_that_was_not_served_or_has_no_time_has_no_waterfall() -> None:
    assert waterfalls([TORCH, ORT]) == ()
    assert waterfalls([TORCH, case("triton", None, status="error", served=served())]) == ()
