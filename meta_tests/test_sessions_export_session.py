"""`pytest export_tests` from the command line, and `pytest bench_tests` on what it has published."""

from __future__ import annotations

import json
import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from fixtures.files import sha256_of
from fixtures.manifest import MANIFEST, read_manifest
from fixtures.spec import spec_from
from fixtures.subject import resolved
from fixtures.weights.bundle import Bundle
from meta_tests.bundles import synthetic_bundle
from meta_tests.conftest import Ended, Suite, wait_until
from meta_tests.exports import BYOBNET_FILE, RESNET_FILE, TINY_SPEC, ExportSuite, published

RESNET_WEIGHTS = "visual/resnet.safetensors"
BYOBNET_WEIGHTS = "visual/byobnet.safetensors"


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "export.yaml"
    path.write_text(TINY_SPEC)
    return path


@pytest.fixture(scope="module")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_bundle(tmp_path_factory.mktemp("tiny") / "root", spec=TINY_SPEC)


@pytest.fixture
def exporting(tmp_path: Path, tiny_root: Path) -> ExportSuite:
    return ExportSuite(tmp_path, tiny_root)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, tiny_root: Path) -> tuple[Ended, Path]:
    """A whole run, which never comes from the cache: how it ended, and the folder that it has published to."""
    folder = tmp_path_factory.mktemp("exported")
    (folder / "export.yaml").write_text(TINY_SPEC)
    suite = ExportSuite(folder, tiny_root)
    return suite.run("--spec", str(folder / "export.yaml"), "-rs", "-v"), suite.onnx_dir


def message_of(ended: Ended) -> str:
    """The one message of a run that bad input ended with exit code 2."""
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    (message,) = [line for line in ended.stderr.splitlines() if line.startswith("ERROR: ")]
    return message


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# --- exporting ---


def test_run_publishes_every_file_with_its_entry(exported: tuple[Ended, Path], tiny_root: Path) -> None:
    ended, folder = exported
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert files_in(folder) == [f".{MANIFEST}.lock", MANIFEST, BYOBNET_FILE, RESNET_FILE]
    assert not list(folder.glob(".staging-*"))
    records = read_manifest(folder).files
    assert list(records) == [BYOBNET_FILE, RESNET_FILE]
    for name, checkpoint in ((RESNET_FILE, RESNET_WEIGHTS), (BYOBNET_FILE, BYOBNET_WEIGHTS)):
        assert records[name].sha256 == sha256_of(folder / name)
        assert records[name].weights.sha256 == sha256_of(tiny_root / checkpoint)
        assert all(parity.passed for parity in records[name].parity)
        assert f"published {folder / name} (" in ended.stdout
    for said in ("export: small, 2 files to ", "error waterfall: torch float64 0.0e+00 → torch fp32 on cpu "):
        assert said in ended.stdout


def test_checks_that_need_other_hardware_are_skipped_by_name(exported: tuple[Ended, Path]) -> None:
    ended, _ = exported
    for variant in ("resnet_64-b1-fp32", "byobnet_64-b1-fp32"):
        for check in ("test_parity[{}-cuda]", "test_parity[{}-cuda-tf32]", "test_placement[{}]", "test_target[{}]"):
            assert f"::{check.format(variant)} SKIPPED" in ended.stdout
    assert "needs a CUDA device, and this run uses cpu" in ended.stdout
    assert "needs --target-python, an interpreter with the ONNX Runtime of Triton 24.08" in ended.stdout
    assert "6 passed, 8 skipped" in ended.stdout


def test_same_weights_give_the_same_bytes_in_another_process(exported: tuple[Ended, Path], tiny_root: Path) -> None:
    """test_families.py has this of MiDaS and RAFT."""
    _, folder = exported
    spec = resolved(spec_from(yaml.safe_load(TINY_SPEC), "tiny"), Bundle(tiny_root))
    for variant in spec.variants:
        here = published(tiny_root, variant)
        assert sha256_of(here.file) == sha256_of(folder / here.export.file)


def test_killed_run_publishes_nothing_and_the_next_one_removes_its_staging(exporting: ExportSuite, spec: Path) -> None:
    folder = exporting.onnx_dir
    process = exporting.start("--spec", str(spec), "-k", "resnet")
    wait_until(lambda: any(folder.glob(".staging-*/timm")) or not process.is_alive())
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert any(folder.glob(".staging-*/timm"))
    assert not any(name for name in files_in(folder) if not name.startswith(".staging-"))

    ended = exporting.run("--spec", str(spec), "-k", "test_graph and resnet")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert list(folder.iterdir()) == [], "publication was not selected"


def test_failed_file_is_not_published_and_the_older_one_stays(exporting: ExportSuite, spec: Path) -> None:
    older = exporting.onnx_dir / RESNET_FILE
    older.parent.mkdir(parents=True)
    older.write_bytes(b"an older one")
    ended = exporting.run("--spec", str(spec), "--target-python", "/bin/false", "-k", "resnet and not parity")
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert f"{RESNET_FILE} is not published:\n" in ended.stdout
    assert "target: /bin/false does not run test_resnet_64.onnx: exit code 1" in ended.stdout
    assert "2 failed, 1 passed" in ended.stdout
    assert files_in(exporting.onnx_dir) == [RESNET_FILE]
    assert older.read_bytes() == b"an older one"


def test_every_test_of_a_file_fails_by_what_its_gate_finds(exporting: ExportSuite, spec: Path) -> None:
    suite = replace(exporting, variables={"COLUMNS": "200"})
    gate = ("-p", "meta_tests.failing_gate", "--target-python", "/bin/false")
    ended = suite.run("--spec", str(spec), "-k", "resnet", *gate)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    failed = dict(re.findall(r"^FAILED \S+::(test_\S+) - Failed: (.*)$", ended.stdout, re.MULTILINE))
    assert failed == {
        "test_graph[resnet_64-b1-fp32]": "the graph is wrong",
        "test_parity[resnet_64-b1-fp32-cpu]": "fp32 on cpu is wrong",
        "test_parity[resnet_64-b1-fp32-cuda]": "fp32 on cuda is wrong",
        "test_parity[resnet_64-b1-fp32-cuda-tf32]": "tf32 on cuda is wrong",
        "test_placement[resnet_64-b1-fp32]": "the placement is wrong",
        "test_target[resnet_64-b1-fp32]": "the target is wrong",
        "test_published[resnet_64-b1-fp32]": f"{RESNET_FILE} is not published:",
    }


def test_optional_variant_without_weights_is_skipped_by_name(exporting: ExportSuite, tmp_path: Path) -> None:
    spec = tmp_path / "optional.yaml"
    spec.write_text(TINY_SPEC.replace("weights: visual/byobnet", "optional: true, weights: visual/absent"))
    ended = exporting.run("--spec", str(spec), "-rs", "-k", "byobnet")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "optional variant byobnet_64: " in ended.stdout
    assert "visual/absent.safetensors: file=missing" in ended.stdout


# --- refusals ---


def test_two_variants_that_write_one_file_are_refused(exporting: ExportSuite, tmp_path: Path) -> None:
    spec = tmp_path / "twice.yaml"
    (first,) = [line for line in TINY_SPEC.splitlines() if "resnet_64" in line]
    spec.write_text(TINY_SPEC + first.replace("resnet_64", "twin").replace("}", ", precision: fp16}") + "\n")
    message = message_of(exporting.run("--spec", str(spec)))
    assert f"twice.yaml: twin and resnet_64 write {RESNET_FILE}, expected a file for each variant." in message


def test_file_for_cuda_is_refused_without_a_gpu(exporting: ExportSuite, tmp_path: Path) -> None:
    spec = tmp_path / "cuda.yaml"
    spec.write_text(f"{TINY_SPEC}\nonnx_graph: cuda\n")
    message = message_of(exporting.run("--spec", str(spec), "--device", "cpu"))
    assert "cuda.yaml: onnx_graph of " in message
    assert "=cuda, expected contrib or portable without a GPU to judge it on. Change it, or export on a" in message
    assert not exporting.onnx_dir.exists()


def test_missing_checkpoint_is_refused(exporting: ExportSuite, spec: Path, tmp_path: Path) -> None:
    suite = replace(exporting, models_root=root_with(tmp_path / "root", exporting.models_root, RESNET_WEIGHTS))
    message = message_of(suite.run("--spec", str(spec)))
    assert f"{Path(BYOBNET_WEIGHTS).name}: file=missing, expected the official checkpoint" in message
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


def test_exported_files_are_measured_on_the_cpu(
    tmp_path: Path, tiny_root: Path, spec: Path, exported: tuple[Ended, Path]
) -> None:
    suite = Suite(tmp_path, tiny_root)
    ended = suite.run("--spec", str(spec), "--onnx-dir", str(exported[1]), "--run-id", "r", "-k", "test_latency")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    cases = json.loads((suite.folder / "out" / "r" / "summary.json").read_text())["cases"]
    assert [(case["id"], case["status"], case["dtype_used"]) for case in cases] == [
        ("resnet_64-b1-fp32-onnxruntime", "ok", "fp32"),
        ("byobnet_64-b1-fp32-onnxruntime", "ok", "fp32"),
    ]
    assert all(case["latency_ms"]["p50"] > 0 for case in cases)
    assert all(case["knobs"]["onnx_graph"] == "portable" for case in cases)
    files = read_manifest(exported[1]).files
    assert {case["file"]["uri"]: case["file"]["sha256"] for case in cases} == {
        name: record.sha256 for name, record in files.items()
    }


def test_missing_file_is_not_measured(tmp_path: Path, tiny_root: Path, spec: Path) -> None:
    """test_subject.py has the other reasons why a file is not measured."""
    suite, folder = Suite(tmp_path, tiny_root), tmp_path / "onnx"
    message = message_of(suite.run("--spec", str(spec), "--onnx-dir", str(folder), "-k", "byobnet"))
    assert message.startswith(f"ERROR: {folder / BYOBNET_FILE}: file=missing, expected an exported file. Export it: ")
    assert not (suite.folder / "out").exists()
