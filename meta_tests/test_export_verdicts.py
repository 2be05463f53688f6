"""fixtures/export/verdicts.py: sentences about a failed gate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fixtures.export import verdicts
from fixtures.export.accuracy import FLOORS
from fixtures.export.gate import Gate, GateError, GateSettings
from fixtures.records import InputParity, ParityRecord
from meta_tests.exports import MIDAS, published
from meta_tests.test_export_parity import NAMES, MadeUp, judged


def test_three_worst_inputs_are_named_worst_first() -> None:
    inputs = tuple(
        InputParity(
            input=f"input {index}",
            error=0.1 * index,
            torch_error=0.01,
            budget=0.02,
            max_abs=1,
            at=(0, index),
            passed=False,
        )
        for index in range(1, 6)
    )
    record = ParityRecord(provider="cpu", dtype="fp32", passed=False, inputs=inputs)
    *worst, count = verdicts.parity_problems(record, "pytest -k this")
    assert worst == [
        f"input {index}: error={0.1 * index:.3g} against float64, expected at most 0.02 (2 x torch's own 0.01 in "
        f"fp32); largest difference 1 at output[0, {index}]"
        for index in (5, 4, 3)
    ]
    assert count == "5 of 5 outputs fail. Reproduce: pytest -k this"


def test_floor_is_named_where_it_is_the_budget() -> None:
    one = InputParity(input="a", error=1, torch_error=0, budget=FLOORS["fp16"], max_abs=1, at=(0,), passed=False)
    record = ParityRecord(provider="cpu", dtype="fp16", passed=False, inputs=(one,))
    assert "expected at most 0.001 (the floor of fp16)" in next(iter(verdicts.parity_problems(record, "")))


def test_passed_comparison_has_no_problems() -> None:
    assert list(verdicts.parity_problems(judged(MadeUp(torch_error=0), 0, 0, 0), "")) == []


def test_nodes_off_the_gpu_and_copies_are_named() -> None:
    nodes = {
        "CUDAExecutionProvider": ["conv (Conv)", "Memcpy_token_7 (MemcpyToHost)"],
        "CPUExecutionProvider": ["a (Shape)", "b (Gather)", "c (Cast)", "d (Add)"],
    }
    assert list(verdicts.placement_problems(nodes)) == [
        "4 nodes on CPUExecutionProvider, expected none: a (Shape), b (Gather), c (Cast) and 1 more",
        "1 copies between host and device, expected none: Memcpy_token_7 (MemcpyToHost)",
    ]
    assert list(verdicts.placement_problems({"CUDAExecutionProvider": ["conv (Conv)"]})) == []


def test_file_with_a_node_off_the_gpu_is_not_published(
    bundle_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = published(bundle_root, MIDAS)
    settings = GateSettings(tmp_path, place.export.file, "24.08", on_cuda=True, target_python=None, reproduce="")
    gate = Gate(place.export, place.reference, place.weights, settings, place.unchanged)
    monkeypatch.setattr(Gate, "graph_problems", [])
    monkeypatch.setattr(Gate, "parity_problems", lambda *_: [])
    nodes = {"CUDAExecutionProvider": ["conv (Conv)"], "CPUExecutionProvider": ["a (Shape)"]}
    monkeypatch.setattr("fixtures.export.gate.nodes_by_provider", lambda *_: nodes)
    with pytest.raises(GateError, match=r"^placement: 1 nodes on CPUExecutionProvider, expected none: a \(Shape\)$"):
        gate.publish()
    gate.close()
    assert list(tmp_path.iterdir()) == []


def test_answer_of_the_target_that_is_not_a_number_is_a_problem() -> None:
    reference = MadeUp(torch_error=0)
    budgets = dict.fromkeys(NAMES, 1e-3)
    assert list(verdicts.target_problems(reference.moved(0, 0, 0), reference, budgets)) == []
    assert list(verdicts.target_problems(reference.moved(np.nan, 0, 2e-3), reference, budgets)) == [
        "first: error=inf, expected at most 0.001",
        "third: error=0.002, expected at most 0.001",
    ]
