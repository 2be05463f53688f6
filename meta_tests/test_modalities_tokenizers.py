"""Tokenizers give the rows that their models were trained with, from local files."""

from __future__ import annotations

import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from fixtures.errors import InputError
from fixtures.modalities import Item
from fixtures.modalities.text import DEFAULT_PROMPTS, Text, read_prompts
from fixtures.modalities.tokenizers import ClipTokenizer, HubTokenizer, hub_snapshot
from fixtures.models import family_named
from fixtures.spec import Variant
from fixtures.synthetic.files import save_tokenizer
from meta_tests.modality_cases import content

ROBERTA = ("roberta-base", "FacebookAI/roberta-base")
PROMPTS = ("a photo of a dog", "two people playing chess in a park", "waves at a beach")


def test_clip_tokens_are_those_of_its_readme() -> None:
    (row,) = ClipTokenizer().encode(["a diagram"], 77, Path("nowhere"))
    assert row.tolist() == [49406, 320, 22697, 49407, *[0] * 73]  # the example in CLIP's README


def test_clip_tokens_are_those_of_open_clip() -> None:
    from open_clip.tokenizer import tokenize  # noqa: PLC0415  three seconds, only for this one

    prompts = [*read_prompts(DEFAULT_PROMPTS), "", "DOG", "Über 犬 🐕 42 %", "dog " * 200]
    assert np.array_equal(ClipTokenizer().encode(prompts, 77, Path("nowhere")), tokenize(prompts, 77).numpy())


@pytest.mark.parametrize("length", [3, 16, 77])
def test_long_text_keeps_its_end_token(length: int) -> None:
    rows = ClipTokenizer().encode(["dog " * 200, "dog"], length, Path("nowhere"))
    dog = rows[1][1]
    assert rows.dtype == np.int64
    assert rows[0].tolist() == [49406, *[dog] * (length - 2), 49407]
    assert rows[1].tolist() == [49406, dog, 49407, *[0] * (length - 3)]


@pytest.fixture(scope="module")
def hub_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hub") / "root"
    save_tokenizer(root / "hf_cache" / "hub", "roberta-base", PROMPTS)
    return root


@pytest.fixture
def hub_copy(hub_root: Path, tmp_path: Path) -> Path:
    """The folder of the repository in a root that a test may change: read tokenizers are kept by their root."""
    return Path(shutil.copytree(hub_root, tmp_path / "root")) / "hf_cache" / "hub" / "models--roberta-base"


ROBERTA_TOKENIZER = HubTokenizer(ROBERTA, (0, 1, 2))


def test_roberta_rows_begin_end_and_are_padded(hub_root: Path) -> None:
    rows = ROBERTA_TOKENIZER.encode([*PROMPTS, "", "dog " * 300], 16, hub_root)
    assert rows.shape == (5, 16)
    assert rows.dtype == np.int64
    assert (rows[:, 0] == 0).all()
    for row in rows:
        (end,) = np.flatnonzero(row == 2)
        assert (row[end + 1 :] == 1).all()
        assert (row[1:end] > 2).all()
    assert rows[3].tolist() == [0, 2, *[1] * 14]
    assert rows[4][-1] == 2


def test_lengths_are_those_before_cutting(hub_root: Path) -> None:
    for tokenizer in (ROBERTA_TOKENIZER, ClipTokenizer()):
        prompts = [PROMPTS[0], "", "dog " * 300]
        lengths = tokenizer.lengths(prompts, hub_root)
        whole = tokenizer.encode(prompts, max(lengths) + 1, hub_root)
        ends = tokenizer.special_tokens[2]
        assert lengths == [int((row == ends).argmax()) + 1 for row in whole]


def test_clap_text_uses_tokenizer_of_the_hub(hub_root: Path) -> None:
    variant = Variant(name="t", family="clap", model="HTSAT-tiny", tower="text", tokens=12)
    text = family_named("clap").tower(variant).modality
    assert isinstance(text, Text)
    assert text.on_wire(variant) == Item("INT64", (12,))
    rows = text.items(content(hub_root), variant)
    made = text.synthetic(content(hub_root), variant)
    assert {row.shape for row in [*rows, *(one.item for one in made)]} == {(12,)}
    moved = text.shifted(rows[0], 1)
    assert not np.array_equal(moved, rows[0])
    assert np.array_equal(moved[rows[0] < 3], rows[0][rows[0] < 3])


@pytest.mark.parametrize(("repository", "cache"), list(product(ROBERTA, ("hf_cache/hub", "hf_cache"))))
def test_tokenizer_is_found_by_either_name_in_either_cache(tmp_path: Path, repository: str, cache: str) -> None:
    tokenizer_file, _, _ = save_tokenizer(tmp_path / cache, repository, PROMPTS)
    assert hub_snapshot(tmp_path, ROBERTA) == tokenizer_file.parent


def test_first_name_wins(tmp_path: Path) -> None:
    files = [save_tokenizer(tmp_path / "hf_cache" / "hub", name, PROMPTS) for name in reversed(ROBERTA)]
    assert hub_snapshot(tmp_path, ROBERTA) == files[1][0].parent


def test_missing_tokenizer_is_named_by_its_whole_path(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        ROBERTA_TOKENIZER.encode(["a dog"], 16, tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/hf_cache/hub/models--roberta-base: folder=missing, expected the tokenizer's folder. "
        "Put the hub's cache of roberta-base there; nothing is downloaded."
    )


def test_missing_snapshot_is_refused(hub_copy: Path) -> None:
    (hub_copy / "refs" / "main").write_text("f" * 40)
    with pytest.raises(InputError, match=rf"refs/main: revision='{'f' * 40}', expected one of {'0' * 40}"):
        hub_snapshot(hub_copy.parents[2], ROBERTA)


def test_only_snapshot_is_taken_without_a_reference(hub_copy: Path) -> None:
    root = hub_copy.parents[2]
    (hub_copy / "refs" / "main").unlink()
    assert hub_snapshot(root, ROBERTA).name == "0" * 40
    (hub_copy / "snapshots" / ("1" * 40)).mkdir()
    with pytest.raises(InputError, match=f"snapshots={'0' * 40}, {'1' * 40}, expected one, or `refs/main`"):
        hub_snapshot(root, ROBERTA)
    shutil.rmtree(hub_copy / "snapshots")
    with pytest.raises(InputError, match="snapshots=none, expected one, or `refs/main`"):
        hub_snapshot(root, ROBERTA)


@pytest.mark.parametrize("how", ["missing", "half", "zero bytes"])
def test_damaged_tokenizer_is_refused(hub_copy: Path, how: str) -> None:
    (file,) = hub_copy.rglob("tokenizer.json")
    whole = file.read_bytes()
    file.unlink()
    if how != "missing":
        file.write_bytes(whole[: len(whole) // 2] if how == "half" else b"")
    with pytest.raises(InputError) as caught:
        ROBERTA_TOKENIZER.encode(["a dog"], 16, hub_copy.parents[2])
    assert str(caught.value).startswith(f"{file.parent}: tokenizer=unusable (")
    assert "expected the tokenizer files of roberta-base. Put the whole snapshot there" in str(caught.value)
