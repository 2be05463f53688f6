"""Entries of the catalog: read, or refused with file, line, rule and next step; those shipped name what is served."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from fixtures.bundle_check.catalog import AUTO, CatalogEntry, load_catalog
from fixtures.cases import exports_of
from fixtures.errors import InputError
from fixtures.models import tower_of
from fixtures.spec import load_spec
from fixtures.triton.branches import ServedBranch
from fixtures.triton.config import _DTYPES
from meta_tests.any_value import with_any_value
from meta_tests.branches import record_of
from meta_tests.conftest import ROOT
from meta_tests.test_spec import MESSAGE

SERVED = ROOT / "specs/baseline_gpu.yaml"
CATALOG = load_catalog(ROOT / "specs/catalog")
TRITON = {entry.model_name: entry for entry in CATALOG.values() if entry.runtime == "triton"}

INPROCESS = """\
model_name: raft_small
role: flow
runtime: inprocess
engine: torch
precision: fp32
device_policy: auto
weights_digest: auto
local_artifacts:
  - {kind: file, path: visual/raft.pth}
  - {kind: dir, path: hf_cache/hub}
"""
ON_TRITON = INPROCESS.replace("inprocess", "triton") + (
    "runtime_params:\n"
    "  model: raft_256\n"
    "  inputs: [{name: INPUT0__0, datatype: UINT8}, {name: INPUT1__0, datatype: UINT8}]\n"
    "  outputs: [{name: OUTPUT__0, datatype: FP32}]\n"
)


def load(folder: Path, text: str) -> CatalogEntry:
    path = folder / "catalog/vision/entry.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    (entry,) = load_catalog(folder / "catalog").values()
    return entry


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(InputError) as caught:
        load(folder, text)
    assert MESSAGE.match(str(caught.value)), str(caught.value)
    return str(caught.value)


# --- the form ---


def test_entries_of_both_runtimes_are_read(tmp_path: Path) -> None:
    entry = load(tmp_path, INPROCESS)
    assert (entry.model_name, entry.weights_digest, entry.weights_file) == ("raft_small", AUTO, "visual/raft.pth")
    assert entry.runtime_params is None
    served = load(tmp_path, ON_TRITON).runtime_params
    assert served is not None
    assert [tensor.name for tensor in served.inputs] == ["INPUT0__0", "INPUT1__0"]


def test_entry_is_frozen(tmp_path: Path) -> None:
    entry = load(tmp_path, INPROCESS)
    with pytest.raises(ValueError, match="frozen"):
        entry.precision = "fp16"


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("device_policy:", "device_polcy:", 6, "Did you mean 'device_policy'?"),
        ("kind: file", "knid: file", 9, "Did you mean 'kind'?"),
        ("datatype: FP32", "dtype: FP32", 14, "Did you mean 'datatype'?"),
        ("role: flow\n", "", 1, "Add `role:` here."),
        ("role: flow", "role: flows", 2, "role='flows', expected 'depth', 'flow', 'embedding' or 'classification'"),
        ("runtime: triton", "runtime: server", 3, "expected 'inprocess' or 'triton'"),
        ("engine: torch", "engine: tensorrt", 4, "expected 'torch' or 'onnxruntime'"),
        ("precision: fp32", "precision: int8", 5, "'fp32', 'tf32' or 'fp16'"),
        ("device_policy: auto", "device_policy: gpu", 6, "'cuda', 'cpu' or 'auto'"),
        ("weights_digest: auto", "weights_digest: auot", 7, "expected `auto`, or a sha256 of 64 lower-case"),
        ("weights_digest: auto", f"weights_digest: {'A' * 64}", 7, "64 lower-case hexadecimal digits"),
        ("weights_digest: auto", f"weights_digest: {'a' * 63}", 7, "Write what `sha256sum FILE` prints, in quotes"),
        ("weights_digest: auto", f"weights_digest: {'1' * 64}", 7, "64 lower-case hexadecimal digits"),
        ("kind: file", "kind: link", 9, "expected 'file' or 'dir'"),
        ("visual/raft.pth", "/visual/raft.pth", 9, "expected a path inside the models root. Write it relative."),
        ("visual/raft.pth", "visual/../../raft.pth", 9, "expected a path inside the models root"),
        ("visual/raft.pth", ".", 9, "expected a path inside the models root"),
        ("visual/raft.pth", "./visual//raft.pth", 9, "Write 'visual/raft.pth', for example."),
        ("visual/raft.pth", '"visual/ra\\0ft.pth"', 9, "a plain path"),
        ("visual/raft.pth", "hf_cache/hub", 10, "local_artifacts[1].path='hf_cache/hub', expected each entry once"),
        ("INPUT1__0", "INPUT0__0", 13, "runtime_params.inputs[1].name='INPUT0__0', expected each entry once"),
        ("[{name: OUTPUT__0, datatype: FP32}]", "[]", 14, "at least one entry"),
        ("datatype: FP32", "datatype: FLOAT", 14, "'FP32'"),
        ("runtime: triton", "runtime: inprocess", 11, "expected none for the runtime inprocess. Remove it."),
    ],
)
def test_broken_rule_is_refused_with_its_line(tmp_path: Path, old: str, new: str, line: int, says: str) -> None:
    assert old in ON_TRITON
    message = refusal(tmp_path, ON_TRITON.replace(old, new, 1))
    assert f"entry.yaml:{line}:" in message
    assert says in message


def test_entry_for_triton_without_parameters_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, ON_TRITON[: ON_TRITON.index("runtime_params")])
    assert "runtime_params=None, expected model, inputs and outputs for the runtime triton" in message


def test_digest_without_a_file_is_refused(tmp_path: Path) -> None:
    text = INPROCESS.replace("kind: file", "kind: dir").replace(": auto\nlocal", f": {'a' * 64}\nlocal")
    assert "expected `auto` where no artifact is a file" in refusal(tmp_path, text)


@pytest.mark.parametrize("text", ["", "- 1", "just text"])
def test_document_that_is_not_a_mapping_is_refused(tmp_path: Path, text: str) -> None:
    assert "expected a mapping. Start with `model_name:`." in refusal(tmp_path, text)


def test_second_entry_of_the_same_name_is_refused(tmp_path: Path) -> None:
    load(tmp_path, INPROCESS)
    (tmp_path / "catalog/vision/second.yaml").write_text(INPROCESS)
    with pytest.raises(InputError, match=r"second\.yaml:1: model_name='raft_small', expected a name that vision/entry"):
        load_catalog(tmp_path / "catalog")


@pytest.mark.parametrize("name", ["absent", "empty"])
def test_folder_without_entries_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=f"{name}: entries=0, .* Name another with --catalog"):
        load_catalog(tmp_path / name)


def test_any_value_in_any_place_is_read_or_refused(tmp_path: Path) -> None:
    for document in with_any_value(yaml.safe_load(ON_TRITON)):
        text, message = yaml.safe_dump(document, allow_unicode=True), None
        try:
            load(tmp_path, text)
        except InputError as error:
            message = str(error)
        assert message is None or MESSAGE.match(message), message


# --- what is shipped ---


def test_every_branch_of_the_baseline_has_an_entry_as_it_is_served() -> None:
    """Names and datatypes are those of the ensembles that the repository builder makes."""
    exports = {export.branch: export for export in exports_of(load_spec(SERVED)) if export.batch == 1}
    assert TRITON.keys() == exports.keys()
    for name, export in exports.items():
        entry, served = TRITON[name], ServedBranch(export, record_of(export), Path("nowhere.onnx"), "24.08")
        params = entry.runtime_params
        assert params is not None
        assert params.model == served.models["ensemble"].name
        for own, tensors in ((params.inputs, served.inputs), (params.outputs, served.outputs)):
            expected = [(tensor.name, _DTYPES[tensor.dtype].removeprefix("TYPE_")) for tensor in tensors]
            assert [(tensor.name, tensor.datatype) for tensor in own] == expected
        assert entry.precision == export.file_dtype
        assert entry.engine == "onnxruntime"
        assert entry.role == tower_of(export.variant).task
