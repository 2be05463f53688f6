"""The tools that only read files, with nothing but the `read` group installed, on a stored GPU run."""

from __future__ import annotations

import gzip
import json
import shutil
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import jsonschema
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from fixtures.decision import choose
from fixtures.report import read_material
from fixtures.results.reading import read_run
from fixtures.spec.budget import PLACES
from meta_tests.conftest import ROOT, cpu_seconds, slowness
from meta_tests.runs import chosen, ended
from meta_tests.test_schemas import schema
from tools import compare_runs

STORED = Path(__file__).parent / "data" / "h200" / "results.jsonl.gz"
SUMMARY = STORED.with_name("summary.json")
LIMIT_S = 5
HEAVY = {"torch", "pytest", "onnxruntime", "transformers", "timm", "torchvision"}

# Runs a tool as `python -m` does, where some modules cannot be imported, and writes which others it has imported.
PROGRAM = """\
import pathlib, runpy, sys

report = pathlib.Path(sys.argv[1])
refused = set(report.read_text().split())

class Refusal:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ImportError(f"{name} is not on this laptop")

sys.meta_path.insert(0, Refusal())
sys.argv = sys.argv[2:]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
finally:
    report.write_text(" ".join(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def closure(names: Iterable[str]) -> set[str]:
    """Distributions and all that they depend on, without extras."""
    found: set[str] = set()
    waiting = [Requirement(name) for name in names]
    while waiting:
        wanted = waiting.pop()
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        name = canonicalize_name(wanted.name)
        if name not in found:
            found.add(name)
            waiting += [Requirement(text) for text in requires(name) or ()]
    return found


def read_group() -> set[str]:
    """What `pip install --group read` installs."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return closure(document["dependency-groups"]["read"])


def absent_on_a_laptop() -> set[str]:
    """Modules that are installed here, and that no distribution of the group provides."""
    group = read_group()
    return {
        module
        for module, owners in packages_distributions().items()
        if not {canonicalize_name(owner) for owner in owners} & group
    }


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stored") / "results.jsonl"
    path.write_bytes(gzip.decompress(STORED.read_bytes()))
    return path


def test_read_group_has_no_heavy_library_and_all_its_dependencies() -> None:
    assert absent_on_a_laptop() >= HEAVY
    assert "annotated-types" in read_group(), "pydantic depends on it"


@pytest.mark.parametrize(
    ("tool", "runs", "kind"), [("tools.choose_branches", 1, "choice"), ("tools.compare_runs", 2, "comparison")]
)
def test_stored_run_is_chosen_from_and_compared_in_seconds_without_torch(
    rows: Path, tool: str, runs: int, kind: str
) -> None:
    report, output = rows.with_name(f"{kind}_modules"), rows.with_name(f"{kind}.json")
    report.write_text(" ".join(absent_on_a_laptop()))
    command = [sys.executable, "-c", PROGRAM, str(report), tool, *[str(rows)] * runs, "-o", str(output)]
    process, cpu_s = cpu_seconds(command)
    assert process.returncode == 0, process.stderr
    assert cpu_s < LIMIT_S * slowness()
    jsonschema.validate(json.loads(output.read_text()), schema(kind))
    imported = set(report.read_text().split())
    assert imported >= {"pydantic", "numpy"}
    assert not imported & HEAVY


def test_choice_of_the_stored_run_is_the_file_at_batch_8_beside_torch_compile() -> None:
    """Of every branch ONNX Runtime at batch 8; torch-compile, the fastest row of docs/results.md, is not on Triton."""
    choice = choose(read_run(SUMMARY), {})
    assert {role.role: chosen(role) for role in choice.roles} == {
        role: {place: f"{name}-b8-fp16-onnxruntime" for place, name in zip(PLACES, names, strict=True)}
        for role, names in {
            "depth": ("midas_small_256", "midas_hybrid_384", "midas_hybrid_512"),
            "flow": ("raft_small_256", "raft_small_384", "raft_small_512"),
        }.items()
    }
    for branch in (branch for role in choice.roles for branch in role.branches):
        best = branch.references[0]
        assert best.case_id == branch.candidate.case_id.replace("onnxruntime", "torch-compile")
        assert 0.4 < best.ratio < 0.65


def test_stored_run_is_the_same_as_itself_but_for_one_noisy_row() -> None:
    """The rounds of that row spread by 19%, so that one process a side shows nothing about it."""
    said = ended(compare_runs.main, SUMMARY, SUMMARY, "--fail-slower", "3%")
    assert said.returncode == 1
    assert "59 same, 1 inconclusive\n" in said.stdout
    assert (
        "FAILED raft_small_384-b1-fp16-onnxruntime: inconclusive: the interval, 0.595 to 1.682, allows" in said.stdout
    )
    assert "judged 60 of 60 cases, 1 failed (59 passed, 1 inconclusive)" in said.stdout
    assert ended(compare_runs.main, SUMMARY, SUMMARY, "--fail-slower", "3%", "--allow-inconclusive").returncode == 0


def test_report_of_bare_rows_reads_each_file_once(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    content_of = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        read.append(path)
        return content_of(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    baseline = Path(shutil.copy(rows, rows.with_name("baseline.jsonl")))
    material = read_material(rows, baseline, None, None)
    assert sorted(path for path in read if path.suffix == ".jsonl") == sorted([rows, baseline])
    assert len(material.rounds.by_case) == 60
    assert material.compared is not None
    assert len(material.compared.cases) == 60
