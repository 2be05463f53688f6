"""Specs: read, or refused with file, line, rule and next step."""

from __future__ import annotations

import math
import re
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fixtures import registry
from fixtures.cases import cases_of
from fixtures.errors import InputError
from fixtures.spec import Spec, load_spec
from fixtures.spec.located_yaml import MAX_BYTES, load_located_yaml
from fixtures.subject import require_known
from meta_tests.any_value import with_any_value
from meta_tests.conftest import ROOT, SMALL_SPEC

MESSAGE = re.compile(r"^.+\.yaml(:\d+)?: .+=.*, expected .+\. .+", re.DOTALL)


ONE_TOKEN = "family: clap, model: HTSAT-tiny, tower: text, tokens: 1"


def refusal(tmp_path: Path, text: str) -> str:
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        require_known(load_spec(path))
    message = str(caught.value)
    assert MESSAGE.match(message), message
    return message


@pytest.mark.parametrize("path", sorted(ROOT.glob("specs/*.yaml")), ids=lambda path: path.name)
def test_shipped_specs_load(path: Path) -> None:
    assert load_spec(path).name == path.stem


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("height: 64", "hieght: 64", 8, "Did you mean 'height'?"),
        ("height: 64", "height: 65", 8, "midas_small_64.height=65, expected a multiple of 32 from 32 on for midas."),
        ("height: 64", "height: 1", 8, "Write 32, for example."),
        ("width: 128", "width: 96", 9, "raft_small_128.width=96, expected a multiple of 32 from 128 on for raft."),
        ("height: 64", "height: -64", 8, "expected greater than or equal to 1"),
        ("height: 64", "height: 0", 8, "expected greater than or equal to 1"),
        ("height: 64", "height: 1048576", 8, "expected less than or equal to 4096"),
        (
            "height: 64, width: 96",
            "height: 64",
            8,
            "variants[0].width=None, expected one of height and width;",
        ),
        (
            "height: 64, width: 96",
            "",
            8,
            "expected one of height and width; duration_s; tokens. Add the keys",
        ),
        (
            "width: 96",
            "width: 96, tokens: 77",
            8,
            "variants[0].tokens=77, expected one of height and",
        ),
        ("height: 64, width: 96", "tokens: 77", 8, "expected `height` and `width` instead, as its inputs are image"),
        (
            "width: 96",
            "width: 96, tower: image",
            8,
            "tower='image', expected none for midas. Remove it.",
        ),
        ("width: 96", "width: 96, classes: 7", 8, "midas_small_64.classes=7, expected none for midas. Remove it."),
        (
            "family: raft, model: raft_small, height: 128, width: 128",
            ONE_TOKEN,
            9,
            "tokens=1, expected 3 to 512",
        ),
        (
            "family: raft, model: raft_small, height: 128, width: 128",
            "family: clip, model: ViT-B-32, tower: text, tokens: 77, fit: crop",
            9,
            "fit='crop', expected none where no frames enter. Remove it.",
        ),
        ("width: 96", "width: 96, activation: gelu", 8, "midas_small_64.activation='gelu', expected none for midas."),
        ("width: 96", "width: 96, fit: stretch", 8, "fit='stretch', expected 'squash', 'crop' or 'pad'"),
        ("model: MiDaS_small", "model: MiDaS", 8, "expected one of MiDaS_small, DPT_Hybrid, DPT_Large."),
        ("family: raft", "family: timm", 9, "model='raft_small', expected a network of timm"),
        ("family: raft, model: raft_small", "family: timm, model: resnet18", 9, "Add `weights: FILE`"),
        ("height: 64", "height: '64'", 8, "expected a valid integer"),
        ("height: 64", "height: true", 8, "expected a valid integer"),
        ("height: 64", "height: 64.0", 8, "expected a valid integer"),
        ("height: 64, ", "", 8, "Add `height:` here."),
        ("[1, 2]", "[]", 5, "at least one entry"),
        ("[1, 2]", "[1, 1]", 5, "batches[1]=1, expected each entry once"),
        ("[1, 2]", "[0]", 5, "batches[0]=0, expected greater than or equal to 1"),
        ("[1, 2]", "1", 5, "expected a list"),
        (
            "runtimes: [torch]",
            "runtimes: [tensorflow]",
            4,
            f"expected one of {', '.join(registry.names('runtimes'))}. ",
        ),
        ("runtimes: [torch]", "runtimes: [torch-grpah]", 4, "Did you mean 'torch-graph'?"),
        ("family: raft", "family: rafts", 9, "Did you mean 'raft'?"),
        ("name: raft_small_128", "name: midas_small_64", 9, "Entry 0 is the same"),
        ("name: raft_small_128", "name: ../escape", 9, "variants[1].name='../escape'"),
        ("dtype: fp32", "dtype: int8", 3, "expected 'fp32', 'tf32' or 'fp16'"),
        ("width: 96", "width: 96, dtype: int8", 8, "variants[0].dtype='int8', expected 'fp32', 'tf32' or 'fp16'"),
        ("width: 96", "width: 96, precision: int8", 8, "variants[0].precision='int8', expected 'fp32', 'tf32' or"),
        (
            "width: 96",
            "width: 96, dtype: fp16,\n    precision: fp16",
            9,
            "variants[0].precision='fp16', expected `dtype` alone, of which `precision` is a deprecated alias. Remove",
        ),
        ("dtype: fp32", "dtype: fp32\ndtype: fp16", 4, "key='dtype' twice"),
        ("dtype: fp32", "dtype: !!timestamp 2001-99-99", 3, "valid YAML"),
        ("[1, 2]", "[001, 010]", 5, "batches[0]='001', expected a valid integer. Write plain digits, such as 1: no"),
        ("[1, 2]", "[1:04]", 5, "batches[0]='1:04', expected a valid integer. Write plain digits"),
        ("[1, 2]", "[1,024]", 5, "batches[1]='024', expected a valid integer"),
        ("cpu_budget_s: 0.2", "cpu_budget_s: 00.2", 6, "cpu_budget_s='00.2', expected a valid number. Write plain"),
        ("cpu_budget_s: 0.2", "cpu_budget_s: 1:30", 6, "cpu_budget_s='1:30', expected a valid number"),
        ("dtype: fp32", "dtype: fp32\nowner: true", 4, "owner=True, expected a valid string. Write it in quotes."),
        ("dtype: fp32", "dtype: fp32\nowner: 12", 4, "owner=12, expected a valid string. Write it in quotes."),
        ("width: 96", "width: 96, optional: y", 8, "optional='y', expected a valid boolean. Write true or false."),
        ("dtype: fp32", "dtype: [fp32", 4, "valid YAML"),
        ("dtype: fp32", "dtype: !!python/object:os.system {}", 3, "'fp32', 'tf32' or 'fp16'"),
        ("cpu_budget_s: 0.2", "cpu_budget_s: .inf", 6, "finite"),
        ("cpu_budget_s: 0.2", "cpu_budget: 0.2", 6, "Did you mean 'cpu_budget_s'?"),
        ("model: raft_small", "model: raft_small, weights: ../../etc/passwd", 9, "inside the models root"),
        ("schema_version: 1", "schema_version: 2", 1, "schema_version=2, expected 1"),
        ("schema_version: 1", "? [a]\n: 1", 1, "key=a collection"),
        ("dtype: fp32", 'dtype: fp32\nowner: "\\ud800"', 4, "text=half of a surrogate pair, expected Unicode"),
        ("dtype: fp32", 'dtype: fp32\n"own\\udfffer": me', 4, "text=half of a surrogate pair"),
    ],
)
def test_broken_rule_is_refused_with_its_line(tmp_path: Path, old: str, new: str, line: int, says: str) -> None:
    message = refusal(tmp_path, SMALL_SPEC.replace(old, new, 1))
    assert f"spec.yaml:{line}:" in message
    assert says in message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((word, word) for word in ("no", "yes", "on", "Off", "NO", "y", "1:04", "2001-02-03", "=", "1__0", "010")),
        *(
            ("0o10", 8),
            ("0x1F", 31),
            ("-3", -3),
            ("+4", 4),
            ("0", 0),
            ("1_000", 1000),
            ("1e3", 1000.0),
            (".5", 0.5),
            ("5.", 5.0),
        ),
        *(("true", True), ("False", False), ("~", None), ("null", None), ("", None), ("-.inf", -math.inf)),
        ('"\\u2028"', "\u2028"),
        ('"a\u2028b\x85c"', "a\u2028b\x85c"),
        ("a\u2028b # c\u2029key: 1", "a\u2028b"),
    ],
)
def test_plain_words_mean_what_people_read(tmp_path: Path, text: str, value: object) -> None:
    """The core schema of YAML 1.2, and its line ends. What is no number for all readers of YAML is text."""
    path = tmp_path / "a.yaml"
    path.write_text(f"key: {text}\nlast: 1\n")
    read = load_located_yaml(path)
    assert read.data == {"key": value, "last": 1}
    assert type(read.data["key"]) is type(value)
    assert read.where(("last",)) == f"{path}:2"


@pytest.mark.parametrize("text", ["", "- 1", "just text", "42"])
def test_document_that_is_not_a_mapping_is_refused(tmp_path: Path, text: str) -> None:
    assert "expected a mapping" in refusal(tmp_path, text)


def test_spec_without_variants_is_refused(tmp_path: Path) -> None:
    assert "variants=(), expected at least one entry" in refusal(
        tmp_path, SMALL_SPEC[: SMALL_SPEC.index("variants:")] + "variants: []\n"
    )


def test_aliases_that_multiply_are_refused(tmp_path: Path) -> None:
    """A million values: many times the limit, and few enough for this machine's memory where the limit is broken."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 6)]
    assert "Write fewer aliases" in refusal(tmp_path, "\n".join(lines))


@pytest.mark.parametrize("text", ["a: &a [*a]", "[" * 100_000, "{a: " * 5_000])
def test_endless_nesting_is_refused(tmp_path: Path, text: str) -> None:
    assert "Flatten the file" in refusal(tmp_path, text)


def test_huge_file_is_refused_unread(tmp_path: Path) -> None:
    assert "Split the file" in refusal(tmp_path, "#" * (MAX_BYTES + 1))


def test_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(InputError, match="UTF-8"):
        load_spec(path)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.yaml: file=No such file"):
        load_spec(tmp_path / "absent.yaml")


@pytest.mark.parametrize("key", ["dtype", "precision"])
def test_dtype_of_a_variant_may_be_spelt_precision(small_spec: Path, key: str) -> None:
    small_spec.write_text(SMALL_SPEC.replace("width: 96", f"width: 96, {key}: fp16"))
    spec = load_spec(small_spec)
    assert [variant.dtype for variant in spec.variants] == ["fp16", None]
    assert [case.dtype for case in cases_of(spec)] == ["fp16", "fp16", "fp32", "fp32"]


@pytest.mark.parametrize(("word", "optional"), [("yes", True), ("On", True), ("no", False), ("OFF", False)])
def test_truth_may_be_said_in_words_of_yaml_1_1(small_spec: Path, word: str, optional: bool) -> None:
    small_spec.write_text(SMALL_SPEC.replace("width: 96", f"width: 96, optional: {word}"))
    assert load_spec(small_spec).variants[0].optional is optional


def test_spec_is_frozen(small_spec: Path) -> None:
    spec = load_spec(small_spec)
    with pytest.raises(ValueError, match="frozen"):
        spec.dtype = "fp16"


def load_or_refuse(text: str) -> Spec | None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spec.yaml"
        path.write_text(text, errors="surrogateescape")
        try:
            return load_spec(path)
        except InputError as error:
            message = str(error)
    assert MESSAGE.match(message), message
    return None


def test_any_value_in_any_place_is_read_or_refused() -> None:
    for document in with_any_value(yaml.safe_load(SMALL_SPEC)):
        load_or_refuse(yaml.safe_dump(document, allow_unicode=True))


# What a slip, another program or an attacker writes into a file.
INSERTED = (
    *("", " ", "\n", "\t", "\0", "\x85", "\udcff", "9" * 30),
    *("&", "*a", "!!bool ", "? ", "- ", ": ", "{", "]", "'", "|", "#", "%"),
)


def test_any_damage_to_the_text_is_read_or_refused() -> None:
    """Characters put in before each token, or cut out. The last line is like the one before it."""
    starts = sorted({token.start_mark.index for token in yaml.scan(SMALL_SPEC)})
    for start in (start for start in starts if start < SMALL_SPEC.rindex("\n  - ")):
        for text in INSERTED:
            load_or_refuse(SMALL_SPEC[:start] + text + SMALL_SPEC[start:])
        for cut in (1, 5, 40):
            load_or_refuse(SMALL_SPEC[:start] + SMALL_SPEC[start + cut :])


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=200))
@example("")
@example("&")  # a key that is empty
def test_any_text_is_refused(text: str) -> None:
    assert load_or_refuse(text) is None
