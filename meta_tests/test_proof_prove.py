"""fixtures/proof: faults that the gate refuses in fp16 too, and the tables that say so."""

from __future__ import annotations

import copy
import json
import math
import re
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fixtures import offline
from fixtures.errors import InputError
from fixtures.export.gate import GateError
from fixtures.proof import faults, prove
from fixtures.proof.faults import Fault, Plant, larger_tensors, structural_faults
from fixtures.proof.graph_edits import NotThereError
from fixtures.proof.prove import HONEST, LARGER, Verdict
from fixtures.proof.tables import fault_tables, is_wrong, network_table
from fixtures.proof.verdict_file import Verdicts
from meta_tests.exports import FEW, MIDAS, RAFT, Published, published, reference_of
from meta_tests.references import StoredReference
from tools import prove_gate

SPEC = """\
schema_version: 1
name: one
dtype: fp32
runtimes: [onnxruntime]
variants:
  - {name: midas_small_64, family: midas, model: MiDaS_small, height: 64, width: 96}
"""


@pytest.fixture(scope="module")
def half(bundle_root: Path) -> dict[str, Published]:
    of_families = {"midas": MIDAS, "raft": RAFT}
    return {name: published(bundle_root, one, "fp16", judged_on=FEW) for name, one in of_families.items()}


def planted_in(model: onnx.ModelProto) -> set[str]:
    """Names of the structural faults that a model has a place for."""
    found = set()
    for fault in structural_faults():
        copied = onnx.ModelProto()
        copied.CopyFrom(model)
        try:
            fault.plant(copied)
        except NotThereError:
            assert copied == model
            continue
        assert copied != model
        found.add(fault.name)
    return found


def test_each_family_has_places_for_its_faults(half: dict[str, Published]) -> None:
    assert planted_in(onnx.load(half["midas"].file)) == {"channels flipped", "half pixels"}
    assert planted_in(onnx.load(half["raft"].file)) == {
        "channels flipped",
        "inputs swapped",
        "an earlier refinement",
        "half pixels",
        "a norm's epsilon x 100",
    }


@pytest.mark.parametrize(
    ("family", "fault"),
    [
        ("midas", "the fifth of ten tensors"),
        ("midas", "half pixels"),
        ("raft", "inputs swapped"),
        ("raft", "an earlier refinement"),
    ],
)
def test_fault_is_refused_in_fp16(half: dict[str, Published], tmp_path: Path, family: str, fault: str) -> None:
    place = half[family].at(tmp_path)
    tensors = larger_tensors(onnx.load(half[family].file))
    plants = {"the fifth of ten tensors": tensors[4].plant, **{one.name: one.plant for one in structural_faults()}}
    gate = place.gate(half[family].tampered(plants[fault]))
    with pytest.raises(GateError, match=r"parity on cpu in fp16: .*: error="):
        gate.publish()
    gate.close()


# --- faults of transformers, on small models ---


def clip_like() -> onnx.ModelProto:
    """X · sigmoid(1.702 x) plus a causal mask, and a norm."""
    mask = np.triu(np.full((1, 1, 4, 4), -10_000.0, np.float32), k=1)
    constants = {"factor": np.float32(1.702), "mask": mask, "scale": np.ones(4, np.float32)}
    nodes = [
        helper.make_node("Mul", ["x", "factor"], ["scaled"]),
        helper.make_node("Sigmoid", ["scaled"], ["gate"]),
        helper.make_node("Mul", ["x", "gate"], ["hidden"]),
        helper.make_node("Add", ["hidden", "mask"], ["masked"]),
        helper.make_node("LayerNormalization", ["masked", "scale"], ["y"], epsilon=1e-5),
    ]
    shape = [1, 1, 4, 4]
    given, answer = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y"))
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    return helper.make_model(helper.make_graph(nodes, "clip", [given], [answer], tensors))


def test_faults_of_transformers_are_planted() -> None:
    assert planted_in(clip_like()) == {"GELU for QuickGELU", "causal mask off by one", "a norm's epsilon x 100"}
    model = clip_like()
    faults.mask_off_by_one(model)
    mask = next(numpy_helper.to_array(one) for one in model.graph.initializer if one.name == "mask")
    assert (mask[0, 0] < 0).tolist() == np.triu(np.ones((4, 4), bool), k=2).tolist()
    faults.larger_epsilon(model)
    assert model.graph.node[-1].attribute[0].f == pytest.approx(1e-3)
    faults.exact_gelu(model)
    onnx.checker.check_model(model, full_check=True)
    assert "Sigmoid" not in {node.op_type for node in model.graph.node}


def test_scale_that_a_norm_takes_away_is_no_fault() -> None:
    weights = np.ones((8, 8), np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "cancelled"], ["hidden"]),
        helper.make_node("LayerNormalization", ["hidden", "scale"], ["normal"], epsilon=1e-5),
        helper.make_node("MatMul", ["normal", "counts"], ["y"]),
    ]
    tensors = [numpy_helper.from_array(weights, name) for name in ("cancelled", "counts")]
    tensors.append(numpy_helper.from_array(weights[0], "scale"))
    model = helper.make_model(helper.make_graph(nodes, "norm", [], [], tensors))
    assert [fault.name for fault in larger_tensors(model)] == ["counts"]


# --- the tool ---


def verdict(fault: str, error: float, budget: float, problem: str = "refused", **facts: bool) -> Verdict:
    return Verdict("branch", "fp16", "cpu", fault, "", error, budget, problem, **facts)


def test_tables_show_what_was_judged_wrongly() -> None:
    verdicts = [verdict(HONEST, 1e-4, 1e-3, ""), verdict(LARGER, 5e-2, 1e-3), verdict(LARGER, 9e-4, 1e-3, "")]
    assert list(map(is_wrong, verdicts)) == [False, False, True]
    assert "\n".join(fault_tables(verdicts)).splitlines()[2:] == [
        "| fault | branch |",
        "|---|---|",
        "| none: an honest file | 1.0e-04 / 1.0e-03 |",
        "| one tensor 10% larger | **1 of 2, 9.0e-04 / 1.0e-03** |",
    ]
    unjudged = verdict(HONEST, 1.0, 1e-3, "the model overflows in fp16", is_judged=False)
    assert not is_wrong(unjudged)
    assert is_wrong(verdict(HONEST, 1.0, 1e-3))
    assert list(network_table([unjudged]))[-1] == "| branch | not judged: the model overflows in fp16 |"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch, own_environment: None, bundle_root: Path, tmp_path: Path) -> list[str]:
    """Its arguments; it finds a file that was exported before, and one fault to plant."""
    honest = published(bundle_root, MIDAS).file
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC)
    monkeypatch.setattr(prove, "write_model", lambda _export, _weights, path: path.write_bytes(honest.read_bytes()))
    monkeypatch.setattr(prove, "larger_tensors", lambda _: ())
    monkeypatch.setattr(prove_gate, "Reference", StoredReference)
    monkeypatch.setattr(prove.Proof, "_middle_batch_norm", lambda _: None)
    verdicts = str(tmp_path / "verdicts.jsonl")
    arguments = ["--spec", str(spec), "--models-root", str(bundle_root), "--dtype", "fp32", "--verdicts", verdicts]
    monkeypatch.setattr(sys, "argv", ["prove_gate", "faults", *arguments])
    return [verdicts]


@pytest.mark.parametrize(("plant", "code"), [(faults.channels_flipped, 0), (lambda _: None, 1)], ids=["seen", "unseen"])
def test_tool_fails_where_a_fault_passes(
    monkeypatch: pytest.MonkeyPatch, tool: list[str], capsys: pytest.CaptureFixture[str], plant: Plant, code: int
) -> None:
    monkeypatch.setattr(prove, "structural_faults", lambda: (Fault("planted", plant),))
    try:
        assert prove_gate.main() == code
    finally:
        offline.open_network()
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("midas_small_64 fp32 on cpu: none: passed: error ")
    assert said[-1] == f"2 files, {code} judged wrongly"
    rows = [json.loads(line) for line in Path(tool[0]).read_text().splitlines()]
    assert [row["fault"] for row in rows] == ["none", "planted"]


def test_tool_refuses_a_network_that_its_spec_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """It printed an empty table, and returned 0."""
    said = ended_with(monkeypatch, "networks", "--variants", "resnet18,swin")
    assert "--variants resnet18,swin: variant='swin', expected names of prove_networks: resnet18," in said


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"variant": "branch", "dty', r"line=not a verdict \("),
        ("[1]", r"line=not a verdict \("),
        ('{"variant": "branch"}', r"line=not a verdict \(7 fields wrong\)"),
        (json.dumps(asdict(verdict(LARGER, 1.0, 1e-3))), "fault='one tensor 10% larger', expected verdicts on honest"),
    ],
    ids=["cut", "list", "fields", "of faults"],
)
def test_tool_refuses_a_file_that_holds_something_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str, what: str
) -> None:
    path = tmp_path / "verdicts.jsonl"
    path.write_text(json.dumps(asdict(verdict(HONEST, math.inf, 1e-3))) + "\n" + line)
    said = ended_with(monkeypatch, "networks", "--verdicts", str(path))
    assert re.search(re.escape(f"{path}:2: ") + what, said)


def test_tool_judges_nothing_that_it_cannot_write_down(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = ended_with(monkeypatch, "networks", "--verdicts", str(tmp_path / "none" / "verdicts.jsonl"))
    assert "file=No such file or directory, expected a file that can be written" in said


def ended_with(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["prove_gate", *arguments])
    with pytest.raises(InputError) as refused:
        prove_gate.main()
    return str(refused.value)


def test_later_verdict_on_a_file_replaces_the_older_one(tmp_path: Path) -> None:
    """A run that is repeated after an interruption counts no fault twice."""
    path = tmp_path / "verdicts.jsonl"
    first, other, later = verdict(LARGER, 9e-4, 1e-3, ""), verdict(HONEST, 1e-4, 1e-3, ""), verdict(LARGER, 5e-2, 1e-3)
    for one in (first, other):
        Verdicts(path, are_of_faults=True).add(one)
    again = Verdicts(path, are_of_faults=True)
    again.add(later)
    assert again.all == Verdicts(path, are_of_faults=True).all == [later, other]


@pytest.mark.parametrize(("what", "code"), [("faults", 1), ("networks", 0)])
def test_branch_that_is_not_judged_proves_no_refusal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], what: str, code: int
) -> None:
    monkeypatch.setattr(sys, "argv", ["prove_gate", what])
    unjudged = verdict(HONEST, 1.0, 1e-3, "the model overflows in fp16", is_judged=False)
    monkeypatch.setattr(prove_gate, f"_{what}", lambda _: [unjudged])
    assert prove_gate.main() == code
    assert capsys.readouterr().out.splitlines()[-1] == "1 files, 0 judged wrongly, 1 not judged"


def test_file_of_a_model_whose_outputs_are_all_the_same_is_not_judged(
    bundle_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a network with random weights may be: nothing is wrong with its file."""
    monkeypatch.setattr("fixtures.export.accuracy._DRAWS", 0)  # an error without a verdict needs none
    place, flat = published(bundle_root, MIDAS), copy.copy(reference_of(bundle_root, MIDAS, FEW))
    flat.truth = [truth * 0 + 1 for truth in flat.truth]
    proof = prove.Proof(place.export, flat, place.weights, tmp_path)
    (found,) = proof._verdicts(HONEST, "", place.unchanged)
    assert found.problem.startswith("degenerate: the output for 'photograph 0' is constant (1) in the torch module")
    assert not found.is_judged
    assert not is_wrong(found)
