"""`tools.choose_branches`: its output, its exit codes, and its refusals of damaged runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from fixtures.records import Choice
from meta_tests.any_value import places, values
from meta_tests.runs import (
    HOSTILE,
    Place,
    chosen,
    ended,
    in_every_place,
    is_one_message,
    require_schema,
    row,
    run_of,
    stored,
    with_value,
)
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
    require_schema(document, "choice")
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


def test_reasons_are_printed_and_choice_fits_its_schema(run: Path, spec: Path, tmp_path: Path) -> None:
    output = tmp_path / "choice.json"
    said = ended(main, run, "--spec", spec, "-o", output)
    assert (said.returncode, said.stderr) == (0, "")
    choice = written(output)
    assert chosen(choice) == {"small": "depth_256-b1-fp16-torch", "large": "depth_384-b1-fp16-torch"}
    assert (choice.spec, choice.run_id, choice.feasible) == ("night", "run", True)
    for line in (
        "depth (p95_ms 25.0):\n",
        "  small: depth_256 with torch in fp16 at batch 1 costs 10 ms a frame",
        "p95 is 10.20 ms of 25 ms",
        "It needs 400 MiB: this GPU's memory holds 340 instances.",
        "  small: served: Triton does not run torch",
        "  rejected: 1 by p95_ms\n",
        f"wrote {output}\n",
    ):
        assert line in said.stdout


def test_without_output_option_standard_output_is_the_choice_alone(run: Path) -> None:
    said = ended(main, run)
    assert said.returncode == 0
    assert Choice.model_validate_json(said.stdout).feasible
    assert "depth (no bounds):" in said.stderr


def test_budgets_of_a_spec_replace_those_of_the_run(tmp_path: Path, spec: Path) -> None:
    measured = {"spec": "day", "roles": {"depth": {"p95_ms": 1.0}}}
    path = stored(tmp_path / "r", row(), run=measured)
    before, after = (ended(main, path, "-o", tmp_path / "c.json", *given) for given in ((), ("--spec", spec)))
    assert (before.returncode, after.returncode) == (1, 0)
    assert "depth (p95_ms 1.0):" in before.stdout
    assert written(tmp_path / "c.json").spec == "night"


def test_role_without_a_branch_ends_with_1_and_names_the_nearest_miss(tmp_path: Path) -> None:
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


def test_role_without_a_usable_row_ends_with_1(tmp_path: Path) -> None:
    said = ended(main, stored(tmp_path / "r", row(status="oom")), "-o", tmp_path / "c.json")
    assert said.returncode == 1
    assert "no branch keeps the budget; no row can be trusted or compared with it" in said.stdout
    assert "rejected: 1 by status" in said.stdout


def test_run_is_named_by_its_folder_or_its_summary(run: Path) -> None:
    assert ended(main, run).stdout == ended(main, run / "summary.json").stdout


# --- bad input ---


@pytest.mark.parametrize(
    "name", ["absent", "x" * 300, "empty", "text.json", "list.json", "no_cases.json", "memory.json"]
)
def test_file_or_folder_that_is_no_run_is_refused(tmp_path: Path, name: str) -> None:
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
def test_output_that_cannot_be_written_is_refused(run: Path, output: str) -> None:
    said = ended(main, run, "-o", run.parent / output)
    assert (said.returncode, said.stdout) == (2, "")
    assert is_one_message(said.stderr)
    assert "expected a writable path. Choose another." in said.stderr


def test_refused_run_leaves_an_earlier_output(run: Path) -> None:
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
def test_invalid_budget_of_a_spec_is_refused(run: Path, spec: Path, old: str, new: str, says: str) -> None:
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
PLACES = [place for place in places(DOCUMENT) if place[:2] != ("cases", 2)]  # the other cases have the same ones


def chosen_from_or_refused(folder: Path, place: Place, value: object) -> None:
    """Choose from a run with a damaged place; the choice fits its schema, or the tool ends with code 2."""
    damaged, output = folder / "damaged.json", folder / "c.json"
    damaged.write_text(with_value(DOCUMENT, place, value))
    output.unlink(missing_ok=True)
    said = ended(main, damaged, "-o", output)
    if said.returncode == 2:
        assert is_one_message(said.stderr), said.stderr
        assert not output.exists()
    else:
        assert said.returncode == (0 if written(output).feasible else 1), (place, value)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("cases", 0, "latency_ms", "p50"), 5e-324),
        (("cases", 0, "memory", "gpu_used_mb"), {"context": -1e308, "steady": 1e308}),
        (("cases", 0, "memory", "gpu_used_mb"), {"context": 0, "steady": 5e-324}),
        (("environment", "gpu_memory_mb"), float("nan")),
        (("environment", "gpu_memory_mb"), 10**400),
        (("run", "roles", "depth", "p95_ms"), 5e-324),
        (("run", "spec"), 7),
        (("run", "variants", "depth_256", "height"), 10**400),
    ],
    ids=lambda value: str(value)[:40],
)
def test_value_beyond_what_floats_divide_is_chosen_from_or_refused(tmp_path: Path, place: Place, value: object) -> None:
    chosen_from_or_refused(tmp_path, place, value)


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(damages=in_every_place(PLACES, values | HOSTILE))
def test_any_value_in_every_place_is_chosen_from_or_refused(tmp_path: Path, damages: tuple[Any, ...]) -> None:
    for place, value in damages:
        chosen_from_or_refused(tmp_path, place, value)


def test_impossible_sizes_count_as_one(tmp_path: Path) -> None:
    sizes = [{"height": 10**400}, {"height": -5, "width": 10**400}, {}]
    cases = [row(f"v{index}", p50=index + 1, input_bucket=size) for index, size in enumerate(sizes)]
    assert ended(main, stored(tmp_path / "r", *cases), "-o", tmp_path / "c.json").returncode == 0
    (branch,) = written(tmp_path / "c.json").roles[0].branches
    assert branch.candidate.figures.input_size == 1
