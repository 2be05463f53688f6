"""`--choice`: the chosen files at their batch in a repository, a gate and on a server; or one message and nothing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fixtures.cases import exports_of
from fixtures.decision import choose
from fixtures.records import CaseSummary, Choice, Repository
from fixtures.spec import load_spec
from fixtures.spec.budget import Budget
from fixtures.triton.stored_repository import read_repository
from meta_tests.any_value import places, values
from meta_tests.branches import publish_stand_in
from meta_tests.conftest import ROOT, Ended, environment
from meta_tests.runs import HOSTILE, ended, is_one_message, row, run_of, with_value
from tools.build_model_repository import main

SPEC = """\
schema_version: 1
name: served
dtype: fp32
runtimes: [onnxruntime, torch-compile]
variants:
  - {name: midas_64, family: midas, model: MiDaS_small, height: 64, width: 96, batches: [1, 8], optional: true}
  - {name: midas_128, family: midas, model: MiDaS_small, height: 128, width: 128, batches: [1, 8]}
  - {name: raft_128, family: raft, model: raft_small, height: 128, width: 160, branch: flow}
"""


@dataclass(frozen=True)
class Place:
    """A spec with its published files, a choice, and the tool."""

    folder: Path

    @property
    def out(self) -> Path:
        """The repository."""
        return self.folder / "repository"

    @property
    def choice(self) -> Path:
        """What was chosen."""
        return self.folder / "choice.json"

    def choose(self, *cases: CaseSummary, **budget: Any) -> Choice:
        """Write the choice from a run of these rows."""
        choice = choose(run_of(*cases), {"depth": Budget(**budget)})
        self.choice.write_text(choice.model_dump_json())
        return choice

    def build(self, *arguments: str) -> Ended:
        """Build the repository of the choice."""
        given = ("--spec", self.folder / "spec.yaml", "--onnx-dir", self.folder / "onnx", "--out", self.out)
        return ended(main, *given, "--choice", self.choice, *arguments)

    def built(self) -> Repository:
        """What is in the repository that is built of the choice."""
        said = self.build()
        assert said.returncode == 0, said.stderr
        return read_repository(self.out)

    def refused(self, *arguments: str) -> str:
        """The one message about what was refused; there is no repository."""
        said = self.build(*arguments)
        assert (said.returncode, said.stdout) == (2, "")
        assert is_one_message(said.stderr), said.stderr
        assert sorted(path.name for path in self.folder.iterdir()) == ["choice.json", "onnx", "spec.yaml"]
        return said.stderr


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of every branch and batch, entered as if they had passed their gate."""
    folder = tmp_path_factory.mktemp("published")
    (folder / "spec.yaml").write_text(SPEC)
    for export in exports_of(load_spec(folder / "spec.yaml")):
        publish_stand_in(folder / "onnx", export)
    return folder


@pytest.fixture
def place(tmp_path: Path, published: Path) -> Place:
    folder = tmp_path / "place"
    folder.mkdir()
    (folder / "onnx").symlink_to(published / "onnx")
    (folder / "spec.yaml").write_text(SPEC)
    return Place(folder)


def served(variant: str, batch: int = 1, p50: float = 10.0, **facts: Any) -> CaseSummary:
    """A row of a file in fp32, whose branch is larger the more its name says."""
    facts = {"runtime": "onnxruntime", "dtype_requested": "fp32", "dtype_used": "fp32", **facts}
    return row(variant, batch, p50, size=int(variant.split("_")[1]), memory_mb=p50, **facts)


FLOW = served("raft_128", role="flow")


# --- what is taken ---


def test_the_chosen_branches_are_served_at_their_batch_and_no_others(place: Place) -> None:
    place.choose(served("midas_64"), served("midas_64", 8, 12), served("midas_128"), served("midas_128", 8, 90), FLOW)
    repository = place.built()
    assert list(repository.branches) == ["midas_64x96_b8", "midas_128", "flow"]
    assert {branch.dtype for branch in repository.branches.values()} == {"fp32"}
    assert repository.branches["midas_64x96_b8"].inputs[0].shape == (8, 64, 96, 3)


def test_places_that_are_not_kept_are_not_served(place: Place) -> None:
    place.choose(served("midas_64", p50=5), served("midas_128"), keep=1)
    assert list(place.built().branches) == ["midas_128"]


def test_of_a_branch_that_triton_does_not_run_the_best_row_that_it_does_is_served(place: Place) -> None:
    fast = served("midas_64", p50=1, runtime="torch-compile")
    (role,) = place.choose(fast, served("midas_64", 1, 9), served("midas_64", 8, 24)).roles
    assert [branch.candidate.case_id for branch in role.branches] == [fast.id]
    assert list(place.built().branches) == ["midas_64x96_b8"]


def test_a_file_of_which_no_row_was_measured_is_served_at_the_batch_of_the_row_that_won(place: Place) -> None:
    place.choose(served("midas_64", p50=5, runtime="torch-compile"), served("midas_64", 8, 8, runtime="torch-compile"))
    assert list(place.built().branches) == ["midas_64x96_b8"]


def test_a_precision_of_the_choice_replaces_that_of_the_spec(place: Place) -> None:
    place.choose(served("midas_64", dtype_requested="tf32", dtype_used="tf32"))
    assert {branch.dtype for branch in place.built().branches.values()} == {"tf32"}


def test_two_roles_that_choose_the_same_file_serve_it_once(place: Place) -> None:
    again = served("midas_64", id="again", role="edges")
    place.choose(served("midas_64"), again)
    assert list(place.built().branches) == ["midas_64x96"]


# --- what is refused ---


def test_a_choice_without_a_branch_for_each_role_is_refused(place: Place) -> None:
    place.choose(served("midas_64"), p95_ms=1)
    said = place.refused()
    assert (
        "choice.json: depth: branches=0 (nearest is midas_64-b1-fp32-onnxruntime), expected a branch for each" in said
    )
    assert "Choose again with `python -m tools.choose_branches`." in said


def test_a_branch_whose_served_row_breaks_the_budget_is_refused(place: Place) -> None:
    place.choose(served("midas_64", p50=1, runtime="torch-compile"), served("midas_64", p50=50), p95_ms=20)
    said = place.refused()
    assert "choice.json: depth, large: runtime=torch-compile; no row of onnxruntime or triton keeps the budget" in said
    assert "Choose again with a wider budget" in said


@pytest.mark.parametrize(
    ("only", "says"),
    [
        (
            served("other_64"),
            "depth, large: variant=other_64, expected one of spec served: midas_64, midas_128",
        ),
        (served("midas_64", 4), "midas_small_64x96_b4.onnx"),
        (served("midas_64", dtype_requested="fp16"), "midas_small_64x96.onnx"),
        (served("midas_64", dtype_requested="int8"), "depth, large: dtype=int8, expected one of fp32, tf32, fp16."),
        (served("midas_64", dtype_requested=None, dtype_used=None), "depth, large: dtype=None, expected one of"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_no_file_was_published_of_is_refused(place: Place, only: CaseSummary, says: str) -> None:
    place.choose(only)
    assert says in place.refused()


@pytest.mark.parametrize("option", [("--batch", "8"), ("--dtype", "fp16")])
def test_what_the_choice_decides_is_not_named_beside_it(place: Place, option: tuple[str, str]) -> None:
    place.choose(served("midas_64"))
    said = place.refused(*option)
    assert f" beside --choice, expected what the choice says. Leave out {option[0]} or --choice." in said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "content=Invalid JSON"),
        ("[]", "content=Input should be an object"),
        ('{"kind": "choice"}', "run_id=Field required"),
        ('{"roles": 7}', "expected a choice of this suite."),
        ("[" * 100_000, "content=Invalid JSON"),
    ],
)
def test_a_file_that_is_no_choice_is_refused(place: Place, text: str, says: str) -> None:
    place.choice.write_text(text)
    assert says in place.refused()


def test_a_choice_of_no_role_is_refused(place: Place) -> None:
    choice = place.choose(served("midas_64"))
    place.choice.write_text(choice.model_copy(update={"roles": ()}).model_dump_json())
    assert "choice.json: roles=0, expected a choice with roles." in place.refused()


def test_a_choice_that_is_not_there_is_refused(place: Place) -> None:
    place.choice.mkdir()
    assert "file=Is a directory, expected a readable file. Check the path." in place.refused()


DOCUMENT = json.loads(
    choose(run_of(served("midas_64", p50=2, runtime="torch-compile"), served("midas_64"), FLOW), {}).model_dump_json()
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(where=st.sampled_from([at for at in places(DOCUMENT) if "roles" in at]), value=values | HOSTILE)
def test_any_value_in_any_place_of_a_choice_is_built_from_or_refused(
    published: Path, tmp_path: Path, where: tuple[str | int, ...], value: object
) -> None:
    choice, file = tmp_path / "choice.json", tmp_path / "file"
    file.write_text("")
    choice.write_text(with_value(DOCUMENT, where, value))
    # No folder can be made below a file, so that what is sound is refused, too: after everything was read.
    files = ("--spec", published / "spec.yaml", "--onnx-dir", published / "onnx")
    said = ended(main, *files, "--out", file / "repository", "--choice", choice)
    assert (said.returncode, file.read_text()) == (2, "")
    assert is_one_message(said.stderr), said.stderr


# --- export_tests and serve_tests ---


def session(place: Place, bundle_root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What `pytest TESTS --choice` would run."""
    given = ["--spec", str(place.folder / "spec.yaml"), "--choice", str(place.choice), "--onnx-dir", "nowhere"]
    command = [sys.executable, "-m", "pytest", *arguments, *given, "--models-root", str(bundle_root)]
    return subprocess.run(
        [*command, "--collect-only", "-q", "-p", "no:cacheprovider"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("tests", ["export_tests", "serve_tests"])
def test_what_was_chosen_is_exported_and_proved(place: Place, bundle_root: Path, tests: str) -> None:
    place.choose(served("midas_64", batch=8), served("midas_128", batch=1), FLOW)
    said = session(place, bundle_root, tests)
    assert said.returncode == 0, said.stdout + said.stderr
    ids = re.findall(r"\[(.*-b\d+-fp32)", said.stdout)
    assert set(ids) == {"midas_64-b8-fp32", "midas_128-b1-fp32", "raft_128-b1-fp32"}


def test_a_choice_and_a_precision_beside_it_are_refused(place: Place, bundle_root: Path) -> None:
    place.choose(served("midas_64"), FLOW)
    said = session(place, bundle_root, "export_tests", "--dtype", "fp16")
    assert said.returncode == 2
    said_first = said.stderr.splitlines()[0]
    rule = "expected what the choice says. Leave out --dtype or --choice."
    assert said_first == f"ERROR: --dtype: value=fp16 beside --choice, {rule}"


def test_a_choice_that_is_none_is_refused_by_the_session(place: Place, bundle_root: Path) -> None:
    place.choice.write_text("{}")
    said = session(place, bundle_root, "export_tests")
    assert said.returncode == 2
    assert "expected a choice of this suite. Choose again" in said.stderr
