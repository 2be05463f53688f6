"""fixtures/package_server.py on a real tritonserver with its real Python backend: from the choice to the answer."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from fixtures.decision import choose
from fixtures.export.formats.aoti import Aoti
from fixtures.records import WeightsRecord
from fixtures.spec.budget import Budget
from fixtures.triton.installation import Installation
from fixtures.triton.server import LocalServer, ServerError
from meta_tests.packages import changed_metadata, published_package
from meta_tests.runs import ended, row, run_of
from meta_tests.served import PROTOCOLS, ServeSuite
from tools.build_model_repository import main as build_model_repository

SPEC = """\
schema_version: 1
name: packages
dtype: fp32
runtimes: [torch-aoti]
formats: [aoti]
variants: [{name: midas_small_64, family: midas, model: MiDaS_small, height: 64, width: 64}]
"""
BRANCH = "midas_64"
PACKAGE_SERVER = Path(__file__).parents[1] / "fixtures" / "package_server.py"
REQUESTS = "16"


@pytest.fixture
def repository(tmp_path: Path, bundle_root: Path) -> Path:
    """A repository that is built from a choice, as a person builds one."""
    package = published_package(bundle_root)
    onnx_dir, weights = package.folder, WeightsRecord(sha256=package.weights.sha256, synthetic=True)
    facts: dict[str, Any] = {"size": 64, "dtype_requested": "fp32", "dtype_used": "fp32", "weights": weights}
    measured = [
        row("midas_small_64", p50=p50, runtime=runtime, **facts)
        for runtime, p50 in (("torch-aoti", 1.0), ("onnxruntime", 2.0))
    ]
    (tmp_path / "packages.yaml").write_text(SPEC)
    choice = choose(run_of(*measured), {"depth": Budget()})
    (tmp_path / "choice.json").write_text(choice.model_dump_json())
    arguments = ("--spec", tmp_path / "packages.yaml", "--choice", tmp_path / "choice.json", "--device", "cpu")
    built = ended(build_model_repository, *arguments, "--onnx-dir", onnx_dir, "--out", tmp_path / "repository")
    assert built.returncode == 0, built.stderr
    return tmp_path / "repository"


def test_chosen_package_passes_every_test_of_a_served_branch(
    repository: Path, tmp_path: Path, bundle_root: Path, installation: Installation
) -> None:
    """Answers over all protocols, wrong requests, clients at once, a reload, and a restart."""
    suite = ServeSuite(tmp_path, bundle_root, onnx_dir=published_package(bundle_root).folder)
    given = ("--spec", str(tmp_path / "packages.yaml"), "--model-repository", str(repository))
    said = suite.run(*given, "--requests", REQUESTS)
    assert said.returncode == 0, said.stdout + said.stderr
    assert "21 passed, 1 skipped" in said.stdout
    for protocol in PROTOCOLS:
        line = next(line for line in said.stdout.splitlines() if line.startswith(f"{BRANCH} over {protocol}: "))
        assert f"→ {Aoti.title} fp32 on cpu " in line
        assert re.search(r"→ Triton \(\d+\.\d+\.\d+\) ", line), "the real backend, not the emulated one"


def test_server_refuses_a_package_of_something_else(
    repository: Path, installation: Installation, bundle_root: Path
) -> None:
    served, package = repository / BRANCH / "1" / "model.pt2", published_package(bundle_root)
    served.unlink()
    changed_metadata(package.file, {"torch": "2.4.1"})(package.export, package.weights, served)
    with pytest.raises(ServerError, match=r"the package is for torch 2\.4\.1, and this server has"):
        LocalServer(installation, repository).__enter__()


def test_server_without_torch_says_what_to_install(
    repository: Path, installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def backends(self: Installation, folder: Path) -> Path:
        """Those of the server's environment alone, which has no torch."""
        shutil.copytree(self.triton / "backends" / "python", folder / "python")
        shutil.copy(self.stub, folder / "python")
        return folder

    monkeypatch.setattr(Installation, "backends", backends)
    with pytest.raises(ServerError, match=r"the package needs torch \S+ in the server's Python"):
        LocalServer(installation, repository).__enter__()


# --- without a server ---


class ModelError(Exception):
    """Stands in for Triton's TritonModelException."""


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module model.py, as the backend imports it."""
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", SimpleNamespace(TritonModelException=ModelError))
    spec = importlib.util.spec_from_file_location("model", PACKAGE_SERVER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FRAMES = {"name": "INPUT__0", "data_type": "TYPE_UINT8", "dims": ["1", "64", "64", "3"]}
DEPTH = {"name": "OUTPUT__0", "data_type": "TYPE_FP32", "dims": ["1", "64", "64"]}


def test_tensors_of_the_configuration_are_those_of_the_package(model: ModuleType, bundle_root: Path) -> None:
    said = model._metadata(published_package(bundle_root).file)
    model._require_tensors(said, {"input": [FRAMES], "output": [DEPTH]})


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("input", {"dims": ["2", "64", "64", "3"]}),
        ("input", {"data_type": "TYPE_FP32"}),
        ("input", {"name": "INPUT0__0"}),
        ("output", {"dims": ["2", "64", "64"]}),
        ("output", {"data_type": "TYPE_FP16"}),
    ],
)
def test_package_of_other_tensors_is_not_loaded(
    model: ModuleType, bundle_root: Path, kind: str, changes: dict[str, Any]
) -> None:
    """Of another batch it would read and write beyond its tensors, and answer."""
    said = model._metadata(published_package(bundle_root).file)
    config = {"input": [FRAMES], "output": [DEPTH]}
    with pytest.raises(ModelError, match=rf"the package has {kind}s .*, and config.pbtxt has .* Build the repository"):
        model._require_tensors(said, {**config, kind: [{**config[kind][0], **changes}]})


@pytest.mark.parametrize("content", [None, b"", b"PK"], ids=["missing", "empty", "cut off"])
def test_damaged_package_is_one_message(model: ModuleType, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "model.pt2"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.pt2 is missing or damaged \(.*\)\. Build the repository again\."):
        model._metadata(path)


@pytest.mark.parametrize("members", [{}, {"a_metadata.json": "{}"}, {"a_metadata.json": "[]"}])
def test_package_that_says_nothing_of_itself_is_one_message(
    model: ModuleType, tmp_path: Path, members: dict[str, str]
) -> None:
    path = tmp_path / "model.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(ModelError, match=r"model\.pt2 is missing or damaged \(.+\)\."):
        model._metadata(path)


def test_torch_without_cuda_says_what_to_install(model: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_index: int) -> tuple[int, int]:
        raise AssertionError("Torch not compiled with CUDA enabled")

    monkeypatch.setattr(model.torch.cuda, "get_device_capability", fails)
    with pytest.raises(ModelError, match=r"reaches no GPU 0 \(Torch not compiled .*\)\. Install its build for CUDA\."):
        model._require_platform({"torch": "2.11.0", "architecture": "sm_90"}, 0)
