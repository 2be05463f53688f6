"""Random runs and budgets for the tests of choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

from fixtures.decision.candidates import screened
from fixtures.records import Candidate, CaseSummary
from meta_tests.runs import MACHINE, row

# Few values, so that many are equal; and any.
latencies = st.sampled_from([1.0, 2.0, 2.05, 4.0, 8.0, 8.2]) | st.floats(0.1, 100)
memories = st.sampled_from([None, 100.0, 200.0, 201.0]) | st.floats(1, 1000)


@st.composite
def runs(draw: st.DrawFn) -> list[CaseSummary]:
    """Up to a dozen rows of up to four branches, each case once."""
    sizes = draw(st.lists(st.sampled_from([64, 128, 256, 512]), min_size=4, max_size=4))
    keys = st.tuples(
        st.integers(0, 3), st.sampled_from([1, 2, 8]), st.sampled_from(["torch", "onnxruntime", "torch-graph"])
    )
    return [
        row(
            f"v{index}", batch, p50, draw(memories), size=sizes[index], runtime=runtime, p95=p50 * draw(st.floats(1, 2))
        )
        for index, batch, runtime in draw(st.lists(keys, min_size=1, max_size=12, unique=True))
        for p50 in [draw(latencies)]
    ]


budgets = st.fixed_dictionaries(
    {},
    optional={
        "p95_ms": st.floats(0.1, 50),
        "vram_mb": st.floats(50, 500),
        "min_throughput": st.floats(10, 2000),
        "batch": st.sampled_from([1, 2, 4]),
        "runtimes": st.sampled_from([("torch",), ("torch", "onnxruntime")]),
        "keep": st.sampled_from([1, 2, 3, ("medium",), ("small", "medium")]),
    },
)


def candidates_of(cases: Sequence[CaseSummary]) -> list[Candidate]:
    """The rows that may win."""
    return screened(cases, MACHINE, {}, False)[0]


def competing(cases: Sequence[CaseSummary], budget: Mapping[str, Any]) -> list[CaseSummary]:
    """The rows that may be deployed: of a branch with a row of ONNX Runtime, those rows alone."""
    served = {case.variant for case in cases if case.runtime == "onnxruntime" and "runtimes" not in budget}
    return [case for case in cases if case.runtime == "onnxruntime" or case.variant not in served]
