"""What every modality promises: items of one shape and dtype, deterministic, and batches of them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from fixtures.modalities import Item, Modality, batches, rows_of
from fixtures.spec import Variant
from meta_tests.modality_cases import CASES, RATE, content, same

DTYPES = (torch.float32, torch.float16, torch.float64)
EACH = pytest.mark.parametrize(("modality", "variant"), CASES, ids=[modality.kind for modality, _ in CASES])


@pytest.mark.parametrize("items", range(2, 9))
@pytest.mark.parametrize("batch", [1, 2, 3, 6, 8, 12, 16])
def test_no_set_has_the_items_of_the_one_before(items: int, batch: int) -> None:
    """A runtime that gave its last answer again would be judged right, and timed."""
    sets = [rows_of(items, batch, index) for index in range(9)]
    assert all(one != other for one, other in pairwise(sets))


def test_batches_repeat_items_in_order() -> None:
    items = [np.full((2, 3), index, np.uint8) for index in range(3)]
    sets = batches(items, inputs=1, batch=2, count=4)
    assert [one.shape for (one,) in sets] == [(2, 2, 3)] * 4
    assert [one[:, 0, 0].tolist() for (one,) in sets] == [[0, 1], [2, 0], [1, 2], [0, 1]]


def test_second_input_is_shifted_by_one_item() -> None:
    items = [np.array([index]) for index in range(4)]
    sets = batches(items, inputs=2, batch=3, count=2)
    rows = [[one[:, 0].tolist() for one in one_set] for one_set in sets]
    assert rows == [[[0, 1, 2], [1, 2, 3]], [[3, 0, 1], [0, 1, 2]]]


def test_batch_larger_than_items_repeats_them() -> None:
    ((batch,),) = batches([np.array([7])], inputs=1, batch=3, count=1)
    assert batch[:, 0].tolist() == [7, 7, 7]


def test_digests_change_with_file_content(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a dog\n")
    before = content(prompts=prompts)
    assert before.files == (*before.frames, prompts)
    digests = before.digests()
    prompts.write_text("a cat\n")
    assert [old == new for old, new in zip(digests, before.digests(), strict=True)] == [True] * 6 + [False]


@pytest.mark.parametrize(
    ("index", "wire", "model"),
    [
        (0, Item("UINT8", (48, 80, 3)), Item("FLOAT", (3, 64, 96))),
        (1, Item("FLOAT", (2 * RATE,)), Item("FLOAT", (2 * RATE,))),
        (2, Item("INT64", (77,)), Item("INT64", (77,))),
    ],
    ids=["image", "audio", "text"],
)
def test_items_on_wire_and_at_model(index: int, wire: Item, model: Item) -> None:
    modality, variant = CASES[index]
    assert modality.kind == variant.kind
    assert modality.on_wire(variant) == wire
    assert modality.at_model(variant) == model


@EACH
def test_items_have_shape_and_dtype_of_wire(modality: Modality, variant: Variant) -> None:
    wire = modality.on_wire(variant)
    dtype = {"UINT8": np.uint8, "FLOAT": np.float32, "INT64": np.int64}[wire.dtype]
    items = modality.items(content(), variant)
    arrays = [items[index] for index in range(len(items))] + [
        made.item for made in modality.synthetic(content(), variant)
    ]
    assert {(array.shape, array.dtype.type) for array in arrays} == {(wire.shape, dtype)}


@EACH
def test_synthetic_items_are_deterministic_and_distinct(modality: Modality, variant: Variant) -> None:
    made, again = modality.synthetic(content(), variant), modality.synthetic(content(), variant)
    assert [one.name for one in made] == [one.name for one in again]
    assert same([one.item for one in made], [one.item for one in again])
    assert len({one.name for one in made}) == len({one.item.tobytes() for one in made}) == len(made)
    assert [one.name for one in made if one.has_content] != []
    assert [one.name for one in made if not one.has_content] != []


@EACH
def test_real_items_are_deterministic_and_distinct(modality: Modality, variant: Variant) -> None:
    items, again = modality.items(content(), variant), modality.items(content(), variant)
    assert len(items) >= 6
    arrays = [items[index] for index in range(len(items))]
    assert len({array.tobytes() for array in arrays}) == len(arrays)
    assert same(arrays, [again[index] for index in range(len(again))])


@EACH
@pytest.mark.parametrize("by", [1, 3])
def test_shifted_item_differs_and_keeps_its_values(modality: Modality, variant: Variant, by: int) -> None:
    items = modality.items(content(), variant)
    with_content = [made.item for made in modality.synthetic(content(), variant) if made.has_content]
    for item in [items[0], items[1], *with_content]:
        before = item.copy()
        moved = modality.shifted(item, by)
        assert (moved.shape, moved.dtype) == (item.shape, item.dtype)
        assert not np.array_equal(moved, item)
        assert np.array_equal(np.sort(moved, axis=None), np.sort(item, axis=None))
        assert np.array_equal(item, before)
        assert np.array_equal(modality.shifted(item, 0), item)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_cast_to_dtype_of_model(dtype: torch.dtype) -> None:
    image, audio, text = (modality for modality, _ in CASES)
    assert image.cast(torch.rand(2), dtype).dtype == dtype
    # The powers of a spectrum overflow fp16, and tokens are names.
    assert audio.cast(torch.rand(2), dtype).dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    tokens = torch.tensor([49407])
    assert text.cast(tokens, dtype) is tokens


@EACH
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_preprocess_gives_input_of_model(modality: Modality, variant: Variant, dtype: torch.dtype) -> None:
    wire = torch.from_numpy(modality.synthetic(content(), variant)[0].item[None].copy())
    entered = modality.preprocess(variant, dtype)(wire)
    assert tuple(entered.shape[1:]) == modality.at_model(variant).shape
    assert entered.dtype == (dtype if variant.kind == "image" else wire.dtype)
