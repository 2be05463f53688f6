"""The gate of a served branch refuses wrong preprocess files and wrong answers, and passes right ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from fixtures.export.parity import Infer
from fixtures.export.parity_inputs import parity_inputs
from fixtures.export.reference import Reference
from fixtures.export.served import ServedGate, input_noise
from fixtures.onnx_session import open_session
from fixtures.spec import Variant
from fixtures.subject import locate_checkpoint
from fixtures.triton.branches import ServedBranch, served_branch
from fixtures.triton.graphs import preprocess_model
from fixtures.weights.bundle import Bundle
from meta_tests.branches import DPT, recorded, with_frame
from meta_tests.exports import MIDAS, RAFT, published
from meta_tests.loading import CONTENT
from meta_tests.references import StoredReference

Array = NDArray[Any]
Change = Callable[[onnx.GraphProto], None]
REPRODUCE = "pytest serve_tests -k this"

# --- preprocess files ---


def preprocess_gate(variant: Variant, frame_size: tuple[int, int] | None, batch: int = 1) -> ServedGate:
    """A gate with frames to compare and without weights."""
    branch = recorded(with_frame(variant, frame_size), batch)
    reference = Reference(variant, Path(), parity_inputs(CONTENT, branch.export.variant, framed=True))
    return ServedGate(branch, reference, False, REPRODUCE)


def problems(gate: ServedGate, path: Path, change: Change | None = None) -> list[str]:
    model = preprocess_model(gate.branch)
    if change is not None:
        change(model.graph)
    onnx.save(model, path)
    return gate.preprocess_problems(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("frame_size", [None, (180, 320), (47, 33)], ids=str)
@pytest.mark.parametrize("variant", [MIDAS, DPT, RAFT], ids=lambda variant: variant.model)
def test_preprocess_file_of_the_builder_passes(
    path: Path, variant: Variant, frame_size: tuple[int, int] | None, batch: int
) -> None:
    assert problems(preprocess_gate(variant, frame_size, batch), path) == []


@pytest.mark.parametrize("frame_size", [(480, 640), (1080, 1920)], ids=str)
def test_float32_coordinates_of_large_frames_pass(path: Path, frame_size: tuple[int, int]) -> None:
    """Their rounding, the frame's side × 2⁻²⁴, costs more grey levels on noise than small frames are allowed."""
    variant = MIDAS.model_copy(update={"height": 256, "width": 256})
    assert problems(preprocess_gate(variant, frame_size), path) == []


def nodes(graph: onnx.GraphProto, operator: str) -> Iterator[onnx.NodeProto]:
    return (node for node in graph.node if node.op_type == operator)


def set_resize(graph: onnx.GraphProto, **attributes: Any) -> None:
    for node in nodes(graph, "Resize"):
        kept = [attribute for attribute in node.attribute if attribute.name not in attributes]
        del node.attribute[:]
        node.attribute.extend([*kept, *(helper.make_attribute(*item) for item in attributes.items())])


def another_coefficient(graph: onnx.GraphProto) -> None:
    set_resize(graph, cubic_coeff_a=-0.5)


def antialiased(graph: onnx.GraphProto) -> None:
    set_resize(graph, antialias=1)


def as_pillow_resizes(graph: onnx.GraphProto) -> None:
    set_resize(graph, antialias=1, cubic_coeff_a=-0.5)


def aligned_corners(graph: onnx.GraphProto) -> None:
    set_resize(graph, coordinate_transformation_mode="align_corners")


def asymmetric(graph: onnx.GraphProto) -> None:
    set_resize(graph, coordinate_transformation_mode="asymmetric")


def linear(graph: onnx.GraphProto) -> None:
    set_resize(graph, mode="linear")


def cubic(graph: onnx.GraphProto) -> None:
    set_resize(graph, mode="cubic", cubic_coeff_a=-0.75)


def nearest(graph: onnx.GraphProto) -> None:
    set_resize(graph, mode="nearest")


def set_weight(graph: onnx.GraphProto, name: str, change: Callable[[Array], Array]) -> None:
    weight = next(weight for weight in graph.initializer if weight.name.endswith(name))
    weight.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(weight)).astype(np.float32), weight.name))


def another_mean(graph: onnx.GraphProto) -> None:
    set_weight(graph, "offset", lambda offset: offset - 0.001)


def means_of_bgr(graph: onnx.GraphProto) -> None:
    set_weight(graph, "offset", lambda offset: offset[:, ::-1])


def another_deviation(graph: onnx.GraphProto) -> None:
    set_weight(graph, "scale", lambda scale: scale * 1.001)


def not_a_number(graph: onnx.GraphProto) -> None:
    set_weight(graph, "scale", lambda scale: scale * np.nan)


def bgr(graph: onnx.GraphProto) -> None:
    graph.initializer.append(numpy_helper.from_array(np.array([2, 1, 0]), "reversed"))
    for index, node in reversed(list(enumerate(graph.node))):
        if node.op_type == "Transpose":
            (output,) = node.output
            node.output[0] = f"{output}/rgb"
            gather = helper.make_node("Gather", [node.output[0], "reversed"], [output], axis=1)
            graph.node.insert(index + 1, gather)


def height_and_width_swapped(graph: onnx.GraphProto) -> None:
    for node in nodes(graph, "Transpose"):
        node.attribute[0].CopyFrom(helper.make_attribute("perm", [0, 3, 2, 1]))


def first_changed_alone(graph: onnx.GraphProto) -> None:
    resize = next(nodes(graph, "Resize"))
    resize.attribute.append(helper.make_attribute("antialias", 1))


def inputs_swapped(graph: onnx.GraphProto) -> None:
    first, second = list(nodes(graph, "Transpose"))
    first.input[0], second.input[0] = second.input[0], first.input[0]


SAID = (
    r"(INPUT\d?__0) for ([a-z]+( \d)?): (\S+) grey levels from the module of the bench at \[\d, \d, \d+, \d+\], "
    r"expected at most 0\.01\d?"
)


@pytest.mark.parametrize(
    ("variant", "frame_size", "change", "least"),
    [
        (MIDAS, None, bgr, 10),
        (MIDAS, (180, 320), bgr, 10),
        (MIDAS, (180, 320), another_coefficient, 1),
        (MIDAS, (47, 33), another_coefficient, 1),
        (MIDAS, (180, 320), antialiased, 10),
        (MIDAS, (180, 320), as_pillow_resizes, 10),
        (MIDAS, (180, 320), aligned_corners, 10),
        (MIDAS, (180, 320), asymmetric, 10),
        (MIDAS, (180, 320), linear, 10),
        (MIDAS, (180, 320), nearest, 10),
        (MIDAS, (180, 320), height_and_width_swapped, 10),
        (MIDAS, None, another_mean, 0.05),
        (MIDAS, None, means_of_bgr, 5),
        (MIDAS, None, another_deviation, 0.1),
        (DPT, None, another_mean, 0.1),
        (RAFT, (180, 320), antialiased, 10),
        (RAFT, (180, 320), aligned_corners, 10),
        (RAFT, (180, 320), asymmetric, 10),
        (RAFT, (180, 320), cubic, 10),
        (RAFT, None, bgr, 10),
        (RAFT, None, inputs_swapped, 10),
        (RAFT, (180, 320), inputs_swapped, 10),
    ],
    ids=lambda value: value.__name__.replace("_", " ") if callable(value) else getattr(value, "model", str(value)),
)
def test_wrong_preprocess_is_refused(
    path: Path, variant: Variant, frame_size: tuple[int, int] | None, change: Change, least: float
) -> None:
    gate = preprocess_gate(variant, frame_size)
    said = [re.fullmatch(SAID, problem) for problem in problems(gate, path, change)]
    assert said
    found = [match.groups() for match in said if match]
    assert len(found) == len(said)
    assert {name for name, *_ in found} == {tensor.name for tensor in gate.branch.inputs}
    photographs = [float(grey_levels) for _, shown, _, grey_levels in found if shown.startswith("photograph")]
    assert max(photographs) >= least


def test_message_names_the_input_that_differs(path: Path) -> None:
    said = problems(preprocess_gate(RAFT, (180, 320)), path, first_changed_alone)
    assert said
    assert all(problem.startswith("INPUT0__0 for ") for problem in said)


def test_nan_of_a_preprocess_is_refused(path: Path) -> None:
    said = problems(preprocess_gate(MIDAS, None), path, not_a_number)
    assert len(said) == 8
    assert said[0].startswith("INPUT__0 for photograph 0: nan grey levels from the module of the bench at [0, 0, 0, 0]")


def test_every_row_of_a_batch_is_compared(path: Path) -> None:
    """Only the last row is wrong."""

    def last_row_first(graph: onnx.GraphProto) -> None:
        graph.initializer.append(numpy_helper.from_array(np.array([0, 1, 0]), "rows"))
        next(nodes(graph, "Transpose")).input[0] = "frames"
        graph.node.insert(0, helper.make_node("Gather", ["INPUT__0", "rows"], ["frames"], axis=0))

    said = problems(preprocess_gate(MIDAS, None, batch=3), path, last_row_first)
    assert said
    assert all(" at [2, " in problem for problem in said)


def test_tensors_are_compared_by_name(path: Path) -> None:
    """An ensemble maps tensors by name: the order in which a file lists them has no effect."""

    def listed_backwards(graph: onnx.GraphProto) -> None:
        for values in (graph.input, graph.output):
            first, second = list(values)
            del values[:]
            values.extend([second, first])

    def swapped_and_listed_backwards(graph: onnx.GraphProto) -> None:
        inputs_swapped(graph)
        first, second = list(graph.output)
        del graph.output[:]
        graph.output.extend([second, first])

    gate = preprocess_gate(RAFT, None)
    assert problems(gate, path, listed_backwards) == []
    assert problems(gate, path, swapped_and_listed_backwards)


# --- answers ---


@cache
def served_gate(bundle_root: Path, variant: Variant, frame_size: tuple[int, int] | None, batch: int) -> ServedGate:
    place = published(bundle_root, variant, batch=batch)
    branch = served_branch(replace(place.export, variant=with_frame(variant, frame_size)), place.folder)
    reference = place.reference
    if frame_size:
        inputs = parity_inputs(CONTENT, branch.export.variant, framed=True)
        checkpoint = locate_checkpoint(variant, Bundle(bundle_root))
        reference = StoredReference(variant, checkpoint, inputs, input_noise(branch))
    return ServedGate(branch, reference, False, REPRODUCE)


def in_process(branch: ServedBranch, path: Path) -> Infer:
    """Computes a server's answers in this process: preprocess, then the published file."""
    onnx.save(preprocess_model(branch), path)
    preprocess, model = (open_session(file, "cpu", "fp32") for file in (path, branch.file))
    between = [tensor.name for tensor in branch.record.inputs]

    def infer(frames: tuple[Array, ...]) -> Array:
        given = {tensor.name: frame for tensor, frame in zip(branch.inputs, frames, strict=True)}
        answer: Array = model.run(None, dict(zip(between, preprocess.run(between, given), strict=True)))[0]
        return answer

    return infer


Wrong = Callable[[Infer], Infer]


def reversed_channels(infer: Infer) -> Infer:
    return lambda frames: infer(tuple(np.ascontiguousarray(frame[..., ::-1]) for frame in frames))


def swapped_inputs(infer: Infer) -> Infer:
    return lambda frames: infer(frames[::-1])


def answer_of_the_previous_request(infer: Infer) -> Infer:
    """Each request gets the answer to the request before it."""
    waiting: list[Array] = []

    def late(frames: tuple[Array, ...]) -> Array:
        waiting.append(infer(frames))
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]

    return late


def first_answer_for_all_requests(infer: Infer) -> Infer:
    answers: list[Array] = []

    def always(frames: tuple[Array, ...]) -> Array:
        answers.append(infer(frames))
        return answers[0]

    return always


def rows_swapped(infer: Infer) -> Infer:
    return lambda frames: infer(frames)[::-1]


def first_row_for_all(infer: Infer) -> Infer:
    return lambda frames: np.repeat(infer(frames)[:1], len(frames[0]), axis=0)


def constant(infer: Infer) -> Infer:
    return lambda frames: np.full_like(infer(frames), 7)


def one_value_is_nan(infer: Infer) -> Infer:
    def broken(frames: tuple[Array, ...]) -> Array:
        answer = infer(frames).copy()
        answer.flat[0] = np.nan
        return answer

    return broken


def sometimes_wrong(infer: Infer) -> Infer:
    numbers = count()
    return lambda frames: infer(frames) * (1.01 if next(numbers) == 5 else 1)


def a_little_larger(infer: Infer) -> Infer:
    return lambda frames: infer(frames) * np.float32(1.001)


def rounded_to_half(infer: Infer) -> Infer:
    return lambda frames: infer(frames).astype(np.float16).astype(np.float32)


GATES: dict[str, tuple[Variant, tuple[int, int] | None, int]] = {
    "midas": (MIDAS, None, 1),
    "midas resized": (MIDAS, (180, 320), 1),
    "midas batch 2": (MIDAS, None, 2),
    "raft": (RAFT, None, 1),
}


@pytest.mark.parametrize("name", GATES)
def test_same_function_passes(bundle_root: Path, path: Path, name: str) -> None:
    gate = served_gate(bundle_root, *GATES[name])
    assert gate.problems(in_process(gate.branch, path)) == []


AGAINST_FLOAT64 = (
    r"[a-z]+( \d)?: error=\S+ against float64, expected at most \S+ \(.*\); largest difference \S+ at output"
)


@pytest.mark.usefixtures("one_draw")
@pytest.mark.parametrize(
    ("name", "wrong", "says"),
    [
        ("midas", reversed_channels, AGAINST_FLOAT64),
        ("midas resized", reversed_channels, AGAINST_FLOAT64),
        ("midas", answer_of_the_previous_request, AGAINST_FLOAT64),
        ("midas", first_answer_for_all_requests, "degenerate: the output is the same for every input"),
        ("midas", constant, r"degenerate: the output for 'photograph 0' is constant \(7\)"),
        ("midas", one_value_is_nan, r"degenerate: 1 of 6144 values are not finite for 'photograph 0'"),
        ("midas", sometimes_wrong, r"white: error=0\.01 against float64, expected at most "),
        ("midas", a_little_larger, r"error=0\.001 against float64, expected at most "),
        ("midas", rounded_to_half, r"against float64, expected at most \S+ \(.*fp32\)"),
        ("midas batch 2", rows_swapped, AGAINST_FLOAT64),
        ("midas batch 2", first_row_for_all, AGAINST_FLOAT64),
        ("raft", swapped_inputs, AGAINST_FLOAT64),
    ],
    ids=lambda value: value.__name__.replace("_", " ") if callable(value) else value if value in GATES else "",
)
def test_wrong_answer_is_refused(bundle_root: Path, path: Path, name: str, wrong: Wrong, says: str) -> None:
    gate = served_gate(bundle_root, *GATES[name])
    said = gate.problems(wrong(in_process(gate.branch, path)))
    assert any(re.search(says, problem) for problem in said), said
    assert re.fullmatch(rf"\d+ of \d+ outputs fail\. Reproduce: {REPRODUCE}", said[-1]), said
