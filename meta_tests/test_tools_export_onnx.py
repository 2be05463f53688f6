"""`python -m tools.export_onnx`: one file through the same gate as `pytest export_tests`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import onnx
import pytest

from fixtures import offline
from fixtures.errors import InputError
from fixtures.export.gate import Gate
from fixtures.files import sha256_of
from fixtures.manifest import MANIFEST, enter, read_manifest
from fixtures.manifest import published as published_record
from fixtures.results.run_folder import RunFolder
from fixtures.target import OLDEST
from fixtures.triton.stored_repository import read_repository
from meta_tests.conftest import Suite
from meta_tests.exports import EXPORT_SPEC, MIDAS, RAFT, Published, published
from tools import build_model_repository, export_onnx, single_export


@pytest.fixture(autouse=True)
def _network_opened(own_environment: None, stored_references: None) -> Iterator[None]:
    """The tool sets environment variables of its process and shuts its network."""
    yield
    offline.open_network()


def export(monkeypatch: pytest.MonkeyPatch, bundle_root: Path, out: Path, *arguments: str) -> int:
    """Run the tool on MiDaS_small in this process; a later argument replaces an earlier one."""
    always = ["--family", "midas", "--model", "MiDaS_small", "--height", "64", "--width", "96", "--device", "cpu"]
    given = [*always, "--models-root", str(bundle_root), "--out", str(out), *arguments]
    monkeypatch.setattr(sys, "argv", ["export_onnx", *given])
    return export_onnx.main()


def test_one_file_is_published_with_its_entry(
    monkeypatch: pytest.MonkeyPatch, bundle_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "branch.onnx"
    monkeypatch.setattr(single_export, "Gate", partial(Gate, make=published(bundle_root, MIDAS).unchanged))
    assert export(monkeypatch, bundle_root, out) == 0
    record = published_record(out.parent, "branch.onnx")
    assert sorted(path.name for path in out.parent.iterdir()) == [f".{MANIFEST}.lock", "branch.onnx", MANIFEST]
    assert record.sha256 == sha256_of(out) == sha256_of(published(bundle_root, MIDAS).file)
    assert (record.model, record.batch, record.precision, record.triton) == ("MiDaS_small", 1, "fp32", OLDEST)
    said = capsys.readouterr().out
    assert f"published {out}: 63.3 MiB, sha256 {record.sha256}" in said
    assert "  ONNX fp32 on cpu: error " in said


def dynamic(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"


def test_failed_file_is_not_published(
    monkeypatch: pytest.MonkeyPatch, bundle_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tampered = published(bundle_root, MIDAS).tampered(dynamic)
    monkeypatch.setattr(single_export, "Gate", partial(Gate, make=tampered))
    out = tmp_path / "branch.onnx"
    out.write_bytes(b"an older one")
    assert export(monkeypatch, bundle_root, out) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"{out} is not published:\ngraph: input: axis 0=N, expected a fixed length\n")
    assert [path.name for path in tmp_path.iterdir()] == ["branch.onnx"]
    assert out.read_bytes() == b"an older one"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--height", "65"), "command line: branch.height=65, expected a multiple of 32 from 32 on for midas."),
        (
            ("--family", "depths"),
            "command line: variants[0].family='depths', expected one of clap, clip, midas, raft, timm, torchvision.",
        ),
        (("--model", "MiDaS_huge"), "command line: branch.model='MiDaS_huge', expected one of MiDaS_small"),
        (("--dtype", "fp8"), "command line: dtype='fp8', expected 'fp32', 'tf32' or 'fp16'."),
        (
            ("--family", "", "--model", "resnet50"),
            "--family: value missing for --model resnet50, expected one of clap, clip, midas, raft, timm, torchvision.",
        ),
        (("--onnx-dir", "/proc/elsewhere"), "expected a file in --onnx-dir /proc/elsewhere. Change either."),
        (("--triton", "23.01"), "command line: target.triton='23.01', expected a Triton release from 24.08 to"),
        (("--onnx-graph", "fused"), "command line: onnx_graph='fused', expected 'portable', 'contrib' or 'cuda'."),
        (
            ("--onnx-graph", "cuda"),
            "branch.onnx: onnx_graph of branch=cuda, expected contrib or portable without a GPU",
        ),
        (("--batch", "0"), "command line: batches[0]=0, expected greater than or equal to 1."),
        (("--family", "raft", "--model", "raft_small"), "expected a multiple of 32 from 128 on for raft"),
        (("--model", "DPT_Large"), "file=missing, expected the official checkpoint"),
        (("--weights", "../elsewhere.pt"), "weights='../elsewhere.pt', expected a path inside the models root"),
        (("--models-root", "/proc/nowhere"), "--models-root: value=/proc/nowhere, expected a folder"),
        (
            ("--frames", "/proc/nowhere"),
            "--frames /proc/nowhere: images=0, expected a folder with PNG, JPEG, BMP, TIFF or WebP files",
        ),
        (("--audio", "/proc/nowhere"), "--audio /proc/nowhere: sounds=0, expected a folder with WAV files"),
        (("--prompts", "/proc/nowhere"), "--prompts /proc/nowhere: file=No such file"),
        (("--tokens", "77"), "variants[0].tokens=77, expected one of height and width; duration_s; tokens."),
        (("--device", "tpu"), "--device: value='tpu', expected one of auto, cuda, cpu"),
        (("--out", "branch.pt2"), "--out branch.pt2: suffix='.pt2', expected .onnx. Write branch.onnx."),
        (("--out", "/proc/nowhere/branch.onnx"), "/proc/nowhere: folder=No such file or directory"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_arguments_are_refused(
    monkeypatch: pytest.MonkeyPatch, bundle_root: Path, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        export(monkeypatch, bundle_root, tmp_path / "branch.onnx", *arguments)
    assert list(tmp_path.iterdir()) == []


# --- one file at a time, then a repository and a bench of all ---

# The first scripts' arguments.
SEED_MIDAS = ("--model-name", "MiDaS_small", "--h", "64", "--w", "96", "--out", "models/optimized/midas/midas_64.onnx")
SEED_RAFT = ("--model", "raft_small", "--h", "128", "--w", "128", "--out", "models/optimized/raft/raft_128.onnx")
SEED_SPEC = EXPORT_SPEC.replace("width: 96}", "width: 96, onnx: midas/midas_64}").replace(
    "width: 128}", "width: 128, onnx: raft/raft_128}"
)


def test_commands_of_the_first_scripts_lead_to_a_repository_and_to_rows(
    monkeypatch: pytest.MonkeyPatch, suite: Suite, bundle_root: Path, tmp_path: Path
) -> None:
    """One file at a time into a folder of its family, each judged by its gate."""
    monkeypatch.setenv("DP_MODELS_ROOT", str(bundle_root))
    monkeypatch.chdir(tmp_path)
    for arguments, gate in (
        (SEED_MIDAS, Gate),
        (SEED_RAFT, partial(Gate, make=published(bundle_root, RAFT).unchanged)),  # exporting it takes long
    ):
        monkeypatch.setattr(single_export, "Gate", gate)
        monkeypatch.setattr(sys, "argv", ["export_onnx", *arguments])
        assert export_onnx.main() == 0
    onnx_dir = Path("models/optimized")
    assert list(read_manifest(onnx_dir).files) == ["midas/midas_64.onnx", "raft/raft_128.onnx"]
    assert sorted(path.name for path in onnx_dir.rglob(MANIFEST)) == [MANIFEST]
    monkeypatch.setattr(sys, "argv", ["build_model_repository", "--onnx-dir", "models/optimized"])
    assert build_model_repository.main() == 0
    assert list(read_repository(Path("model_repository")).branches) == ["midas_64x96", "raft_128"]
    spec = tmp_path / "bench.yaml"
    spec.write_text(SEED_SPEC)
    ended = suite.run("--spec", str(spec), "--onnx-dir", str(onnx_dir.absolute()), "--run-id", "seed", "-k", "latency")
    assert ended.returncode == 0, ended.stdout
    results, _ = RunFolder(tmp_path / "out" / "seed").read()
    assert {result.facts.id: result.facts.status for result in results} == {
        "midas_small_64-b1-fp32-onnxruntime": "ok",
        "raft_small_128-b1-fp32-onnxruntime": "ok",
    }


def test_entry_beside_its_file_is_found_by_the_repository(
    monkeypatch: pytest.MonkeyPatch, bundle_root: Path, tmp_path: Path
) -> None:
    for variant in (MIDAS, RAFT):
        nested_entry(tmp_path / "models/optimized", published(bundle_root, variant))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["build_model_repository", "--onnx-dir", "models/optimized"])
    assert build_model_repository.main() == 0
    assert list(read_repository(Path("model_repository")).branches) == ["midas_64x96", "raft_128"]


def nested_entry(onnx_dir: Path, place: Published) -> None:
    """A published file with its entry in a manifest beside it, as 0.2.0 wrote it for a single export."""
    file = onnx_dir / place.export.file
    file.parent.mkdir(parents=True)
    file.symlink_to(place.file)
    enter(file.parent, file.name, read_manifest(place.folder).files[place.export.file])
