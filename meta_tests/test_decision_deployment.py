"""Exports that a choice deploys: in a model repository, in export_tests and in serve_tests; or one message."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fixtures.cases import exports_of
from fixtures.decision import choose
from fixtures.errors import InputError
from fixtures.records import CaseSummary, Choice, Repository, WeightsRecord
from fixtures.sessions.options import Options
from fixtures.sessions.setup import Setup, make_setup
from fixtures.spec import load_spec, spec_from
from fixtures.spec.budget import Budget
from fixtures.subject import locate_checkpoint
from fixtures.triton.stored_repository import read_repository
from meta_tests.any_value import places, values
from meta_tests.branches import publish_stand_in
from meta_tests.conftest import Ended
from meta_tests.runs import HOSTILE, ended, is_one_message, row, run_of, with_value
from meta_tests.served import ServeSuite
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


OF_STAND_INS = "1" * 64  # sha256 of the weights of every stand-in
OTHER_WEIGHTS = WeightsRecord(sha256="2" * 64, synthetic=False)
SIZES = {"midas_64": (64, 96), "midas_128": (128, 128), "raft_128": (128, 160), "other_64": (64, 96)}


@dataclass(frozen=True)
class Place:
    """A folder with a spec, its published files and a choice; and the tool that builds a repository."""

    folder: Path

    @property
    def out(self) -> Path:
        """The repository."""
        return self.folder / "repository"

    @property
    def choice(self) -> Path:
        """The choice."""
        return self.folder / "choice.json"

    def choose(self, *cases: CaseSummary, measured: str | None = None, **budget: Any) -> Choice:
        """Choose from a run of these rows and, where given, of the spec with this text; and write the choice."""
        variants = spec_from(yaml.safe_load(measured), "spec").variants if measured else ()
        definitions = {variant.name: variant.model_dump(mode="json") for variant in variants}
        choice = choose(run_of(*cases, run={"variants": definitions}), {"depth": Budget(**budget)})
        self.choice.write_text(choice.model_dump_json())
        return choice

    def build(self, *arguments: str) -> Ended:
        """Build the repository of the choice."""
        given = ("--spec", self.folder / "spec.yaml", "--onnx-dir", self.folder / "onnx", "--out", self.out)
        return ended(main, *given, "--choice", self.choice, *arguments)

    def built(self) -> Repository:
        """The record of the repository that is built from the choice."""
        said = self.build()
        assert said.returncode == 0, said.stderr
        return read_repository(self.out)

    def refused(self, *arguments: str) -> str:
        """The message of a build that is refused and writes nothing."""
        said = self.build(*arguments)
        assert (said.returncode, said.stdout) == (2, "")
        assert is_one_message(said.stderr), said.stderr
        assert sorted(path.name for path in self.folder.iterdir()) == ["choice.json", "onnx", "spec.yaml"]
        return said.stderr


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stand-ins of every branch and batch, entered in the manifest as if they had passed their gate."""
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
    """A row of ONNX Runtime in fp32, of frames of the size that the spec says."""
    facts = {"runtime": "onnxruntime", "dtype_requested": "fp32", "dtype_used": "fp32", **facts}
    facts = {"weights": WeightsRecord(sha256=OF_STAND_INS, synthetic=False), **facts}
    facts = {"input_bucket": dict(zip(("height", "width"), SIZES[variant], strict=True)), **facts}
    return row(variant, batch, p50, memory_mb=p50, **facts)


FLOW = served("raft_128", role="flow")


# --- built ---


def test_repository_holds_the_chosen_branches_at_their_batch(place: Place) -> None:
    place.choose(served("midas_64"), served("midas_64", 8, 12), served("midas_128"), served("midas_128", 8, 90), FLOW)
    repository = place.built()
    assert list(repository.branches) == ["midas_64x96_b8", "midas_128", "flow"]
    assert {branch.dtype for branch in repository.branches.values()} == {"fp32"}
    assert repository.branches["midas_64x96_b8"].inputs[0].shape == (8, 64, 96, 3)


def test_branch_beyond_keep_is_not_served(place: Place) -> None:
    place.choose(served("midas_64", p50=5), served("midas_128"), keep=1)
    assert list(place.built().branches) == ["midas_128"]


def test_best_servable_row_is_served_where_triton_lacks_the_runtime(place: Place) -> None:
    fast = served("midas_64", p50=1, runtime="torch-compile")
    measured = fast, served("midas_64", 1, 9), served("midas_64", 8, 24)
    (role,) = place.choose(*measured, runtimes=("torch-compile", "onnxruntime")).roles
    assert [branch.candidate.case_id for branch in role.branches] == [fast.id]
    assert list(place.built().branches) == ["midas_64x96_b8"]


def test_unmeasured_file_is_served_at_the_batch_of_the_winner(place: Place) -> None:
    place.choose(served("midas_64", p50=5, runtime="torch-compile"), served("midas_64", 8, 8, runtime="torch-compile"))
    assert list(place.built().branches) == ["midas_64x96_b8"]


def test_precision_class_of_the_choice_replaces_the_specs(place: Place) -> None:
    place.choose(served("midas_64", dtype_requested="tf32", dtype_used="tf32"))
    assert {branch.dtype for branch in place.built().branches.values()} == {"tf32"}


def test_file_chosen_for_two_roles_is_served_once(place: Place) -> None:
    again = served("midas_64", id="again", role="edges")
    place.choose(served("midas_64"), again)
    assert list(place.built().branches) == ["midas_64x96"]


# --- refused ---


def test_choice_with_a_role_without_branch_is_refused(place: Place) -> None:
    place.choose(served("midas_64"), p95_ms=1)
    said = place.refused()
    assert (
        "choice.json: depth: branches=0 (nearest is midas_64-b1-fp32-onnxruntime), expected a branch for each" in said
    )
    assert "Choose again with `python -m tools.choose_branches`." in said


def test_branch_whose_served_row_breaks_the_budget_is_refused(place: Place) -> None:
    measured = served("midas_64", p50=1, runtime="torch-compile"), served("midas_64", p50=50)
    place.choose(*measured, p95_ms=20, runtimes=("torch-compile", "onnxruntime"))
    said = place.refused()
    assert re.search(r"choice.json: depth, large: runtime=torch-compile; no row of .*onnxruntime.* keeps the bud", said)
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
def test_choice_without_a_published_file_is_refused(place: Place, only: CaseSummary, says: str) -> None:
    place.choose(only)
    assert says in place.refused()


@pytest.mark.parametrize("option", [("--batch", "8"), ("--dtype", "fp16"), ("--frame", "72x128")])
def test_option_that_the_choice_decides_is_refused(place: Place, option: tuple[str, str]) -> None:
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
def test_file_that_is_no_choice_is_refused(place: Place, text: str, says: str) -> None:
    place.choice.write_text(text)
    assert says in place.refused()


def test_choice_without_roles_is_refused(place: Place) -> None:
    choice = place.choose(served("midas_64"))
    place.choice.write_text(choice.model_copy(update={"roles": ()}).model_dump_json())
    assert "choice.json: roles=0, expected a choice with roles." in place.refused()


def test_choice_for_another_server_is_refused(place: Place) -> None:
    place.choose(served("midas_64"))
    spec = place.folder / "spec.yaml"
    spec.write_text(spec.read_text() + "serving: {accelerator: tensorrt}\n")
    said = place.refused()
    assert "runtime=onnxruntime; onnxruntime is served with `accelerator: cuda`, and the spec says tensorrt" in said
    assert "expected a runtime that the server of spec served runs. Correct the spec, or measure and choose" in said


def test_missing_choice_is_refused(place: Place) -> None:
    place.choice.mkdir()
    assert "file=Is a directory, expected a readable file. Check the path." in place.refused()


DOCUMENT = json.loads(
    choose(run_of(served("midas_64", p50=2, runtime="torch-compile"), served("midas_64"), FLOW), {}).model_dump_json()
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(where=st.sampled_from([at for at in places(DOCUMENT) if "roles" in at]), value=values | HOSTILE)
def test_choice_with_any_value_anywhere_is_built_or_refused(
    published: Path, tmp_path: Path, where: tuple[str | int, ...], value: object
) -> None:
    choice, file = tmp_path / "choice.json", tmp_path / "file"
    file.write_text("")
    choice.write_text(with_value(DOCUMENT, where, value))
    # No folder can be made below a file: a valid choice is refused as well, after everything has been read.
    files = ("--spec", published / "spec.yaml", "--onnx-dir", published / "onnx")
    said = ended(main, *files, "--out", file / "repository", "--choice", choice)
    assert (said.returncode, file.read_text()) == (2, "")
    assert is_one_message(said.stderr), said.stderr


# --- export_tests and serve_tests ---


def setup_of_choice(place: Place, bundle_root: Path, **options: Any) -> Setup:
    """What `pytest export_tests --choice` and `pytest serve_tests --choice` begin with."""
    spec, choice, root = str(place.folder / "spec.yaml"), str(place.choice), str(bundle_root)
    options = {"spec": spec, "choice": choice, "models_root": root, "device": "cpu", **options}
    return make_setup(Options(**options), {"cpu": "export.yaml"})


@pytest.mark.usefixtures("own_environment")
def test_sessions_select_the_chosen_exports(place: Place, bundle_root: Path) -> None:
    place.choose(served("midas_64", batch=8), served("midas_128", batch=1), FLOW)
    exports = setup_of_choice(place, bundle_root).exports()
    assert [export.id for export in exports] == ["midas_64-b8-fp32", "midas_128-b1-fp32", "raft_128-b1-fp32"]


@pytest.mark.parametrize("select", [Setup.exports, Setup.served_exports])
@pytest.mark.usefixtures("own_environment")
def test_variants_of_which_none_was_chosen_are_refused(
    place: Place, bundle_root: Path, select: Callable[[Setup], object]
) -> None:
    place.choose(served("midas_64"), FLOW)
    setup = setup_of_choice(place, bundle_root, variants="midas_128")
    says = "--variants midas_128: files=0, expected a variant of the choice: midas_64, raft_128. Name one, or"
    with pytest.raises(InputError, match=says):
        select(setup)


@pytest.mark.usefixtures("own_environment")
def test_chosen_files_have_the_graph_of_the_spec(place: Place, bundle_root: Path) -> None:
    spec = place.folder / "spec.yaml"
    spec.write_text(f"{spec.read_text()}\nonnx_graph: contrib\n")
    place.choose(served("midas_64"))
    assert [export.graph for export in setup_of_choice(place, bundle_root).exports()] == ["contrib"]


@pytest.mark.parametrize(("measured", "spec"), [("contrib", "portable"), ("portable", "contrib")])
def test_graph_that_was_not_measured_is_not_built(place: Place, measured: str, spec: str) -> None:
    path = place.folder / "spec.yaml"
    path.write_text(f"{path.read_text()}\nonnx_graph: {spec}\n")
    place.choose(served("midas_64", knobs={"dtype": "fp32", "onnx_graph": measured}), FLOW)
    says = f"onnx_graph of midas_64 in spec served={spec}, expected {measured}, which was measured. Correct the spec"
    assert says in place.refused()


@pytest.mark.parametrize(
    ("then", "now", "says"),
    [
        ("family: midas, model: MiDaS_small", "family: midas, model: DPT_Hybrid", "model of midas_64 in spec served="),
        ("64, width: 96", "96, width: 64", "height of midas_64 in spec served=96, expected 64"),
        ("optional: true", "fit: pad", "fit of midas_64 in spec served=pad, expected not set"),
        ("optional: true", "frame: {height: 80, width: 96}", "served=height 80, width 96, expected not set"),
        ("optional: true", "weights: own.pt", "weights of midas_64 in spec served=own.pt, expected not set"),
    ],
)
def test_variant_that_was_changed_since_is_not_built(place: Place, then: str, now: str, says: str) -> None:
    (place.folder / "spec.yaml").write_text(SPEC.replace(then, now, 1))
    place.choose(served("midas_64"), FLOW, measured=SPEC)
    said = place.refused()
    assert says in said
    assert said.endswith("which was measured. Correct the spec, or measure and choose again.\n")


def test_variant_is_built_that_is_measured_and_held_in_another_way_since(place: Place) -> None:
    changed = SPEC.replace("optional: true", "ceiling: 0.5, role: edges, channels_last: true", 1)
    (place.folder / "spec.yaml").write_text(changed)
    place.choose(served("midas_64"), FLOW, measured=SPEC)
    assert list(place.built().branches) == ["midas_64x96", "flow"]


def test_size_is_compared_where_the_run_does_not_say_its_variants(place: Place) -> None:
    place.choose(served("midas_64", input_bucket={"height": 64, "width": 64}))
    says = "input_bucket of midas_64 in spec served=height 64, width 96, expected height 64, width 64, which was measu"
    assert says in place.refused()


def test_file_of_other_weights_than_were_measured_is_not_built(place: Place) -> None:
    place.choose(served("midas_64", weights=OTHER_WEIGHTS), FLOW)
    says = "depth, large: sha256 of the weights of midas_64=111111111111…, expected the 222222222222… that were measu"
    assert says in place.refused()


@pytest.mark.usefixtures("own_environment")
def test_measured_weights_are_those_of_the_models_root(place: Place, bundle_root: Path) -> None:
    setup = setup_of_choice(place, bundle_root)
    place.choose(served("midas_64", weights=OTHER_WEIGHTS))
    (export,) = setup.exports()
    own = setup.bundle.weights(locate_checkpoint(export.variant, setup.bundle)).record
    place.choose(served("midas_64", weights=own))
    setup.require_chosen_weights([export])
    place.choose(served("midas_64", weights=None))
    setup.require_chosen_weights([export])


@pytest.mark.parametrize("tests", ["export_tests", "serve_tests"])
def test_pytest_refuses_other_weights_than_were_measured(place: Place, bundle_root: Path, tests: str) -> None:
    place.choose(served("midas_64", weights=OTHER_WEIGHTS))
    files = ("--spec", str(place.folder / "spec.yaml"), "--choice", str(place.choice))
    said = ServeSuite(place.folder, bundle_root, tests=tests, onnx_dir=place.folder / "onnx").run(*files)
    assert said.returncode == 2
    assert re.search("depth, large: sha256 of the weights of midas_64=.*, expected the 222222222222… that", said.stderr)


@pytest.mark.usefixtures("own_environment")
def test_sessions_refuse_a_precision_class_beside_a_choice(place: Place, bundle_root: Path) -> None:
    place.choose(served("midas_64"), FLOW)
    rule = "expected what the choice says. Leave out --dtype or --choice."
    with pytest.raises(InputError, match=f"^--dtype: value=fp16 beside --choice, {rule}$"):
        setup_of_choice(place, bundle_root, dtype="fp16").exports()


@pytest.mark.parametrize("tests", ["export_tests", "serve_tests"])
def test_pytest_collects_the_chosen_exports(place: Place, bundle_root: Path, tests: str) -> None:
    place.choose(served("midas_64", batch=8), FLOW)
    suite = ServeSuite(place.folder, bundle_root, tests=tests)
    files = ("--spec", str(place.folder / "spec.yaml"), "--choice", str(place.choice))
    said = suite.run(*files, "--collect-only", "-q")
    assert said.returncode == 0, said.stdout + said.stderr
    assert set(re.findall(r"\[(.*-b\d+-fp32)", said.stdout)) == {"midas_64-b8-fp32", "raft_128-b1-fp32"}


def test_pytest_refuses_a_file_that_is_no_choice(place: Place, bundle_root: Path) -> None:
    place.choice.write_text("{}")
    files = ("--spec", str(place.folder / "spec.yaml"), "--choice", str(place.choice))
    said = ServeSuite(place.folder, bundle_root, tests="export_tests").run(*files)
    assert said.returncode == 2
    assert "expected a choice of this suite. Choose again" in said.stderr
