"""fixtures/export/gate.py: it refuses every file that is another function, and then leaves everything as it was."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from fixtures.cases import Export
from fixtures.errors import InputError
from fixtures.export import gate as gate_module
from fixtures.export.exporter import write_model
from fixtures.export.gate import GateError, Make
from fixtures.export.reference import Reference
from fixtures.files import sha256_of
from fixtures.manifest import MANIFEST, read_manifest
from fixtures.manifest import published as published_record
from fixtures.models import raft as raft_module
from fixtures.onnx_session import open_session, run
from fixtures.proof.faults import channels_flipped, half_pixels, inputs_swapped, one_refinement_earlier
from fixtures.subject import locate_checkpoint
from fixtures.weights.bundle import Bundle, Weights
from meta_tests.exports import MIDAS, RAFT, Published, Tamper, published, reference_of

Array = NDArray[Any]
Places = dict[str, Published]
Nodes = list[onnx.NodeProto]


# Photographs 0 and 1 and noise, of the gate's eight inputs: refusing a file of RAFT on all takes five CPU seconds.
SOME = (0, 1, 3)


@pytest.fixture(scope="module")
def good(bundle_root: Path) -> Places:
    midas, raft = published(bundle_root, MIDAS), published(bundle_root, RAFT)
    return {
        "midas": replace(midas, reference=reference_of(bundle_root, MIDAS, SOME)),
        "raft": replace(raft, reference=reference_of(bundle_root, RAFT, SOME)),
        "batch": published(bundle_root, MIDAS, batch=2),
    }


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder to publish to, removed after the test: pytest keeps those of three runs."""
    yield tmp_path / "onnx"
    shutil.rmtree(tmp_path / "onnx", ignore_errors=True)


def digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_of(path) for path in folder.rglob("*") if path.is_file()}


def refusal(place: Published, make: Make, triton: str = "24.08", target_python: Path | None = None) -> str:
    """Why a file is not published. Checks that what was published before is still there, byte for byte."""
    before = digests(place.folder)
    gate = place.gate(make, triton, target_python)
    with pytest.raises(GateError) as caught:
        gate.publish()
    gate.close()
    assert digests(place.folder) == before
    return str(caught.value)


# --- another function ---


def initializer(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    found: onnx.TensorProto = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    return found


def weight(name: str, change: Callable[[Array], Array]) -> Tamper:
    def tamper(model: onnx.ModelProto) -> None:
        tensor = initializer(model, name)
        changed = change(numpy_helper.to_array(tensor).copy())
        tensor.CopyFrom(numpy_helper.from_array(changed.astype(np.float32), name))

    return tamper


def larger(weights: Array) -> Array:
    scaled: Array = 1.1 * weights
    return scaled


def largest_larger(weights: Array) -> Array:
    weights.flat[np.argmax(np.abs(weights))] *= 1.1
    return weights


def constant(model: onnx.ModelProto, value: object, dtype: type = np.float32) -> str:
    name = f"constant_{len(model.graph.initializer)}"
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype), name))
    return name


def ending_in(nodes: Callable[[onnx.ModelProto, str, str], Nodes]) -> Tamper:
    """More nodes at the end: `nodes` gets the old output and the name of the new one."""

    def tamper(model: onnx.ModelProto) -> None:
        name = model.graph.output[0].name
        last = next(node for node in model.graph.node if name in node.output)
        last.output[0] = "before"
        model.graph.node.extend(nodes(model, "before", name))

    return tamper


def times(factor: float) -> Tamper:
    return ending_in(lambda model, old, new: [helper.make_node("Mul", [old, constant(model, factor)], [new])])


def one_value_is_nan(model: onnx.ModelProto) -> None:
    addend = np.zeros([dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim])
    addend[0, 10, 20] = np.nan
    ending_in(lambda _, old, new: [helper.make_node("Add", [old, constant(model, addend)], [new])])(model)


def the_same_picture(model: onnx.ModelProto) -> None:
    noise = np.random.default_rng(0).normal(size=(1, 64, 96))
    ending_in(lambda _, _old, new: [helper.make_node("Identity", [constant(model, noise)], [new])])(model)


def rows_mixed_up(model: onnx.ModelProto) -> None:
    rows = constant(model, [1, 0], np.int64)
    ending_in(lambda _, old, new: [helper.make_node("Gather", [old, rows], [new], axis=0)])(model)


MIDAS_WEIGHT = "model.pretrained.layer3.1.4.conv_pw.weight"
RAFT_WEIGHT = "model.context_encoder.layer2.0.downsample.0.weight"


@pytest.mark.parametrize(
    ("family", "tamper", "says"),
    [
        ("midas", weight(MIDAS_WEIGHT, larger), "3 of 3 outputs fail"),
        ("raft", weight(RAFT_WEIGHT, larger), "photograph 0: error="),
        ("midas", weight(MIDAS_WEIGHT, largest_larger), ": error="),
        ("raft", weight(RAFT_WEIGHT, largest_larger), "noise: error="),
        ("midas", channels_flipped, "noise: error="),
        ("raft", channels_flipped, "photograph 0: error="),
        ("raft", inputs_swapped, "noise: error="),
        ("raft", one_refinement_earlier, "photograph 1: error="),
        ("midas", half_pixels, "depth_rank_distance="),
        ("raft", half_pixels, "3 of 3 outputs fail"),
        ("midas", times(0.0), "degenerate: the output for 'photograph 0' is constant (0)"),
        ("midas", the_same_picture, "degenerate: the output is the same for every input"),
        ("midas", times(np.nan), "degenerate: 6144 of 6144 values are not finite for 'photograph 0'"),
        ("midas", one_value_is_nan, "degenerate: 1 of 6144 values are not finite for 'photograph 0'"),
        ("batch", rows_mixed_up, "16 of 16 outputs fail"),
    ],
    ids=[
        "a weight of MiDaS 10% larger",
        "a weight of RAFT 10% larger",
        "one number of a weight of MiDaS 10% larger",
        "one number of a weight of RAFT 10% larger",
        "MiDaS takes BGR",
        "RAFT takes BGR",
        "inputs swapped",
        "one refinement earlier",
        "half pixels in MiDaS",
        "half pixels in RAFT",
        "depth all zero",
        "constant picture",
        "not a number",
        "one value not a number",
        "rows of a batch mixed up",
    ],
)
def test_another_function_is_refused(good: Places, folder: Path, family: str, tamper: Tamper, says: str) -> None:
    said = refusal(good[family].copy(folder), good[family].tampered(tamper))
    assert says in said
    assert all(line.startswith("parity on cpu in fp32: ") for line in said.splitlines())


def test_refusal_names_figure_rule_place_and_command(good: Places, folder: Path) -> None:
    said = refusal(good["raft"].copy(folder), good["raft"].tampered(half_pixels)).splitlines()
    assert said[0].startswith("parity on cpu in fp32: ")
    for part in (": error=0.", " against float64, expected at most ", " x torch's own ", " in fp32); ", "output[0, "):
        assert part in said[0]
    assert "largest difference" in said[0]
    assert said[-1].endswith("3 of 3 outputs fail. Reproduce: pytest -k this")


def test_torch_module_with_degenerate_output_is_refused(
    good: Places, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = good["midas"].reference
    monkeypatch.setitem(vars(reference), "truth", [np.ones((1, 64, 96)) for _ in reference.inputs])
    said = refusal(good["midas"].copy(folder), good["midas"].unchanged)
    assert said == (
        "parity on cpu in fp32: degenerate: the output for 'photograph 0' is constant (1) in the torch module itself, "
        "so that parity would prove nothing"
    )


# --- another module ---


def test_fault_in_module_and_file_alike_is_refused(
    bundle_root: Path, good: Places, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is what the wrong module computes; only the module of torchvision knows better."""
    place, inputs = good["raft"], good["raft"].reference.inputs
    monkeypatch.setattr(raft_module, "REFINEMENTS", raft_module.REFINEMENTS - 1)
    reference = Reference(RAFT, locate_checkpoint(RAFT, Bundle(bundle_root)), inputs[:2])
    wrong = replace(place.copy(folder), reference=reference)
    assert refusal(wrong, place.tampered(one_refinement_earlier)).startswith(
        "parity on cpu in fp32: the module is another function than its library's: photograph "
    )


def test_network_that_the_exporter_does_not_write_is_a_refusal(
    good: Places, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(*_: object, **__: object) -> None:
        try:
            raise NotImplementedError("no decomposition of aten::wonder")
        except NotImplementedError as error:
            raise RuntimeError("a report of a page\nand a half") from error

    monkeypatch.setattr("torch.onnx.export", export)
    assert refusal(good["midas"].copy(folder), write_model).splitlines() == [
        "graph: torch.onnx.export does not write MiDaS_small: NotImplementedError: no decomposition of aten::wonder",
        "parity on cpu in fp32: not judged: the file is broken, see its graph",
    ]


# --- a broken file ---


def dynamic_axis(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"


def later_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 22


def test_broken_file_is_refused_and_not_judged_further(good: Places, folder: Path) -> None:
    """test_export_graph_checks.py has every rule of a file."""
    assert refusal(good["raft"].copy(folder), good["raft"].tampered(dynamic_axis)).splitlines() == [
        "graph: input0: axis 0=batch, expected a fixed length",
        "parity on cpu in fp32: not judged: the file is broken, see its graph",
    ]


def test_later_opset_is_published_for_a_later_server(good: Places, folder: Path) -> None:
    assert "graph: opset=22" in refusal(good["midas"].copy(folder / "older"), good["midas"].tampered(later_opset))
    gate = good["midas"].at(folder).gate(good["midas"].tampered(later_opset), triton="25.05")
    record = gate.publish()
    gate.close()
    assert (record.opsets, record.triton) == ({"": 22}, "25.05")


@pytest.mark.parametrize(
    "content", [b"", b"no ONNX at all", b"\x08\x0a" * 1000], ids=["nothing", "text", "other binary"]
)
def test_file_that_is_no_model_is_refused(good: Places, folder: Path, content: bytes) -> None:
    def make(_export: Export, _weights: Weights, path: Path) -> None:
        path.write_bytes(content)

    assert refusal(good["raft"].copy(folder), make).startswith("graph: ")


@pytest.mark.parametrize("part", [0.1, 0.5, 0.999])
def test_file_cut_short_is_refused(good: Places, folder: Path, part: float) -> None:
    def make(_export: Export, _weights: Weights, path: Path) -> None:
        content = good["raft"].file.read_bytes()
        path.write_bytes(content[: int(part * len(content))])

    assert "content=unreadable" in refusal(good["raft"].copy(folder), make)


def test_file_that_was_not_written_is_refused(good: Places, folder: Path) -> None:
    def make(_export: Export, _weights: Weights, path: Path) -> None:
        assert not path.exists()

    assert "content=unreadable ([Errno 2]" in refusal(good["raft"].copy(folder), make)


# --- weights beside the file ---


def weights_beside(place: Published) -> Make:
    """Writes the published file with its weights in a second file."""

    def make(_export: Export, _weights: Weights, path: Path) -> None:
        data = path.with_suffix(".data").name
        onnx.save(onnx.load(place.file), path, save_as_external_data=True, location=data)

    return make


def test_good_file_is_published_with_the_weights_beside_it(good: Places, folder: Path) -> None:
    place = good["midas"].at(folder)
    gate = place.gate(weights_beside(good["midas"]))
    record = gate.publish()
    gate.close()
    files = {"midas/midas_small_64x96.onnx", "midas/midas_small_64x96.data"}
    assert set(digests(folder)) == {*files, MANIFEST, f".{MANIFEST}.lock"}
    assert record.data == {"midas_small_64x96.data": sha256_of(folder / "midas" / "midas_small_64x96.data")}
    output = run(open_session(place.file, "cpu", "fp32"), place.reference.inputs[0].tensors)
    assert np.isfinite(output).all()
    # With its weights inside it leaves no gigabytes of the one before.
    again = place.gate(good["midas"].unchanged)
    again.publish()
    again.close()
    assert not (folder / "midas" / "midas_small_64x96.data").exists()


# --- the ONNX Runtime of the target ---


def test_other_answer_of_the_target_is_refused(good: Places, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "answer_in", lambda *_: np.zeros((1, 64, 96), np.float32))
    said = refusal(good["midas"].copy(folder), good["midas"].unchanged, target_python=Path("any"))
    assert said.startswith("target: photograph 0: error=1, expected at most ")


def test_missing_interpreter_of_the_target_is_a_refusal(good: Places, folder: Path, tmp_path: Path) -> None:
    absent = tmp_path / "python"
    said = refusal(good["midas"].copy(folder), good["midas"].unchanged, target_python=absent)
    assert said == f"target: [Errno 2] No such file or directory: '{absent}'"


def test_target_that_does_not_load_the_file_is_a_refusal(good: Places, folder: Path, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'Unsupported model IR version: 10' >&2\nexit 1\n")
    python.chmod(0o755)
    said = refusal(good["midas"].copy(folder), good["midas"].unchanged, target_python=python)
    assert said == f"target: {python} does not run midas_small_64x96.onnx: Unsupported model IR version: 10"


def test_same_answer_of_the_target_is_no_problem(good: Places, folder: Path) -> None:
    gate = good["midas"].at(folder).gate(good["midas"].unchanged, target_python=Path(os.path.relpath(sys.executable)))
    assert gate.target_problems == []
    gate.close()


# --- what is published ---


def test_refused_file_leaves_an_empty_folder_empty(good: Places, folder: Path) -> None:
    refusal(good["midas"].at(folder), good["midas"].tampered(channels_flipped))
    assert list(folder.iterdir()) == []


def test_good_file_replaces_the_older_one_and_its_entry(good: Places, folder: Path) -> None:
    place = good["midas"].copy(folder)
    before = read_manifest(folder).files[place.export.file]

    def noted(model: onnx.ModelProto) -> None:
        model.doc_string = "a newer one"

    gate = place.gate(good["midas"].tampered(noted))
    record = gate.publish()
    gate.close()
    assert record.sha256 == sha256_of(place.file) != before.sha256
    assert published_record(folder, place.export.file) == record
    assert not list(folder.glob(".staging-*"))


def test_record_describes_the_published_file(good: Places) -> None:
    place = good["raft"]
    record = published_record(place.folder, place.export.file)
    assert (record.family, record.model, record.height, record.width) == ("raft", "raft_small", 128, 128)
    assert (record.batch, record.precision, record.opsets, record.ir_version) == (1, "fp32", {"": 18}, 10)
    assert record.weights.sha256 == sha256_of(place.weights.path)
    assert record.weights.synthetic
    assert record.size_bytes == place.file.stat().st_size
    assert [tensor.name for tensor in (*record.inputs, *record.outputs)] == ["input0", "input1", "flow"]
    (parity,) = record.parity
    assert (parity.provider, parity.dtype, parity.passed, len(parity.inputs)) == ("cpu", "fp32", True, 8)
    assert [hop.hop for hop in record.waterfall] == ["torch float64", "torch fp32 on cpu", "ONNX fp32 on cpu"]
    assert record.placement is None


def test_damaged_manifest_is_refused_before_anything_is_made(good: Places, folder: Path) -> None:
    place = good["raft"].copy(folder)
    (folder / MANIFEST).write_text("{")
    before = digests(folder)
    with pytest.raises(InputError, match=r"manifest\.json: content=unreadable"):
        place.gate(place.unchanged)
    assert digests(folder) == before
