"""`tools.choose_branches`: what it prints and writes, its exit codes, and that no file makes it stumble."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fixtures.records import Choice
from meta_tests.runs import HOSTILE, chosen, ended, is_one_message, row, run_of, stored, with_value
from meta_tests.test_schemas import schema
from meta_tests.test_spec import places, values
from tools.choose_branches import main

SPEC = """\
schema_version: 1
name: night
dtype: fp16
runtimes: [torch]
roles:
  depth: {p95_ms: 25, keep: 2}
variants:
  - {name: depth_256, family: midas, model: MiDaS_small, height: 256, width: 256}
"""


def written(path: Path) -> Choice:
    """A choice on disk, which fits its schema."""
    document = json.loads(path.read_text())
    jsonschema.validate(document, schema("choice"))
    return Choice.model_validate(document)


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "night.yaml"
    path.write_text(SPEC)
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    slow = row("depth_512", p50=26, size=512, memory_mb=900)
    return stored(tmp_path / "run", row(), row("depth_384", p50=20, size=384, memory_mb=600), slow)


def test_it_says_why_and_writes_what_fits_its_schema(run: Path, spec: Path, tmp_path: Path) -> None:
    output = tmp_path / "choice.json"
    said = ended(main, run, "--spec", spec, "-o", output)
    assert (said.returncode, said.stderr) == (0, "")
    choice = written(output)
    assert chosen(choice) == {"small": "depth_256-b1-fp16-torch", "large": "depth_384-b1-fp16-torch"}
    assert (choice.spec, choice.run_id, choice.feasible) == ("night", "run", True)
    for line in (
        "depth (p95_ms 25.0):\n",
        "  small: depth_256, torch in fp16 at batch 1: 10 ms a frame",
        "p95 10.20 ms of 25 ms",
        "400 MiB, so memory holds 340 instances on this GPU",
        "  small: served: Triton does not run torch",
        "  rejected: 1 by p95_ms\n",
        f"wrote {output}\n",
    ):
        assert line in said.stdout


def test_without_an_output_the_choice_alone_is_on_standard_output(run: Path) -> None:
    said = ended(main, run)
    assert said.returncode == 0
    assert Choice.model_validate_json(said.stdout).feasible
    assert "depth (no bounds):" in said.stderr


def test_the_budgets_of_the_run_hold_and_those_of_a_spec_replace_them(tmp_path: Path, spec: Path) -> None:
    measured = {"spec": "day", "roles": {"depth": {"p95_ms": 1.0}}}
    path = stored(tmp_path / "r", row(), run=measured)
    before, after = (ended(main, path, "-o", tmp_path / "c.json", *given) for given in ((), ("--spec", spec)))
    assert (before.returncode, after.returncode) == (1, 0)
    assert "depth (p95_ms 1.0):" in before.stdout
    assert written(tmp_path / "c.json").spec == "night"


def test_no_branch_within_the_budget_ends_with_1_and_the_nearest_miss(tmp_path: Path) -> None:
    cases = [row(p50=30, p95=33), row(runtime="torch-graph", p50=27, p95=30)]
    path = stored(tmp_path / "r", *cases, run={"roles": {"depth": {"p95_ms": 25.0}}})
    said = ended(main, path, "-o", tmp_path / "c.json")
    assert (said.returncode, said.stderr) == (1, "")
    line = (
        "no branch keeps the budget; nearest is depth_256-b1-fp16-torch-graph: p95 30.00 ms, at most 25 ms (20% over)"
    )
    assert line in said.stdout
    choice = written(tmp_path / "c.json")
    (role,) = choice.roles
    assert (choice.feasible, role.branches) == (False, ())
    assert role.nearest_miss is not None
    assert role.nearest_miss.case_id == cases[1].id
    assert role.nearest_miss.over_percent == pytest.approx(20)


def test_no_row_that_can_be_trusted_ends_with_1_and_says_so(tmp_path: Path) -> None:
    said = ended(main, stored(tmp_path / "r", row(status="oom")), "-o", tmp_path / "c.json")
    assert said.returncode == 1
    assert "no branch keeps the budget; no row can be trusted or compared with it" in said.stdout
    assert "rejected: 1 by status" in said.stdout


def test_a_run_is_found_by_its_folder_its_summary_or_what_else_there_is_of_it(run: Path) -> None:
    assert ended(main, run).stdout == ended(main, run / "summary.json").stdout


# --- bad input ---


@pytest.mark.parametrize(
    "name", ["absent", "x" * 300, "empty", "text.json", "list.json", "no_cases.json", "memory.json"]
)
def test_what_is_no_run_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.json").write_text("half a {")
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "no_cases.json").write_text(run_of().model_dump_json())
    memory = '"cases":[],"memory_cases":[{"case_id":"m","status":"ok"}]'
    (tmp_path / "memory.json").write_text(run_of().model_dump_json().replace('"cases":[]', memory, 1))
    said = ended(main, tmp_path / name, "-o", tmp_path / "c.json")
    assert (said.returncode, said.stdout) == (2, "")
    assert is_one_message(said.stderr), said.stderr
    assert not (tmp_path / "c.json").exists()


@pytest.mark.parametrize("output", ["absent/c.json", "run", "x" * 300])
def test_an_output_that_cannot_be_written_is_refused(run: Path, output: str) -> None:
    said = ended(main, run, "-o", run.parent / output)
    assert (said.returncode, said.stdout) == (2, "")
    assert is_one_message(said.stderr)
    assert "expected a writable path. Choose another." in said.stderr


def test_what_cannot_be_written_leaves_what_was_there(run: Path) -> None:
    output = run.parent / "c.json"
    output.write_text("before")
    assert ended(main, run.parent / "absent", "-o", output).returncode == 2
    assert output.read_text() == "before"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("depth: {", "dpeth: {", "roles.dpeth of night: role=dpeth, expected one of this run: depth."),
        ("p95_ms: 25", "p95_ms: 0", "night.yaml:6: roles.depth.p95_ms=0, expected greater than 0."),
        ("p95_ms: 25", "p95: 25", "night.yaml:6: roles.depth.p95=an unknown key, expected one of p95_ms, batch"),
        ("keep: 2", "keep: 0", "night.yaml:6: roles.depth.keep"),
        ("keep: 2", "keep: [small, small]", "expected each entry once"),
        ("keep: 2", "runtimes: [pytorch]", "roles.depth.runtimes[0]='pytorch', expected one of"),
    ],
)
def test_a_budget_that_is_none_is_refused(run: Path, spec: Path, old: str, new: str, says: str) -> None:
    spec.write_text(SPEC.replace(old, new))
    said = ended(main, run, "--spec", spec, "-o", run.parent / "c.json")
    assert (said.returncode, said.stdout) == (2, "")
    assert is_one_message(said.stderr)
    assert says in said.stderr
    assert not (run.parent / "c.json").exists()


# A run whose every value is looked at: budgets, sizes of variants, the memory of its machine.
DOCUMENT = json.loads(
    run_of(
        row(),
        row(batch=8, p50=60, memory_mb=500, device_p50_ms=50.0, knobs={"channels_last": True}),
        row("depth_384", p50=20, size=384, status="unstable", notes=("the clock moved",)),
        run={
            "spec": "night",
            "roles": {"depth": {"p95_ms": 70.0, "vram_mb": 9e3, "min_throughput": 1.0, "keep": ["small", "large"]}},
            "variants": {"depth_256": {"height": 256, "width": 256}},
        },
    ).model_dump_json()
)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(place=st.sampled_from(places(DOCUMENT)), value=values | HOSTILE)
@example(place=("cases", 0, "latency_ms", "p50"), value=5e-324)
@example(place=("cases", 0, "memory", "gpu_used_mb"), value={"context": -1e308, "steady": 1e308})
@example(place=("cases", 0, "memory", "gpu_used_mb"), value={"context": 0, "steady": 5e-324})
@example(place=("environment", "gpu_memory_mb"), value=float("nan"))
@example(place=("environment", "gpu_memory_mb"), value=10**400)
@example(place=("run", "roles", "depth", "p95_ms"), value=5e-324)
@example(place=("run", "spec"), value=7)
@example(place=("run", "variants", "depth_256", "height"), value=10**400)
def test_any_value_in_any_place_is_chosen_from_or_refused(
    tmp_path: Path, place: tuple[str | int, ...], value: object
) -> None:
    damaged, output = tmp_path / "damaged.json", tmp_path / "c.json"
    damaged.write_text(with_value(DOCUMENT, place, value))
    output.unlink(missing_ok=True)
    said = ended(main, damaged, "-o", output)
    if said.returncode == 2:
        assert is_one_message(said.stderr), said.stderr
        assert not output.exists()
    else:
        assert said.returncode == (0 if written(output).feasible else 1)


def test_sizes_that_nothing_has_are_not_counted(tmp_path: Path) -> None:
    sizes = [{"height": 10**400}, {"height": -5, "width": 10**400}, {}]
    cases = [row(f"v{index}", p50=index + 1, input_bucket=size) for index, size in enumerate(sizes)]
    assert ended(main, stored(tmp_path / "r", *cases), "-o", tmp_path / "c.json").returncode == 0
    (branch,) = written(tmp_path / "c.json").roles[0].branches
    assert branch.candidate.figures.input_size == 1
