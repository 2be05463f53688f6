"""fixtures/package_server.py on a real tritonserver with its real Python backend: from the choice to the answer."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from fixtures.decision import choose
from fixtures.export.formats.aoti import Aoti
from fixtures.spec.budget import Budget
from fixtures.triton.installation import Installation
from fixtures.triton.server import LocalServer, ServerError
from meta_tests.packages import published_package
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
REQUESTS = "16"


@pytest.fixture
def repository(tmp_path: Path, bundle_root: Path) -> Path:
    """A repository that is built from a choice, as a person builds one."""
    onnx_dir = published_package(bundle_root).folder
    (tmp_path / "packages.yaml").write_text(SPEC)
    costs = {"torch-aoti": 1.0, "onnxruntime": 2.0}
    measured = [
        row("midas_small_64", p50=p50, runtime=runtime, dtype_requested="fp32", dtype_used="fp32")
        for runtime, p50 in costs.items()
    ]
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


@pytest.mark.parametrize(("key", "value"), [("torch", "2.4.1"), ("architecture", "sm_70")])
def test_server_refuses_a_package_of_something_else(
    repository: Path, installation: Installation, key: str, value: str
) -> None:
    config = repository / BRANCH / "config.pbtxt"
    text, count = re.subn(rf'(key: "{key}"\s+value {{\s+string_value: ")[^"]+', rf"\g<1>{value}", config.read_text())
    assert count == 1
    config.write_text(text)
    with pytest.raises(ServerError, match=f"the package is for {key} {value}, and this server has"):
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
