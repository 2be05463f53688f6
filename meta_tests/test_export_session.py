"""`pytest export_tests` as a person runs it, and `pytest bench_tests` on what it has published."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fixtures.files import sha256_of
from fixtures.manifest import MANIFEST, read_manifest
from fixtures.weights.checkpoint import read_state_dict
from meta_tests.conftest import Ended, Suite, wait_until
from meta_tests.exports import EXPORT_SPEC, MIDAS, MIDAS_FILE, RAFT, RAFT_FILE, ExportSuite, published

MIDAS_CHECKPOINT = "torch_cache/hub/checkpoints/midas_v21_small_256.pt"
RAFT_CHECKPOINT = "torch_cache/hub/checkpoints/raft_small_C_T_V2-01064c6d.pth"


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "export.yaml"
    path.write_text(EXPORT_SPEC)
    return path


@pytest.fixture
def exporting(tmp_path: Path, bundle_root: Path) -> ExportSuite:
    return ExportSuite(tmp_path, bundle_root)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, bundle_root: Path) -> tuple[Ended, Path]:
    """A whole run: what it said, and the folder that it has published to."""
    folder = tmp_path_factory.mktemp("exported")
    (folder / "export.yaml").write_text(EXPORT_SPEC)
    suite = ExportSuite(folder, bundle_root)
    return suite.run("--spec", str(folder / "export.yaml"), "-rs", "-v"), suite.onnx_dir


def message_of(ended: Ended) -> str:
    """The one message of a run that bad input has ended."""
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    (message,) = [line for line in ended.stderr.splitlines() if line.startswith("ERROR: ")]
    return message


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# --- exporting ---


def test_a_run_publishes_every_file_with_its_entry(exported: tuple[Ended, Path], bundle_root: Path) -> None:
    ended, folder = exported
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert files_in(folder) == [f".{MANIFEST}.lock", MANIFEST, MIDAS_FILE, RAFT_FILE]
    assert not list(folder.glob(".staging-*"))
    records = read_manifest(folder).files
    assert list(records) == [MIDAS_FILE, RAFT_FILE]
    for name, checkpoint in ((MIDAS_FILE, MIDAS_CHECKPOINT), (RAFT_FILE, RAFT_CHECKPOINT)):
        assert records[name].sha256 == sha256_of(folder / name)
        assert records[name].weights.sha256 == sha256_of(bundle_root / checkpoint)
        assert all(parity.passed for parity in records[name].parity)
        assert f"published {folder / name} (" in ended.stdout
    for said in ("export: small, 2 files to ", "error waterfall: torch float64 0.0e+00 → torch fp32 on cpu "):
        assert said in ended.stdout


def test_checks_that_a_machine_cannot_make_are_skipped_by_name(exported: tuple[Ended, Path]) -> None:
    ended, _ = exported
    for variant in ("midas_small_64-b1-fp32", "raft_small_128-b1-fp32"):
        for check in ("test_parity[{}-cuda]", "test_parity[{}-cuda-tf32]", "test_placement[{}]", "test_target[{}]"):
            assert f"::{check.format(variant)} SKIPPED" in ended.stdout
    assert "needs a CUDA device, and this run uses cpu" in ended.stdout
    assert "needs --target-python, an interpreter with the ONNX Runtime of Triton 24.08" in ended.stdout
    assert "6 passed, 8 skipped" in ended.stdout


def test_the_same_weights_give_the_same_bytes_in_another_process(
    exported: tuple[Ended, Path], bundle_root: Path
) -> None:
    _, folder = exported
    for variant in (MIDAS, RAFT):
        here = published(bundle_root, variant)
        assert sha256_of(here.file) == sha256_of(folder / here.export.file)


def test_killed_while_it_exports_a_run_leaves_nothing_and_the_next_one_clears_up(
    exporting: ExportSuite, spec: Path
) -> None:
    folder = exporting.onnx_dir
    process = exporting.start("--spec", str(spec), "-k", "midas")
    wait_until(lambda: any(folder.glob(".staging-*/midas")) or not process.is_alive())
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert any(folder.glob(".staging-*/midas"))
    assert not any(name for name in files_in(folder) if not name.startswith(".staging-"))

    ended = exporting.run("--spec", str(spec), "-k", "test_parity and midas")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert list(folder.iterdir()) == [], "what was not selected is not published"


def test_a_file_that_fails_is_not_published_and_the_older_one_stays(exporting: ExportSuite, spec: Path) -> None:
    older = exporting.onnx_dir / MIDAS_FILE
    older.parent.mkdir(parents=True)
    older.write_bytes(b"an older one")
    ended = exporting.run("--spec", str(spec), "--target-python", "/bin/false", "-k", "midas and not parity")
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert f"{MIDAS_FILE} is not published:\n" in ended.stdout
    assert "target: /bin/false does not run midas_small_64x96.onnx: exit code 1" in ended.stdout
    assert "2 failed, 1 passed" in ended.stdout
    assert files_in(exporting.onnx_dir) == [MIDAS_FILE]
    assert older.read_bytes() == b"an older one"


def test_an_optional_variant_without_weights_is_skipped_by_name(exporting: ExportSuite, tmp_path: Path) -> None:
    spec = tmp_path / "optional.yaml"
    spec.write_text(EXPORT_SPEC.replace("model: raft_small,", "model: raft_large, optional: true,"))
    ended = exporting.run("--spec", str(spec), "-rs", "-k", "raft")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "optional variant raft_small_128: " in ended.stdout
    assert "raft_large_C_T_SKHT_V2-ff5fadd5.pth: file=missing" in ended.stdout


# --- what ends it with one message ---


def test_two_variants_that_write_one_file_are_refused(exporting: ExportSuite, tmp_path: Path) -> None:
    spec = tmp_path / "twice.yaml"
    twin = "  - {name: twin, family: midas, model: MiDaS_small, height: 64, width: 96, precision: fp16}\n"
    spec.write_text(EXPORT_SPEC + twin)
    message = message_of(exporting.run("--spec", str(spec)))
    assert f"twice.yaml: twin and midas_small_64 write {MIDAS_FILE}, expected a file for each variant." in message


def test_a_missing_checkpoint_is_refused(exporting: ExportSuite, spec: Path, tmp_path: Path) -> None:
    suite = replace(exporting, models_root=root_with(tmp_path / "root", exporting.models_root, MIDAS_CHECKPOINT))
    message = message_of(suite.run("--spec", str(spec)))
    assert f"{Path(RAFT_CHECKPOINT).name}: file=missing, expected the official checkpoint" in message
    assert not exporting.onnx_dir.exists()


def root_with(root: Path, source: Path, *names: str) -> Path:
    """A models root with some files of another."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(source / name, root / name)
    return root


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--onnx-dir", "/proc/nowhere"), "/proc/nowhere: folder=No such file or directory, expected a folder"),
        (("--onnx-dir", "{folder}/export.yaml"), "export.yaml: folder=File exists, expected a folder to write to"),
        (("--onnx-dir", "{folder}/damaged"), "damaged/manifest.json: content=unreadable, expected what the export"),
        (("-n", "2"), "-n 2: processes=several, expected one process"),
    ],
    ids=["no folder to make", "a file", "a damaged manifest", "several processes"],
)
def test_bad_input_ends_with_one_message_and_code_2(
    exporting: ExportSuite, spec: Path, arguments: tuple[str, ...], says: str
) -> None:
    (exporting.folder / "damaged").mkdir()
    (exporting.folder / "damaged" / MANIFEST).write_text('{"schema_version": 1, "files": []}')
    given = (argument.format(folder=exporting.folder) for argument in arguments)
    assert says in message_of(exporting.run("--spec", str(spec), *given))


# --- measuring what was exported ---


def test_exported_files_are_measured_on_the_cpu(suite: Suite, spec: Path, exported: tuple[Ended, Path]) -> None:
    ended = suite.run("--spec", str(spec), "--onnx-dir", str(exported[1]), "--run-id", "r", "-k", "test_latency")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    cases = json.loads((suite.folder / "out" / "r" / "summary.json").read_text())["cases"]
    assert [(case["id"], case["status"], case["dtype_used"]) for case in cases] == [
        ("midas_small_64-b1-fp32-onnxruntime", "ok", "fp32"),
        ("raft_small_128-b1-fp32-onnxruntime", "ok", "fp32"),
    ]
    assert all(case["latency_ms"]["p50"] > 0 for case in cases)


@pytest.fixture
def raft_alone(exported: tuple[Ended, Path], tmp_path: Path) -> Path:
    """A folder with the exported RAFT and its entry, to do damage to."""
    folder = tmp_path / "onnx"
    (folder / RAFT_FILE).parent.mkdir(parents=True)
    for name in (RAFT_FILE, MANIFEST):
        shutil.copyfile(exported[1] / name, folder / name)
    return folder


def refusal_to_measure(suite: Suite, spec: Path, folder: Path, *arguments: str) -> str:
    """The message, which always names the file and how to make it."""
    message = message_of(suite.run("--spec", str(spec), "--onnx-dir", str(folder), "-k", "raft", *arguments))
    assert message.startswith(f"ERROR: {folder / RAFT_FILE}: ")
    assert "Export it: `pytest export_tests" in message
    assert not (suite.folder / "out").exists()
    return message


def test_a_file_that_is_missing_is_not_measured(suite: Suite, spec: Path, raft_alone: Path) -> None:
    (raft_alone / RAFT_FILE).unlink()
    assert "file=missing, expected an exported file." in refusal_to_measure(suite, spec, raft_alone)


def test_a_file_that_was_changed_by_one_byte_is_not_measured(suite: Suite, spec: Path, raft_alone: Path) -> None:
    content = bytearray((raft_alone / RAFT_FILE).read_bytes())
    content[len(content) // 2] ^= 1
    (raft_alone / RAFT_FILE).write_bytes(content)
    assert "sha256=another, expected the " in refusal_to_measure(suite, spec, raft_alone)


def test_a_file_of_another_precision_is_not_measured(suite: Suite, spec: Path, raft_alone: Path) -> None:
    message = refusal_to_measure(suite, spec, raft_alone, "--dtype", "fp16")
    assert "precision=fp32, expected fp16 for raft_small_128-b1-fp16-onnxruntime." in message
    assert "Export it: `pytest export_tests --dtype fp16` with the same --spec and --onnx-dir." in message


def test_a_file_of_other_weights_is_not_measured(suite: Suite, spec: Path, raft_alone: Path, tmp_path: Path) -> None:
    other = root_with(tmp_path / "other", suite.models_root, MIDAS_CHECKPOINT) / RAFT_CHECKPOINT
    state_dict = read_state_dict(suite.models_root / RAFT_CHECKPOINT)
    torch.save({key: value * 2 for key, value in state_dict.items()}, other)
    message = refusal_to_measure(replace(suite, models_root=tmp_path / "other"), spec, raft_alone)
    assert f"weights=others, expected those of {RAFT_CHECKPOINT}." in message
