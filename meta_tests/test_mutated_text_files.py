"""Damaged text files of every kind: read right, or refused in one message; rows that were left whole count."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from fixtures.bundle_check.digests import LOCK, Lock
from fixtures.decision import choose
from fixtures.decision.deployment import read_choice
from fixtures.errors import InputError
from fixtures.files import sha256_of
from fixtures.manifest import MANIFEST, published
from fixtures.modalities.text import DEFAULT_PROMPTS, read_prompts
from fixtures.modalities.tokenizers import HubTokenizer, load_hub_tokenizer
from fixtures.records import BundleLock, LockedFile, Manifest, SyntheticMarker
from fixtures.report.material import read_material
from fixtures.results.reading import read_run
from fixtures.results.rows import case_id_of
from fixtures.results.run_folder import RESULTS, SUMMARY, RunFolder
from fixtures.spec import load_spec
from fixtures.subject import require_known
from fixtures.synthetic.files import save_tokenizer
from fixtures.weights.bundle import SYNTHETIC_MARKER, Bundle
from meta_tests.conftest import ROOT, SMALL_SPEC
from meta_tests.file_records import record
from meta_tests.mutations import mutated, mutations_of_each, require_one_message
from meta_tests.result_rows import case, lines
from meta_tests.runs import row, run_of
from meta_tests.test_results_reading import document

RESULTS_OF = [case(batch=batch, rounds=6, error="é\u2028→") for batch in (1, 2, 4, 8)]
ROWS = "".join(f"{line}\n" for line in lines(*RESULTS_OF)).encode()
SUMMED = run_of(row("a"), row("b", batch=8))
MODEL = b"the exported file"
ROBERTA = HubTokenizer(("roberta-base",), (0, 1, 2))


@dataclass(frozen=True)
class Kind:
    """A kind of text file: the name and content of a good one, and what reads it."""

    name: str
    content: bytes
    read: Callable[[Path], object]


def _spec(path: Path) -> object:
    spec = load_spec(path)
    require_known(spec)
    return spec


def _published(path: Path) -> object:
    found = published(path.parent, "a/b.onnx")
    assert found.sha256 == sha256_of(path.parent / "a/b.onnx")
    return found


def _prompts(path: Path) -> object:
    prompts = read_prompts(path)
    text = path.read_bytes().removeprefix(b"\xef\xbb\xbf").decode()
    assert prompts == [line.strip() for line in text.split("\n") if line.strip()]
    return prompts


def _locked(path: Path) -> object:
    return Lock.open(path).files


def _synthetic(path: Path) -> object:
    Bundle(path.parent).require_readable_marker()
    return None


KINDS = {
    "spec": Kind("spec.yaml", SMALL_SPEC.encode(), _spec),
    "shipped spec": Kind("baseline.yaml", (ROOT / "specs/baseline_gpu.yaml").read_bytes(), _spec),
    "summary": Kind(SUMMARY, SUMMED.model_dump_json(indent=2).encode(), read_run),
    "benchmark JSON": Kind("bench.json", json.dumps(document(), indent=4).encode(), read_run),
    "manifest": Kind(MANIFEST, b"", _published),
    "choice": Kind("choice.json", choose(SUMMED, {}, None).model_dump_json(indent=2).encode(), read_choice),
    "lock": Kind(
        LOCK,
        BundleLock(files={"a": LockedFile(sha256="0" * 64, size_bytes=1, mtime_ns=1, locked_on="x")})
        .model_dump_json(indent=2)
        .encode(),
        _locked,
    ),
    "marker": Kind(
        SYNTHETIC_MARKER,
        SyntheticMarker(seed=0, warning="", files={"a": "0" * 64}).model_dump_json(indent=2).encode(),
        _synthetic,
    ),
    "prompts": Kind("prompts.txt", "a dog barks\nсобака лает\n犬が吠える\r\n\n".encode() * 3, _prompts),
}
_ALL = len(KINDS) + 3  # with rows, resumed rows and tokenizers


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_file_is_read_or_refused(tmp_path: Path, kind: str) -> None:
    own = KINDS[kind]
    content = own.content
    if kind == "manifest":
        (tmp_path / "a").mkdir()
        (tmp_path / "a/b.onnx").write_bytes(MODEL)
        entry = record(sha256_of(tmp_path / "a/b.onnx"))
        content = Manifest(files={"a/b.onnx": entry}).model_dump_json(indent=2).encode()
    path = tmp_path / own.name
    path.write_bytes(content)
    own.read(path)
    refused = 0
    for done, damaged in mutated(content, mutations_of_each(_ALL), kind):
        path.write_bytes(damaged)
        try:
            own.read(path)
        except InputError as error:
            require_one_message(error, done)
            refused += 1
        except Exception as error:
            raise AssertionError(done) from error
    assert refused


def untouched(damaged: bytes) -> set[str]:
    """Cases of which every row is whole, and no damaged row claims to be one."""
    left = damaged.split(b"\n")
    own = {result.facts.id: {line.encode() for line in lines(result)} for result in RESULTS_OF}
    whole = set.union(*own.values())
    claimed = {case_id_of(line) for line in left if line not in whole}
    return {case_id for case_id, rows in own.items() if rows <= set(left)} - claimed


def test_damaged_rows_cost_no_other_case(tmp_path: Path) -> None:
    path = tmp_path / RESULTS
    path.write_bytes(ROWS)
    right = {one.id: one for one in read_run(path).cases}
    for done, damaged in mutated(ROWS, mutations_of_each(_ALL), "rows"):
        path.write_bytes(damaged)
        expected = untouched(damaged)
        try:
            read = {one.id: one for one in read_run(path).cases}
            read_material(path, None, None, None)
        except InputError as error:
            # Rows of several runs are refused, so are files that do not begin as text.
            require_one_message(error, done)
            continue
        except Exception as error:
            raise AssertionError(done) from error
        assert {case_id: read.get(case_id) for case_id in expected} == {one: right[one] for one in expected}, done


def test_resumed_run_deletes_no_whole_case(tmp_path: Path) -> None:
    path = tmp_path / RESULTS
    for done, damaged in mutated(ROWS, mutations_of_each(_ALL), "resumed rows"):
        path.write_bytes(damaged)
        expected = untouched(damaged)
        try:
            found = {one.facts.id: one for one in RunFolder(tmp_path).recover()[0]}
        except InputError as error:
            require_one_message(error, done)
            assert path.read_bytes() == damaged
            continue
        except Exception as error:
            raise AssertionError(done) from error
        assert expected <= found.keys(), done
        left = set(path.read_bytes().split(b"\n"))
        rows = {line.encode() for result in RESULTS_OF if result.facts.id in expected for line in lines(result)}
        assert rows <= left, done
        assert RunFolder(tmp_path).recover()[0] == list(found.values()), done


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_damaged_tokenizer_gives_rows_or_is_refused(tmp_path: Path, name: str) -> None:
    save_tokenizer(tmp_path / "hf_cache/hub", "roberta-base", read_prompts(DEFAULT_PROMPTS)[:8])
    (path,) = tmp_path.rglob(name)
    content = path.read_bytes()
    load_hub_tokenizer.cache_clear()
    right = ROBERTA.encode(["a dog barks", ""], 8, tmp_path)
    assert right[1].tolist() == [0, 2, *[1] * 6]
    for done, damaged in mutated(content, mutations_of_each(_ALL * 2), name):
        path.write_bytes(damaged)
        load_hub_tokenizer.cache_clear()
        try:
            rows = ROBERTA.encode(["a dog barks", ""], 8, tmp_path)
        except InputError as error:
            require_one_message(error, done)
            continue
        except BaseException as error:  # a panic of a library in Rust is no Exception
            raise AssertionError(done) from error
        assert (rows.shape, rows.dtype.kind) == ((2, 8), "i"), done
        assert (rows >= 0).all(), done
    load_hub_tokenizer.cache_clear()
