"""fixtures/export/formats/aoti.py and fixtures/packages.py: a package passes its gate, and no other one does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._inductor import cpu_vec_isa

from fixtures.cases import Case, Export
from fixtures.errors import InputError
from fixtures.export.formats import aoti
from fixtures.export.formats.aoti import Aoti
from fixtures.export.gate import Gate, GateError, GateSettings, Make
from fixtures.export.reference import Reference
from fixtures.manifest import enter, published, read_manifest
from fixtures.package_files import tensors_text
from fixtures.packages import inputs_compared, open_package, platform_here
from fixtures.records import FileRecord, TensorRecord
from fixtures.runtimes import runtime_class
from fixtures.spec import Serving
from fixtures.subject import Sources, device_inputs, require_exported
from fixtures.triton.access import ServerAccess
from fixtures.triton.branches import served_branch
from fixtures.triton.config import configs
from fixtures.triton.repository import write_repository
from fixtures.triton.server import Endpoint
from fixtures.weights.bundle import Bundle
from meta_tests.exports import Published
from meta_tests.loading import CONTENT, torch_subject
from meta_tests.packages import PACKAGE, TINY, changed_members, changed_metadata, cut, published_package, relabelled

CPU = torch.device("cpu")
CASE = Case(TINY, 1, "fp32", "torch-aoti")
BY_PYTORCH = Serving(package_backend="torch_aoti")
SOME_BYTES = 4096  # of weights: enough to be found once in the package


@pytest.fixture(scope="module")
def package(bundle_root: Path) -> Published:
    """The package that has passed; tests of one worker share it."""
    return published_package(bundle_root)


def sources(package: Published, bundle_root: Path) -> Sources:
    return Sources(Bundle(bundle_root), package.folder)


# --- passes ---


def test_record_says_what_a_package_was_compiled_for(package: Published) -> None:
    record = published(package.folder, PACKAGE)
    assert (record.format, record.platform, record.precision) == ("aoti", platform_here(CPU), "fp32")
    assert record.inputs == (TensorRecord(name="INPUT__0", dtype="UINT8", shape=(1, 64, 64, 3)),)
    assert record.outputs == (TensorRecord(name="OUTPUT__0", dtype="FLOAT", shape=(1, 64, 64)),)
    assert [(one.provider, one.dtype, one.passed) for one in record.parity] == [("cpu", "fp32", True)]
    assert [hop.hop for hop in record.waterfall] == ["torch float64", "torch fp32 on cpu", "package fp32 on cpu"]
    assert (record.opsets, record.ir_version, record.placement) == ({}, None, None)


def test_runtime_answers_as_the_torch_module(package: Published, bundle_root: Path) -> None:
    runtime = runtime_class("torch-aoti")
    subject = runtime.load_subject(CASE, CPU, sources(package, bundle_root))
    (inputs, other) = device_inputs(subject, CASE, replace(CONTENT, models_root=bundle_root), 2)
    module = torch_subject(TINY, "fp32", CPU, Bundle(bundle_root)).module
    with runtime(subject, [inputs, other]) as running, torch.inference_mode():
        torch.testing.assert_close(running.infer(1), module(*other), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(running.infer(0), module(*inputs), rtol=1e-4, atol=1e-4)


def test_package_is_opened_without_a_compiler(package: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(*_given: object) -> bool:
        raise AssertionError("opening a package compiled a file")

    monkeypatch.setattr(cpu_vec_isa.VecISA, "check_build", compiled)
    for asked_once in (cpu_vec_isa.pick_vec_isa, cpu_vec_isa.valid_vec_isa_list):
        getattr(asked_once, "cache_clear", lambda: None)()
    assert callable(open_package(package.folder / PACKAGE, CPU))


# --- the gate refuses ---


def refused_by(package: Published, make: Make, reference: Reference | None = None, batch: int = 1) -> str:
    """Why the gate does not publish what `make` writes in the place of a package."""
    folder = package.folder.parent / "refused"
    export = replace(package.export, batch=batch)
    settings = GateSettings(folder, export.file, "24.08", False, None, "pytest -k this")
    gate = Gate(export, reference or package.reference, package.weights, settings, make)
    try:
        with pytest.raises(GateError) as refusal:
            gate.publish()
    finally:
        gate.close()
    assert not list(folder.rglob("*.pt2"))
    return str(refusal.value).removeprefix("graph: ")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("torch", "2.4.1"),
        ("architecture", "sm_70"),
        ("device", "cuda"),
        ("weights_sha256", "0" * 64),
        ("precision", "fp16"),
        ("outputs", tensors_text((TensorRecord(name="OUTPUT__0", dtype="FLOAT", shape=(1, 32, 32)),))),
    ],
)
def test_package_of_something_else_is_refused(package: Published, key: str, value: str) -> None:
    said = refused_by(package, changed_metadata(package.file, {key: value}))
    assert said.startswith(f"{key}={value}, expected "), said


def test_package_of_another_batch_is_refused(package: Published) -> None:
    said = refused_by(package, package.unchanged, batch=2)
    assert 'inputs=[["INPUT__0", "UINT8", 1, 64, 64, 3]], expected [["INPUT__0", "UINT8", 2, 64, 64, 3]]' in said


@pytest.mark.parametrize("part", [0.0, 0.5, 0.999])
def test_truncated_package_is_refused(package: Published, part: float) -> None:
    said = refused_by(package, cut(package.file, int(part * package.file.stat().st_size)))
    assert said.startswith("content=no AOTInductor package (")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (torch.zeros(1, 64, 64, dtype=torch.float64), "answer=(1, 64, 64) torch.float64, expected (1, 64, 64)"),
        (torch.zeros(1, 32, 64), "answer=(1, 32, 64) torch.float32, expected (1, 64, 64)"),
        ((torch.zeros(1, 64, 64),) * 2, "answer=tuple, expected one tensor"),
    ],
    ids=["dtype", "shape", "two"],
)
def test_package_with_another_answer_is_refused(
    package: Published, monkeypatch: pytest.MonkeyPatch, answer: object, said: str
) -> None:
    monkeypatch.setattr(aoti, "open_package", lambda *_: lambda *_inputs: answer)
    assert refused_by(package, package.unchanged).startswith(said)


def test_flipped_bit_is_refused(package: Published) -> None:
    def flip(_export: object, _weights: object, path: Path) -> None:
        content = bytearray(package.file.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    assert refused_by(package, flip).startswith("checksum of ")


def test_network_that_does_not_compile_is_one_message(package: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no C++ compiler\nand a page of advice")

    monkeypatch.setattr(torch.export, "export", fails)
    said = refused_by(package, Aoti(on_cuda=False).write)
    assert said.splitlines()[0] == "AOTInductor does not write MiDaS_small: RuntimeError: no C++ compiler"


@pytest.mark.usefixtures("one_draw")
def test_package_with_a_changed_weight_is_refused(package: Published, bundle_root: Path) -> None:
    """One weight 10% larger, in an archive that is whole: only its answers can tell."""
    module = torch_subject(TINY, "fp32", CPU, Bundle(bundle_root)).module
    weight = next(value for name, value in module.named_parameters() if name.endswith("conv_pw.weight"))
    old = weight.detach().numpy().tobytes()[:SOME_BYTES]
    new = (np.frombuffer(old, np.float32) * np.float32(1.1)).tobytes()
    found = []

    def change(name: str, content: bytes) -> bytes:
        found.append(content.count(old))
        return content.replace(old, new)

    said = refused_by(package, changed_members(package.file, change))
    assert sum(found) == 1, "the weight stands in the package once"
    assert "expected at most" in said


@pytest.mark.usefixtures("one_draw")
def test_package_with_another_preprocess_is_refused(package: Published, bundle_root: Path) -> None:
    """The truth is of frames that were normalised otherwise: a mean that is 0.02 off."""
    shifted = [
        replace(given, tensors=tuple((tensor + 0.02 / 0.225).astype(np.float32) for tensor in given.tensors))
        for given in package.reference.inputs[:2]
    ]
    checkpoint = bundle_root / package.weights.name
    assert "expected at most" in refused_by(package, package.unchanged, Reference(TINY, checkpoint, shifted))


# --- what was published is refused elsewhere ---


@pytest.mark.parametrize(("key", "value"), [("torch", "2.4.1"), ("architecture", "arm64 neon"), ("device", "cuda")])
def test_package_for_another_machine_is_refused(
    package: Published, bundle_root: Path, tmp_path: Path, key: str, value: str
) -> None:
    copy = relabelled(package, tmp_path / "copy", **{key: value})
    with pytest.raises(InputError, match=f"{PACKAGE}: {key}={value}, expected .*Export it again here"):
        require_exported(CASE, sources(copy, bundle_root))


def test_missing_package_says_which_format_to_export(bundle_root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"file=missing, .* with `aoti` among the spec's formats"):
        require_exported(CASE, Sources(Bundle(bundle_root), tmp_path))


def test_changed_package_is_refused(package: Published, bundle_root: Path, tmp_path: Path) -> None:
    copy = package.copy(tmp_path / "copy")
    content = copy.file.read_bytes()
    copy.file.unlink()
    copy.file.write_bytes(content + b"\0")
    with pytest.raises(InputError, match="sha256=another"):
        require_exported(CASE, sources(copy, bundle_root))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"platform": {"torch": "2.4.1"}}, "torch=2.4.1 in manifest.json, expected .*, as the package says"),
        ({"platform": None}, "platform=missing in manifest.json"),
        ({"weights": {"sha256": "0" * 64}}, "weights_sha256=0{64} in manifest.json"),
        ({"format": "onnx"}, "format=onnx in manifest.json, expected aoti"),
    ],
)
def test_entry_that_contradicts_its_package_is_refused(
    package: Published, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    copy = package.copy(tmp_path / "copy")
    entry = read_manifest(copy.folder).files[PACKAGE].model_dump(mode="json")
    for key, value in changes.items():
        entry[key] = {**entry[key], **value} if isinstance(value, dict) else value
    enter(copy.folder, PACKAGE, FileRecord.model_validate_json(json.dumps(entry)))
    with pytest.raises(InputError, match=f"{PACKAGE}: {said}"):
        published(copy.folder, PACKAGE)


def test_package_of_other_frames_is_refused(package: Published, bundle_root: Path) -> None:
    frames = TINY.model_validate({**TINY.model_dump(), "frame": {"height": 90, "width": 160}})
    with pytest.raises(InputError, match=r"input=\[1, 64, 64, 3\], expected \[1, 90, 160, 3\]"):
        require_exported(replace(CASE, variant=frames), sources(package, bundle_root))


# --- served ---


def test_repository_serves_a_package_under_the_name_of_the_ensemble(package: Published, tmp_path: Path) -> None:
    branch = served_branch(package.export, package.folder)
    repository = write_repository(tmp_path / "repository", [branch], "cpu", fused=True)
    assert sorted(repository.files) == ["midas_64/1/model.pt2", "midas_64/1/model.py", "midas_64/config.pbtxt"]
    assert repository.files["midas_64/1/model.pt2"] == branch.record.sha256
    assert repository.branches["midas_64"].models == {"package": "midas_64"}
    readme = (tmp_path / "repository" / "README.md").read_text()
    here = platform_here(CPU)
    assert f"- `midas_64`: torch {here.torch} on CPU ({here.architecture})" in readme
    assert "ensemble" not in readme.partition("## Start a server")[0]
    # The contract of the ensemble: clients notice no difference.
    assert branch.inputs == (TensorRecord(name="INPUT__0", dtype="UINT8", shape=(1, 64, 64, 3)),)
    assert branch.outputs == (TensorRecord(name="OUTPUT__0", dtype="FLOAT", shape=(1, 64, 64)),)


def test_package_of_another_device_is_not_built_for(package: Published, tmp_path: Path) -> None:
    branch = served_branch(package.export, package.folder)
    with pytest.raises(InputError, match=f"device of {PACKAGE}=cpu, expected cuda, where .* build with --device cpu"):
        write_repository(tmp_path / "repository", [branch], "cuda")
    assert list(tmp_path.iterdir()) == []


def test_package_of_other_frames_than_clients_send_is_not_served(package: Published) -> None:
    frames = TINY.model_validate({**TINY.model_dump(), "frame": {"height": 90, "width": 160}})
    with pytest.raises(InputError, match=f"frames of {PACKAGE}=64x64, expected 90x160, which clients send"):
        served_branch(replace(package.export, variant=frames), package.folder)


def test_configuration_leaves_what_the_package_says_to_it(package: Published) -> None:
    branch = served_branch(replace(package.export, dtype="fp32"), package.folder)
    config = configs(branch, "cuda", fused=False)["midas_64"]
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    assert (config.backend, config.max_batch_size, list(config.instance_group[0].gpus)) == ("python", 0, [0])
    assert parameters == {"FORCE_CPU_ONLY_INPUT_TENSORS": "no"}


def test_pytorch_backend_serves_a_package_of_its_torch(package: Published, tmp_path: Path) -> None:
    """Written by the rules of the backend; no such server is here to load it."""
    copy = relabelled(package, tmp_path / "copy", torch="2.11.0", device="cuda", architecture="sm_90")
    branch = served_branch(replace(copy.export, serving=BY_PYTORCH), copy.folder, "26.03")
    repository = write_repository(tmp_path / "repository", [branch], "cuda")
    config = configs(branch, "cuda", fused=False)["midas_64"]
    assert (config.backend, config.platform, config.max_batch_size) == ("pytorch", "torch_aoti", 0)
    assert ([one.name for one in config.input], [one.name for one in config.output]) == (["INPUT__0"], ["OUTPUT__0"])
    assert sorted(repository.files) == ["midas_64/1/model.pt2", "midas_64/config.pbtxt"]
    assert "holds no" not in (tmp_path / "repository" / "README.md").read_text()
    assert "which is not installed here; set TRITON_HTTP_URL" in (ServerAccess().why_not_served(branch) or "")
    assert ServerAccess(endpoint=Endpoint("there:8000", "there:8001")).why_not_served(branch) is None


@pytest.mark.parametrize(
    ("compiled", "triton", "rule"),
    [("2.12.0", "26.03", "the 2.11 of Triton 26.03"), ("2.11.0", "24.08", "one that Triton 24.08 is known to hold")],
)
def test_pytorch_backend_of_another_torch_is_refused(
    package: Published, tmp_path: Path, compiled: str, triton: str, rule: str
) -> None:
    copy = relabelled(package, tmp_path / "copy", torch=compiled)
    with pytest.raises(InputError, match=f"torch of {PACKAGE}={compiled}, expected {rule}"):
        served_branch(replace(copy.export, serving=BY_PYTORCH), copy.folder, triton)


def test_open_package_returns_one_float32_tensor(package: Published) -> None:
    answer = open_package(package.file, CPU)(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
    assert (answer.shape, answer.dtype) == ((1, 64, 64), torch.float32)


def test_inputs_are_compared_where_that_is_asked_for(package: Published) -> None:
    """Without it a package reads beyond a smaller input."""
    with inputs_compared(), pytest.raises(RuntimeError, match="unmatched dtype"):
        open_package(package.file, CPU)(torch.zeros(1, 64, 64, 3))


def test_id_and_path_of_a_package_are_its_own() -> None:
    onnx, aoti = (Export(TINY, 8, "fp16", format=one) for one in ("onnx", "aoti"))
    assert (onnx.id, aoti.id) == ("midas_small_64-b8-fp16", "midas_small_64-b8-fp16-aoti")
    assert (onnx.file, aoti.file) == ("midas/midas_small_64_b8.onnx", "midas/midas_small_64_b8.pt2")
    assert onnx.branch == aoti.branch == "midas_64_b8"
