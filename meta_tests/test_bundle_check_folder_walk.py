"""Folders of a models root: the tokenizers in the Hugging Face hub's cache, with the links that the hub lays out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from meta_tests.models_root import CLAP, RAFT, SPEC, TOKENIZER, ModelsRoot, half, of, pipe


@pytest.fixture
def place(tmp_path: Path) -> ModelsRoot:
    return ModelsRoot(tmp_path)


def _vocabulary_missing(place: ModelsRoot) -> None:
    (place.snapshot / "tokenizer.json").unlink()


def _vocabulary_cut(place: ModelsRoot) -> None:
    half(place.snapshot / "tokenizer.json")


def _snapshots_missing(place: ModelsRoot) -> None:
    shutil.rmtree(place.root / TOKENIZER / "snapshots")


def _reference_of_bytes(place: ModelsRoot) -> None:
    (place.root / TOKENIZER / "refs/main").write_bytes(b"\xff\xfe")


def _reference_out(place: ModelsRoot) -> None:
    (place.root / TOKENIZER / "refs/main").write_text("/etc")


def _file_in_its_place(place: ModelsRoot) -> None:
    shutil.rmtree(place.root / TOKENIZER)
    (place.root / TOKENIZER).write_text("")


def _empty_folder(place: ModelsRoot) -> None:
    shutil.rmtree(place.root / TOKENIZER)
    (place.root / TOKENIZER).mkdir()


def _vocabulary_out(place: ModelsRoot) -> None:
    file = place.snapshot / "tokenizer.json"
    file.rename(place.folder / "outside.json")
    file.symlink_to(place.folder / "outside.json")


def _blob_missing(place: ModelsRoot) -> None:
    file = place.snapshot / "tokenizer.json"
    file.unlink()
    file.symlink_to("../../blobs/abc")


def _vocabulary_a_pipe(place: ModelsRoot) -> None:
    pipe(place.snapshot / "tokenizer.json")


BROKEN: dict[Callable[[ModelsRoot], None], str] = {
    _vocabulary_missing: "tokenizer=unusable (",
    _vocabulary_cut: "tokenizer=unusable (",
    _snapshots_missing: "expected one of the snapshots. Copy the hub's cache whole.",
    _reference_of_bytes: "refs/main: revision=",
    _reference_out: "expected one of 0000000000000000000000000000000000000000. Copy the hub's cache whole.",
    _file_in_its_place: "folder=a file, expected a folder. Put it there; nothing is downloaded.",
    _empty_folder: "files=none, expected its files. Put them there.",
    _vocabulary_out: "outside.json, expected a file inside ",
    _blob_missing: "link=../../blobs/abc, which is not there, expected a whole folder. Copy the whole folder",
    _vocabulary_a_pipe: "file=neither a file nor a folder, expected a whole folder.",
}


@pytest.mark.parametrize("damage", BROKEN, ids=lambda damage: damage.__name__.strip("_"))
def test_broken_tokenizer_is_named_with_what_belongs_there(
    place: ModelsRoot, damage: Callable[[ModelsRoot], None]
) -> None:
    damage(place)
    check = place.check()
    (problem,) = check.problems
    assert problem.startswith(str(place.root / TOKENIZER))
    assert BROKEN[damage] in problem
    assert "What belongs there: the Hugging Face hub's cache of the tokenizer roberta-base, for clap_text, " in problem
    assert of(check, TOKENIZER).loads != "yes"


def _configured(place: ModelsRoot, **configuration: object) -> str:
    """The problem of a tokenizer with another tokenizer_config.json."""
    (place.snapshot / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 512, **configuration}))
    (problem,) = place.check().problems
    return problem


def test_tokenizer_that_cannot_pad_is_refused_with_the_file_to_add(place: ModelsRoot) -> None:
    """As the hub has roberta-base: the class of the tokenizer, which knows its padding, follows from config.json."""
    problem = _configured(place)
    assert (
        ": tokenizer=one without a padding token, expected that of roberta-base, which pads. Add config.json" in problem
    )
    (place.snapshot / "config.json").write_text('{"model_type": "roberta"}')
    check = place.check()
    assert check.problems == ()
    assert of(check, TOKENIZER).loads == "yes"


def test_tokenizer_of_another_model_is_refused(place: ModelsRoot) -> None:
    assert "tokenizer=another model's: it pads with id 5" in _configured(place, pad_token=_token_of(place, 5))


def test_tokenizer_without_its_words_is_refused(place: ModelsRoot) -> None:
    path = place.snapshot / "tokenizer.json"
    content = json.loads(path.read_text())
    words = content["model"]["vocab"]
    content["model"] |= {"vocab": {word: words[word] for word in list(words)[:5]}, "merges": []}
    path.write_text(json.dumps(content))
    (problem,) = place.check().problems
    assert "tokenizer=without a vocabulary: ids of 'a dog barks on a beach' are equal" in problem


def _token_of(place: ModelsRoot, number: int) -> str:
    words: dict[str, int] = json.loads((place.snapshot / "tokenizer.json").read_text())["model"]["vocab"]
    return next(word for word, own in words.items() if own == number)


def test_missing_tokenizers_are_named(place: ModelsRoot) -> None:
    place.spec.write_text(SPEC + CLAP.replace(", optional: true", ""))
    missing = [problem.split(": ")[:2] for problem in place.check().problems]
    assert missing == [
        [
            str(place.root / "audio/laion_clap/clap_ckpt.pt"),
            "file=missing, expected the official checkpoint. Put it there; nothing is downloaded. What belongs there",
        ],
        [
            str(place.root / "hf_cache/hub/models--bert-base-uncased"),
            "folder=missing, expected a folder. Put it there; nothing is downloaded. What belongs there",
        ],
        [
            str(place.root / "hf_cache/hub/models--facebook--bart-base"),
            "folder=missing, expected a folder. Put it there; nothing is downloaded. What belongs there",
        ],
    ]


def test_tokenizer_under_its_newer_name_is_found(place: ModelsRoot) -> None:
    other = "hf_cache/models--FacebookAI--roberta-base"
    (place.root / TOKENIZER).rename(place.root / other)
    check = place.check()
    assert check.problems == ()
    assert of(check, other).loads == "yes"


def test_links_inside_the_root_are_followed(place: ModelsRoot) -> None:
    """As the hub lays out its cache: snapshots lead to blobs. A link in a circle is visited once."""
    folder = place.root / TOKENIZER
    before = of(place.check(), TOKENIZER).size_bytes
    (folder / "blobs").mkdir()
    for file in list((folder / "snapshots").glob("*/*.json")):
        file.rename(folder / "blobs" / file.name)
        file.symlink_to(Path("../../blobs") / file.name)
    (folder / "loop").symlink_to(folder)
    moved = place.root / "visual/elsewhere.pth"
    (place.root / RAFT).rename(moved)
    (place.root / RAFT).symlink_to(moved)
    check = place.check()
    assert check.problems == ()
    assert of(check, TOKENIZER).size_bytes == before
