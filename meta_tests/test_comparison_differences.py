"""Differences between two sides: those that forbid a ratio, and those that are noted."""

from __future__ import annotations

from typing import Any

import pytest

from fixtures.comparison import compare_sides
from fixtures.records import MeasuredFile, WeightsRecord
from meta_tests.compared import compared, pair_of, processes, side
from meta_tests.runs import MACHINE, row


@pytest.mark.parametrize("key", ["device", "gpu", "driver"])
def test_another_machine_is_not_comparable(key: str) -> None:
    case = compared(processes(10), processes(20), environment={**MACHINE, key: "other"})
    assert (case.verdict, case.ratio) == ("not_comparable", None)
    assert case.reason == f"another {key}: {MACHINE[key]}, then other"
    assert case.p50_ms[0] == pytest.approx(10, rel=1e-6), "the figures are shown all the same"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_another_processor_is_not_comparable_on_a_cpu_alone(device: str) -> None:
    machine = {**MACHINE, "device": device}
    other = side(row(), environment={**machine, "cpu": "other", "torch_threads": 2})
    pair = compare_sides(side(row(), environment=machine), other)
    assert pair.cases[0].verdict == ("not_comparable" if device == "cpu" else "same")
    assert "cpu: a host's, then other" in pair.notes
    assert ("torch_threads: None, then 2" in pair.notes) is (device == "cpu")


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"dtype_used": "tf32"}, "another dtype: fp16, then tf32"),
        ({"dtype_used": None, "dtype_requested": "fp32"}, "another dtype: fp16, then fp32"),
        ({"batch": 8}, "another batch: 1, then 8"),
        ({"size": 384}, "another input size: height 256, width 256, then height 384, width 384"),
        (
            {"weights": WeightsRecord(sha256="1" * 64, synthetic=False)},
            "another weights (sha256): 000000000000, then 111111111111",
        ),
    ],
    ids=lambda value: str(value)[:30],
)
@pytest.mark.parametrize("first_other", [0, 2])
def test_another_subject_in_any_process_is_not_comparable(facts: dict[str, Any], said: str, first_other: int) -> None:
    after = [row(p50=20, id="c", **(facts if index >= first_other else {})) for index in range(3)]
    case = compared(processes(10, id="c"), after)
    then, now = said.split(": ")[1].split(", then ")
    both = said.replace(f", then {now}", f", then {then} and {now}")
    assert (case.verdict, case.reason) == ("not_comparable", said if first_other == 0 else both)


def test_the_same_mixture_of_subjects_on_both_sides_is_not_comparable() -> None:
    mixture = [row(id="c"), row(id="c", dtype_used="tf32")]
    case = compared(mixture, mixture)
    assert (case.verdict, case.reason) == ("not_comparable", "another dtype: fp16 and tf32, then fp16 and tf32")


A, B = (MeasuredFile(uri="a.onnx", sha256=letter * 64) for letter in "ab")


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ([A, A], [B, B], ""),
        ([A, None], [B, B], ""),
        ([A, A], [A, B], "several files in the candidate: aaaaaaaaaaaa and bbbbbbbbbbbb"),
        (
            [A, A.model_copy(update={"options": {"prefer_nhwc": "1"}})],
            [A, A],
            "several files in the baseline: aaaaaaaaaaaa and aaaaaaaaaaaa prefer_nhwc=1",
        ),
        (
            [A, A.model_copy(update={"data": {"a.onnx.data": "c" * 64}})],
            [A, A],
            "several files in the baseline: aaaaaaaaaaaa and aaaaaaaaaaaa cccccccccccc",
        ),
    ],
    ids=["an export each", "unknown", "exported meanwhile", "tuned meanwhile", "other weights beside it"],
)
def test_side_of_several_files_is_not_comparable(
    before: list[MeasuredFile | None], after: list[MeasuredFile | None], reason: str
) -> None:
    case = compared([row(id="c", file=file) for file in before], [row(id="c", file=file) for file in after])
    assert case.verdict == ("not_comparable" if reason else "same")
    assert reason in case.reason


def test_unknown_facts_of_a_row_contradict_nothing() -> None:
    unknown: dict[str, Any] = {"dtype_used": None, "input_bucket": {}, "synthetic": None, "id": row().id}
    assert compared(processes(10), processes(20, **unknown)).verdict == "slower"


def test_another_library_is_compared_and_noted() -> None:
    pair = pair_of(processes(10), processes(9), environment={**MACHINE, "torch": "2.12.0"})
    assert pair.cases[0].verdict == "faster"
    assert pair.notes == ("torch: 2.11.0, then 2.12.0",)


@pytest.mark.parametrize(
    ("before", "after", "notes"),
    [
        ({}, {"onnx_graph": "portable"}, ()),
        ({}, {"onnx_graph": "contrib"}, ("onnx_graph of 1 case: portable, then contrib",)),
        ({"onnx_graph": "cuda"}, {"onnx_graph": "contrib"}, ("onnx_graph of 1 case: cuda, then contrib",)),
    ],
)
def test_another_graph_of_a_file_is_noted(
    before: dict[str, Any], after: dict[str, Any], notes: tuple[str, ...]
) -> None:
    then, now = (processes(10, runtime="onnxruntime", knobs=knobs) for knobs in (before, after))
    assert pair_of(then, now).notes == notes
    assert pair_of(then, [*now[:2], then[2]]).notes == tuple(
        f"{note} and {before.get('onnx_graph', 'portable')}" for note in notes
    )


def test_graph_that_a_spec_asks_for_is_not_noted_of_runtimes_without_an_onnx_file() -> None:
    assert pair_of(processes(10), processes(9), run={"onnx_graph": "contrib"}).notes == ()


def test_other_frames_and_another_protocol_are_noted() -> None:
    run = {"content_digests": ["1"], "protocol": {"rounds_s": 1}}
    notes = pair_of(processes(10), processes(9), run=run).notes
    assert notes == ("frames, sounds or prompts differ", "the measuring protocol differs")


def test_unknown_machines_are_noted() -> None:
    unknown = side(*processes(10), environment={})
    pair = compare_sides(unknown, unknown)
    assert (pair.cases[0].verdict, pair.notes) == ("same", ("neither side says which machine it ran on",))
