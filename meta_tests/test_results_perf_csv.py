"""A server under load in the columns of perf_analyzer's CSV."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from fixtures.records import CaseSummary, LoadLevel
from fixtures.results.percentiles import MIN_ROUNDS_FOR_P99, latency_of
from fixtures.results.perf_csv import COLUMNS, perf_csv
from meta_tests.served_rows import ORT, TORCH, TRITON, case, latency, served, step

# The example of perf_analyzer's documentation on its option -f.
PERF_ANALYZER = (
    "Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,"
    "Server Compute Infer,Server Compute Output,Client Recv,p50 latency,p90 latency,p95 latency,p99 latency"
)


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


def test_network_time_is_zero_where_the_server_counts_more_than_its_clients() -> None:
    (line,) = lines(under_load(level(ensemble=step(total_ms=99.0))))
    assert line["Network+Server Send/Recv"] == "0"


@pytest.mark.parametrize(("requests", "p99"), [(MIN_ROUNDS_FOR_P99 - 1, ""), (MIN_ROUNDS_FOR_P99, "2000")])
def test_p99_is_empty_below_662_requests(requests: int, p99: str) -> None:
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
