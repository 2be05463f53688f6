"""Prompts: read from files, made by the suite, and shifted as rows of tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fixtures.errors import InputError
from fixtures.modalities.text import DEFAULT_PROMPTS, Text, read_prompts
from fixtures.modalities.tokenizers import ClipTokenizer
from meta_tests.modality_cases import WORDS, content, same


def test_shipped_prompts_are_many_and_short() -> None:
    prompts = read_prompts(DEFAULT_PROMPTS)
    assert len(prompts) == len(set(prompts)) >= 32
    ends = (ClipTokenizer().encode(prompts, 77, Path("nowhere")) == 49407).argmax(axis=1)
    assert 4 <= ends.min() <= ends.max() < 76


def test_blank_lines_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("\n  a dog \r\n\t\n\nein Hündchen\n   ".encode())
    assert read_prompts(path) == ["a dog", "ein Hündchen"]


def test_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a dog\n", encoding="utf-8-sig")
    assert read_prompts(path) == ["a dog"]


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "prompts=0, expected a UTF-8 text file with a prompt a line. Name another file."),
        (b" \n\t\n", "prompts=0, "),
        ("ein Hündchen".encode("latin-1"), "encoding=not UTF-8 (byte 0xfc at 5), "),
        (b"dog\n" * 2**18 + b"x", "size=1048577, expected a UTF-8 text file with a prompt a line, up to 1 MiB"),
    ],
    ids=["empty", "blank", "Latin 1", "too large"],
)
def test_file_without_usable_prompts_is_refused(tmp_path: Path, raw: bytes, says: str) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(raw)
    with pytest.raises(InputError) as caught:
        read_prompts(path)
    assert str(caught.value).startswith(f"--prompts {path}: {says}")


@pytest.mark.parametrize(
    ("name", "reason"), [("absent.txt", "No such file or directory"), (".", "Is a directory")], ids=["absent", "folder"]
)
def test_unreadable_prompts_are_refused(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(InputError, match=f"file={reason}, expected a UTF-8 text file"):
        read_prompts(tmp_path / name)


def test_items_are_prompts_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a dog\n\na cat\n")
    rows = Text(ClipTokenizer()).items(content(prompts=path), WORDS)
    assert same(rows, list(ClipTokenizer().encode(["a dog", "a cat"], 77, tmp_path)))


def test_prompts_that_are_cut_are_named(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a dog\n" + "dog " * 75 + "\n" + "dog " * 76 + "\n" + "dog " * 200 + "\n")
    (remark,) = Text(ClipTokenizer()).remarks(content(prompts=path), WORDS)
    assert remark == "prompts: 2 of 4 have more than 77 tokens and are cut (number 3, 4; the longest has 202)"
    assert not list(Text(ClipTokenizer()).remarks(content(), WORDS))


def test_synthetic_texts_range_from_empty_to_full() -> None:
    made = {one.name: one.item for one in Text(ClipTokenizer()).synthetic(content(), WORDS)}
    assert made["nothing"].tolist() == [49406, 49407, *[0] * 75]
    for name in ("full length", "one word again"):
        assert made[name][-1] == 49407, name
        assert (made[name][1:-1] != 0).all(), name


def test_every_shipped_prompt_can_be_shifted() -> None:
    text = Text(ClipTokenizer())
    assert all(not np.array_equal(text.shifted(row, 3), row) for row in text.items(content(), WORDS))


@pytest.mark.parametrize("by", [1, 2, 3])
def test_shift_keeps_begin_end_and_padding(by: int) -> None:
    text = Text(ClipTokenizer())
    for row in text.items(content(), WORDS)[:10]:
        moved = text.shifted(row, by)
        specials = np.isin(row, text.tokenizer.special_tokens)
        assert np.array_equal(np.isin(moved, text.tokenizer.special_tokens), specials)
        assert np.array_equal(moved[specials], row[specials])
        assert sorted(moved) == sorted(row)
