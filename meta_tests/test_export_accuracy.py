"""fixtures/export/accuracy.py: a yardstick that is soft or not finite judges nothing; the message says what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fixtures.export.accuracy import CEILINGS, FACTOR, compare, yardstick_problems
from fixtures.export.gate import Gate, GateError, GateSettings
from fixtures.export.parity_inputs import ParityInput
from fixtures.export.reference import Array64, Reference
from fixtures.export.task_metrics import TaskMetric
from fixtures.records import Dtype, Provider
from meta_tests.exports import FEW, MIDAS, published, reference_of

NO_METRIC = TaskMetric("none", lambda _output, _truth: 0.0, {"fp32": 1.0, "tf32": 1.0, "fp16": 1.0})
INPUTS = [ParityInput(name, (), (), True, is_natural=name != "noise") for name in ("photograph 0", "noise")]


class ByHand(Reference):
    """Two outputs whose truth is (3, 4), with torch's outputs and draws by hand."""

    def __init__(self, *outputs: Sequence[float], draw: Sequence[float] = (3, 4)) -> None:
        super().__init__(MIDAS, Path("none"), INPUTS)
        self.truth = [np.array([[3.0, 4.0]])] * len(INPUTS)
        self._by_hand = [np.array([output], np.float64) for output in outputs]
        self._draw = np.array([draw], np.float64)

    def outputs(self, provider: Provider, dtype: Dtype) -> list[Array64]:
        return self._by_hand

    def perturbed(self, provider: Provider, dtype: Dtype, indices: Sequence[int], seed: int) -> list[Array64]:
        return [self._draw for _ in indices]


@pytest.mark.parametrize("dtype", ["fp32", "tf32", "fp16"])
def test_error_of_torch_above_the_ceiling_on_natural_input_is_refused(dtype: Dtype) -> None:
    below, above = (5 * CEILINGS[dtype] * part for part in (0.9, 1.1))
    assert list(yardstick_problems(ByHand((3, 4 + below), (3, 4)), "cpu", dtype, None)) == []
    (problem,) = yardstick_problems(ByHand((3, 4 + above), (3, 4)), "cpu", dtype, None)
    assert problem.startswith(f"photograph 0: cannot judge: torch itself is {1.1 * CEILINGS[dtype]:.2%} from float64")
    assert ("`dtype: fp32`" in problem) == (dtype != "fp32"), "which is no way out of itself"
    assert "`ceiling:`" in problem


def test_ceiling_of_a_variant_replaces_that_of_the_class() -> None:
    reference = ByHand((3, 4.25), (3, 4))  # 5% off
    assert list(yardstick_problems(reference, "cpu", "fp16", 0.06)) == []
    assert len(list(yardstick_problems(reference, "cpu", "fp16", 0.04))) == 1


def test_made_input_has_no_ceiling() -> None:
    assert list(yardstick_problems(ByHand((3, 4), (3, 6)), "cpu", "fp16", None)) == []


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_output_of_torch_that_is_not_finite_is_refused_on_any_input(value: float) -> None:
    (problem,) = yardstick_problems(ByHand((3, 4), (3, value)), "cpu", "fp16", None)
    assert problem.startswith("noise: the model overflows in fp16: 1 of 2 output values of torch itself are not finite")


def test_draw_that_is_not_finite_widens_no_budget() -> None:
    output = np.array([[3.0, 5.0]])
    (one,) = compare(ByHand((3, 4), (3, 4), draw=(np.inf, 4)), [(0, output)], "cpu", "fp32", NO_METRIC)
    assert not one.passed
    assert np.isfinite(one.budget)


def test_draw_widens_the_budget_by_the_factor() -> None:
    output = np.array([[3.0, 4.0 + 5 * 1.9e-3]])
    (one,) = compare(ByHand((3, 4), (3, 4), draw=(3, 4 + 5e-3)), [(0, output)], "cpu", "fp32", NO_METRIC)
    assert one.passed
    assert one.budget == pytest.approx(FACTOR * 1e-3)


def test_gate_publishes_nothing_by_a_soft_yardstick(bundle_root: Path, tmp_path: Path) -> None:
    """A ceiling below what torch's rounding costs: nothing is judged, and the message names the key of the spec."""
    place = published(bundle_root, MIDAS).copy(tmp_path / "onnx")
    before = place.file.read_bytes()
    export = replace(place.export, variant=MIDAS.model_copy(update={"ceiling": 1e-9}))
    settings = GateSettings(place.folder, export.file, "24.08", False, None, "pytest -k this")
    gate = Gate(export, reference_of(bundle_root, MIDAS, FEW), place.weights, settings, place.unchanged)
    with pytest.raises(GateError, match=r"photograph 0: cannot judge: torch itself is .* a larger `ceiling:`"):
        gate.publish()
    gate.close()
    assert place.file.read_bytes() == before
