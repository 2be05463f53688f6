"""fixtures/export/parity.py: errors, budgets, degenerate outputs, and rows of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fixtures.export.accuracy import FLOORS, relative_error
from fixtures.export.parity import Evaluation, degenerate, evaluate, judge
from fixtures.export.parity_inputs import ParityInput
from fixtures.export.reference import Array64, Reference
from fixtures.export.task_metrics import TaskMetric
from fixtures.records import Dtype, ParityRecord, Provider
from meta_tests.exports import MIDAS

Float32 = NDArray[np.float32]
NAMES = ("first", "second", "third")


def array(*values: float) -> Array64:
    return np.array([values], np.float64)


def given(*names: str, has_content: bool = True) -> list[ParityInput]:
    return [ParityInput(name, (), (), has_content) for name in names]


# --- the error of one output ---


@pytest.mark.parametrize(
    ("output", "truth", "error"),
    [
        (array(3, 4), array(3, 4), 0),
        (array(3, 4.5), array(3, 4), 0.1),
        (array(0, 0), array(3, 4), 1),
        (array(0, 0), array(0, 0), 0),
        (array(0, 1e-30), array(0, 0), np.inf),
        (array(3, np.nan), array(3, 4), np.inf),
        (array(3, np.inf), array(3, 4), np.inf),
        (array(np.nan, 0), array(0, 0), np.inf),
    ],
)
def test_error_is_the_length_of_the_difference_over_that_of_the_truth(
    output: Array64, truth: Array64, error: float
) -> None:
    assert relative_error(output, truth) == pytest.approx(error, rel=1e-12)


@pytest.mark.parametrize(
    ("outputs", "says"),
    [
        ([array(1, 2), array(1, np.nan)], "1 of 2 values are not finite for 'second'"),
        ([array(np.inf, -np.inf), array(1, 2)], "2 of 2 values are not finite for 'first'"),
        ([array(1, 2), array(7, 7)], "the output for 'second' is constant (7)"),
        ([array(1, 2), array(1000, 1000.001)], "the output for 'second' is constant (1000)"),
        ([array(*[0] * 992, *range(1, 9)), array(1, 2)], "99% of the output for 'first' is 0"),
        ([array(1, 2), array(1, 2.000001)], "the output is the same for every input"),
    ],
)
def test_degenerate_output_is_named(outputs: list[Array64], says: str) -> None:
    assert degenerate(outputs, given("first", "second")) == says


def test_output_with_structure_is_not_degenerate() -> None:
    assert degenerate([array(1, 2), array(2, 1)], given("first", "second")) is None


def test_input_without_content_may_have_a_constant_output_but_no_nan() -> None:
    inputs = [*given("photograph"), *given("black", has_content=False)]
    assert degenerate([array(1, 2), array(0, 0)], inputs) is None
    assert degenerate([array(1, 2), array(0, np.nan)], inputs) == "1 of 2 values are not finite for 'black'"


# --- the budget ---


class MadeUp(Reference):
    """Three outputs `[1, 4]`, torch's error and what each draw's is, all by hand."""

    def __init__(self, torch_error: float, draws: tuple[float, ...] = (0, 0, 0, 0)) -> None:
        super().__init__(MIDAS, Path("none"), given(*NAMES))
        self.truth = [array(0, 0, 0, 1 + index) for index in range(len(NAMES))]
        self.asked: list[tuple[list[int], int]] = []
        self._torch_error = torch_error
        self._errors_drawn = draws

    def outputs(self, provider: Provider, dtype: Dtype) -> list[Array64]:
        return self.moved(*[self._torch_error] * len(NAMES))

    def perturbed(self, provider: Provider, dtype: Dtype, indices: Sequence[int], seed: int) -> list[Array64]:
        self.asked.append((list(indices), seed))
        return [self.moved(*[self._errors_drawn[seed]] * len(NAMES))[index] for index in indices]

    def moved(self, *errors: float) -> list[Array64]:
        """Outputs with these relative errors."""
        return [truth * (1 + error) for truth, error in zip(self.truth, errors, strict=True)]


NO_METRIC = TaskMetric("none", lambda _output, _truth: 0.0, {"fp32": 1.0, "tf32": 1.0, "fp16": 1.0})


def judged(
    reference: MadeUp, *errors: float, dtype: Dtype = "fp32", metric: TaskMetric = NO_METRIC, swapped: bool = False
) -> ParityRecord:
    """The verdict on outputs with these errors; a batch whose rows are swapped has the first two in each other's."""
    outputs = reference.moved(*errors)
    reordered = [outputs[1], outputs[0], outputs[2]] if swapped else None
    return judge(reference, Evaluation(outputs, reordered), "cpu", dtype, metric)


@pytest.mark.parametrize("dtype", ["fp32", "tf32", "fp16"])
def test_floor_of_a_precision_class_always_passes(dtype: Dtype) -> None:
    reference = MadeUp(torch_error=0)
    record = judged(reference, 0, 0.9 * FLOORS[dtype], -0.9 * FLOORS[dtype], dtype=dtype)
    assert record.passed
    assert [one.budget for one in record.inputs] == [FLOORS[dtype]] * 3
    assert reference.asked == []


def test_twice_the_error_of_torch_passes_without_a_draw() -> None:
    reference = MadeUp(torch_error=1e-3)
    record = judged(reference, 1.9e-3, 0, -1.9e-3)
    assert record.passed
    assert [one.budget for one in record.inputs] == pytest.approx([2e-3] * 3)
    assert reference.asked == []


def test_draws_are_made_for_failing_inputs_alone_until_they_pass() -> None:
    reference = MadeUp(torch_error=1e-3, draws=(1e-4, 2e-3, 1, 1))
    record = judged(reference, 0, 3.9e-3, 0)
    assert record.passed
    assert reference.asked == [([1], 0), ([1], 1)], "draws end as soon as everything passes"
    assert [one.torch_error for one in record.inputs] == pytest.approx([1e-3, 2e-3, 1e-3])
    assert [one.budget for one in record.inputs] == pytest.approx([2e-3, 4e-3, 2e-3])


def test_error_beyond_all_draws_fails() -> None:
    reference = MadeUp(torch_error=1e-3, draws=(1e-3, 1.5e-3, 1e-3, 1e-3))
    record = judged(reference, 0, 0, 3.1e-3)
    assert not record.passed
    assert [one.passed for one in record.inputs] == [True, True, False]
    assert [seed for _, seed in reference.asked] == [0, 1, 2, 3]
    assert record.inputs[2].error == pytest.approx(3.1e-3)
    assert record.inputs[2].max_abs == pytest.approx(3 * 3.1e-3)
    assert record.inputs[2].at == (0, 3)


def test_rows_of_a_batch_mixed_up_fail() -> None:
    record = judged(MadeUp(torch_error=1e-3), 0, 0, 0, swapped=True)
    assert [one.passed for one in record.inputs] == [True, True, True, False, False, True]
    assert [one.input for one in record.inputs] == [*NAMES, *NAMES]


def test_distance_of_the_task_alone_fails_a_file() -> None:
    metric = TaskMetric(
        "px", lambda output, truth: float(np.abs(np.asarray(output) - np.asarray(truth)).max()), {"fp32": 0.01}
    )
    record = judged(MadeUp(torch_error=0.1), 0.1, 0.1, 0.1, metric=metric)
    assert record.passed, "torch is as far away"
    record = judged(MadeUp(torch_error=0.1), 0, -0.19, 0.201, metric=metric)
    assert [task.passed for task in record.tasks] == [True, True, False]
    assert [task.bound for task in record.tasks] == pytest.approx([0.2, 0.4, 0.6])


def test_output_that_is_not_a_number_fails_and_is_valid_json() -> None:
    record = judged(MadeUp(torch_error=1e-3), 0, np.nan, np.nan)
    assert [one.passed for one in record.inputs] == [True, False, False]
    assert record.inputs[1].at == (0, 0)
    assert ParityRecord.model_validate_json(record.model_dump_json()) == record


# --- running a file on all inputs ---


def numbered(count: int) -> list[tuple[Float32, ...]]:
    return [(np.full((1, 2), index, np.float32),) for index in range(count)]


@pytest.mark.parametrize("batch", [1, 2, 3, 8, 11])
def test_every_input_has_its_own_row_in_any_batch(batch: int) -> None:
    seen: list[list[float]] = []

    def infer(tensors: tuple[Float32, ...]) -> Float32:
        seen.append(tensors[0][:, 0].tolist())
        return tensors[0] * 10

    evaluation = evaluate(infer, numbered(8), batch)
    assert [output.tolist() for output in evaluation.outputs] == [[[10 * index] * 2] for index in range(8)]
    assert all(len(rows) == batch for rows in seen)
    if batch == 1:
        assert evaluation.reordered is None
        return
    assert evaluation.reordered is not None
    assert [output.tolist() for output in evaluation.reordered] == [output.tolist() for output in evaluation.outputs]
    places = [{row: rows.index(row) for row in rows} for rows in seen]
    half = len(places) // 2
    first, second = ({k: v for rows in part[::-1] for k, v in rows.items()} for part in (places[:half], places[half:]))
    assert all(first[index] != second[index] for index in range(8)), "no input stays in its row"


def test_last_batch_is_filled_up_from_the_front() -> None:
    seen = []

    def infer(tensors: tuple[Float32, ...]) -> Float32:
        seen.append(tensors[0][:, 0].tolist())
        return tensors[0]

    evaluate(infer, numbered(4), 3)
    assert seen == [[0, 1, 2], [3, 0, 1], [1, 2, 3], [0, 1, 2]]


def test_row_that_depends_on_its_neighbour_differs() -> None:
    evaluation = evaluate(lambda tensors: tensors[0][::-1], numbered(8), 2)
    assert [output[0, 0] for output in evaluation.outputs] == [1, 0, 3, 2, 5, 4, 7, 6]
