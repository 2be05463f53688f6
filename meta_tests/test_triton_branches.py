"""Served branches: which published files are refused, and names that two models would share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fixtures.errors import InputError
from fixtures.manifest import MANIFEST, read_manifest
from fixtures.records import ParityRecord, PlacementRecord
from fixtures.triton.branches import require_one_name_each, served_branch
from meta_tests.branches import publish_stand_in, recorded
from meta_tests.exports import RAFT
from meta_tests.file_records import with_tuning
from meta_tests.repositories import MIDAS_FILE, SPEC, Place, new_place, one_byte_changed


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return new_place(tmp_path / "place", monkeypatch)


# --- files that are refused ---


def no_manifest(place: Place) -> None:
    (place.onnx_dir / MANIFEST).unlink()


def no_entry(place: Place) -> None:
    path = place.onnx_dir / MANIFEST
    path.write_text(path.read_text().replace(MIDAS_FILE, "another.onnx"))


def no_file(place: Place) -> None:
    (place.onnx_dir / MIDAS_FILE).unlink()


def parity_failed(place: Place) -> None:
    place.enter(parity=(ParityRecord(provider="cuda", dtype="tf32", passed=False, inputs=()),))


def never_judged(place: Place) -> None:
    place.enter(parity=())


def placement_failed(place: Place) -> None:
    place.enter(placement=PlacementRecord(nodes={"CPUExecutionProvider": 1}, passed=False))


def other_precision(place: Place) -> None:
    place.enter(precision="fp16")


def other_batch(place: Place) -> None:
    place.enter(batch=2)


def other_model(place: Place) -> None:
    place.enter(model="DPT_Large")


def other_size(place: Place) -> None:
    place.enter(height=384)


def opset_of_a_newer_release(place: Place) -> None:
    place.enter(opsets={"": 22})


def ir_version_of_a_newer_release(place: Place) -> None:
    place.enter(ir_version=11)


def other_fit(place: Place) -> None:
    place.spec.write_text(SPEC.replace("family: midas", "fit: pad, family: midas"))


def other_activation(place: Place) -> None:
    place.enter(activation="gelu")


def other_graph(place: Place) -> None:
    place.enter(graph="contrib")


def no_normalization(place: Place) -> None:
    place.enter(normalization=None)


NEWER = "expected opset 21 and IR 10 at most, which Triton 24.08 to 24.11 loads. Export it again"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (no_manifest, f"{MIDAS_FILE}: entry in manifest.json=missing, expected a file that passed its gate. Export it"),
        (no_entry, f"{MIDAS_FILE}: entry in manifest.json=missing, expected a file that passed its gate. Export it"),
        (no_file, f"{MIDAS_FILE}: file=missing, expected an exported file. Export it"),
        (parity_failed, f"{MIDAS_FILE}: parity on cuda in tf32=failed in manifest.json, expected a file that passed"),
        (never_judged, f"{MIDAS_FILE}: parity=never judged in manifest.json, expected a file that passed its gate."),
        (placement_failed, f"{MIDAS_FILE}: placement=failed in manifest.json, expected a file that passed its gate."),
        (one_byte_changed, f"{MIDAS_FILE}: sha256=another, expected the "),
        (other_precision, f"precision of {MIDAS_FILE}=fp16, expected fp32, as the spec says. Export it again"),
        (other_batch, f"batch of {MIDAS_FILE}=2, expected 1, as the spec says. Export it again"),
        (other_model, f"model of {MIDAS_FILE}=DPT_Large, expected MiDaS_small, as the spec says. Export it again"),
        (other_size, f"height of {MIDAS_FILE}=384, expected 256, as the spec says. Export it again"),
        (opset_of_a_newer_release, f"opset=22, IR version=10, {NEWER}"),
        (ir_version_of_a_newer_release, f"opset=18, IR version=11, {NEWER}"),
        (other_activation, f"activation of {MIDAS_FILE}=gelu, expected None, as the spec says. Export it again"),
        (other_graph, f"graph of {MIDAS_FILE}=contrib, expected portable, as the spec says. Export it again"),
        (other_fit, f"fit of {MIDAS_FILE}=squash, expected pad, as the spec says. Export it again"),
        (no_normalization, f"normalization of {MIDAS_FILE}=missing, expected a manifest that says how frames are"),
    ],
    ids=lambda value: value.__name__.replace("_", " ") if callable(value) else "",
)
def test_file_without_a_valid_entry_is_refused(place: Place, spoil: Callable[[Place], None], says: str) -> None:
    spoil(place)
    said = place.refusal()
    assert said.startswith("branch midas_256: ")
    assert says in said


def test_newer_release_takes_a_newer_opset(place: Place) -> None:
    opset_of_a_newer_release(place)
    place.spec.write_text(SPEC + 'target: {triton: "25.03"}\n')
    assert place.build().triton == "25.03"


def test_release_defaults_to_the_one_of_the_gate(place: Place) -> None:
    """Of a spec without a target; a release in the spec holds the file to its limits."""
    place.enter(opsets={"": 22}, triton="25.05")
    assert served_branch(place.exports[0], place.onnx_dir).triton == "25.05"
    with pytest.raises(InputError, match=r"branch midas_256: opset=22"):
        served_branch(place.exports[0], place.onnx_dir, "24.12")


# --- options that a file was tuned to ---


def test_unknown_release_of_a_file_is_refused(place: Place) -> None:
    place.enter(triton="99.99")
    with pytest.raises(InputError, match=rf"release of {MIDAS_FILE}=99.99, expected one from 24.08 to "):
        served_branch(place.exports[0], place.onnx_dir)


def test_option_that_the_release_does_not_honour_is_refused(place: Place) -> None:
    entry = read_manifest(place.onnx_dir).files[MIDAS_FILE]
    place.enter(tunings=with_tuning(entry, {"prefer_nhwc": "1"}, "cuda").tunings)
    assert place.refusal() == (
        f"branch midas_256: option of {MIDAS_FILE}: prefer_nhwc=1, expected Triton 24.12 or newer, and this is 24.08. "
        "Tune it for that release: `python -m tools.tune_files`, or name a newer `target.triton`."
    )


def test_options_tuned_for_another_release_are_said(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.spec.write_text(SPEC + 'target: {triton: "25.03"}\n')
    entry = read_manifest(place.onnx_dir).files[MIDAS_FILE]
    place.enter(tunings=with_tuning(entry, {"prefer_nhwc": "1"}, "cuda").tunings)
    place.build()
    remark = "  options tuned for another Triton release: 24.12, and this is 25.03\n"
    assert capsys.readouterr().out.count(remark) == 1
    written = {path.parent.name: path.read_text() for path in place.folder.rglob("config.pbtxt")}
    assert [name for name, text in written.items() if 'key: "prefer_nhwc"' in text] == ["midas_256_onnx"]


# --- names ---

CLASHING = """\
schema_version: 1
name: clashing
dtype: fp32
runtimes: [triton]
variants:
  - {name: midas_small_64, family: midas, model: MiDaS_small, height: 64, width: 96}
  - {name: midas_hybrid_64, family: midas, model: DPT_Hybrid, height: 64, width: 96}
"""


def test_two_variants_with_one_branch_name_are_refused(place: Place) -> None:
    place.spec.write_text(CLASHING)
    for export in place.exports:
        publish_stand_in(place.onnx_dir, export)
    assert place.refusal() == (
        "branch midas_64x96: model preprocess_midas_64x96=taken by midas_small_64 and midas_hybrid_64, "
        "expected a name for each. Give one of the variants a `branch:` of its own in the spec."
    )
    place.spec.write_text(CLASHING.replace("DPT_Hybrid,", "DPT_Hybrid, branch: hybrid,"))
    assert list(place.build().branches) == ["midas_64x96", "hybrid"]


@pytest.mark.parametrize("branch", ["preprocess_midas_64x96", "midas_64x96_onnx"])
def test_branch_named_like_a_step_of_another_is_refused(branch: str) -> None:
    other = recorded(RAFT.model_copy(update={"branch": branch}))
    with pytest.raises(InputError, match=rf"branch {branch}: model {branch}=taken by midas_small_64 and raft_small"):
        require_one_name_each([recorded(), other], fused=False)


def test_name_of_a_fused_model_counts_only_with_fused_files() -> None:
    branches = [recorded(), recorded(RAFT.model_copy(update={"branch": "midas_64x96_fused"}))]
    require_one_name_each(branches, fused=False)
    with pytest.raises(InputError, match="model midas_64x96_fused=taken by"):
        require_one_name_each(branches, fused=True)


def test_branch_named_like_a_batch_of_another_is_refused(place: Place) -> None:
    first, second = recorded(batch=8), recorded(RAFT.model_copy(update={"branch": "midas_64x96_b8"}))
    assert first.name == second.name
    with pytest.raises(InputError, match="model preprocess_midas_64x96_b8=taken by"):
        require_one_name_each([first, second], fused=False)
    assert not place.out.exists()
