"""fixtures/export/parity_inputs.py: eight inputs, the same ones every time."""

from __future__ import annotations

import numpy as np
import pytest

from fixtures.export.parity_inputs import chosen_items, parity_inputs
from fixtures.modalities import rows_of
from fixtures.spec import Variant
from meta_tests.exports import MIDAS, RAFT
from meta_tests.loading import CONTENT


@pytest.mark.parametrize("variant", [MIDAS, RAFT], ids=lambda variant: variant.name)
def test_inputs_are_eight_and_the_same_every_time(variant: Variant) -> None:
    inputs = parity_inputs(CONTENT, variant)
    again = parity_inputs(CONTENT, variant)
    assert [one.name for one in inputs] == [
        "photograph 0",
        "photograph 1",
        "waves",
        "noise",
        "black",
        "white",
        "grey",
        "checkerboard",
    ]
    assert [one.has_content for one in inputs] == [True] * 4 + [False] * 4
    count = 2 if variant is RAFT else 1
    for one, other in zip(inputs, again, strict=True):
        assert [(tensor.shape, tensor.dtype) for tensor in one.tensors] == [
            ((1, 3, variant.height, variant.width), np.dtype(np.float32))
        ] * count
        for tensor, same in zip(one.tensors, other.tensors, strict=True):
            assert np.array_equal(tensor, same)
            assert tensor.flags.c_contiguous
    firsts = [one.tensors[0] for one in inputs]
    assert not any(np.array_equal(firsts[i], firsts[j]) for i in range(8) for j in range(i))


def test_inputs_reach_the_edges_of_what_a_frame_can_hold() -> None:
    inputs = {one.name: one.tensors[0] for one in parity_inputs(CONTENT, RAFT)}
    assert set(inputs["black"].ravel()) == {-1}
    assert set(inputs["white"].ravel()) == {1}
    assert set(inputs["checkerboard"].ravel()) == {-1, 1}
    assert inputs["noise"].min() == -1
    assert inputs["noise"].max() == 1


def test_synthetic_frame_is_shifted_between_the_two_inputs() -> None:
    inputs = {one.name: one.tensors for one in parity_inputs(CONTENT, RAFT)}
    for name in ("waves", "noise", "checkerboard"):
        first, second = inputs[name]
        assert np.array_equal(np.roll(first, 3, axis=-1), second)
    first, second = inputs["photograph 0"]
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    ("items", "batches", "most"), [(6, [1, 8], 8), (64, [8], 8), (64, [1, 8], 9), (40, [1, 4], 8), (7, [3], 5)]
)
def test_chosen_items_stand_in_every_row_and_every_input_set(items: int, batches: list[int], most: int) -> None:
    chosen = chosen_items(items, batches, 5, most)
    assert len(chosen) == min(items, most)
    for batch in batches:
        places = [
            (row, index) for index in range(5) for row, i in enumerate(rows_of(items, batch, index)) if i in chosen
        ]
        assert {row for row, _ in places} == set(range(batch))
        assert {index for _, index in places} == set(range(5))


def test_a_single_item_is_chosen_for_any_batch() -> None:
    assert chosen_items(1, [4], 5, 8) == [0]
