"""docs/results.md and the limits that docs/ repeats: the figures are those of the stored runs and of the code."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from fixtures.export.accuracy import CEILINGS, FACTOR, FLOORS
from fixtures.manifest import read_manifest
from fixtures.measure import protocol
from fixtures.results.memory import memory_above_context_mb
from fixtures.results.reading import read_run
from fixtures.tuning.tuner import options_text
from meta_tests.pages import README, ROOT, tables

PAGE = ROOT / "docs" / "results.md"
DATA = ROOT / "meta_tests" / "data"
PACKAGES = "What a server can run, on H100s"
SERVABLE = ("torch-aoti-graph", "torch-aoti", "onnxruntime", "torch-compile", "torch-graph", "torch")
RUNTIMES = ("torch", "torch-graph", "torch-compile", "onnxruntime", "onnxruntime-graph")
MARK = " ◦"

Cases = dict[tuple[str, int, str], dict[str, Any]]


@cache
def stored(*files: str) -> Cases:
    """Cases of stored summaries by variant, batch and runtime; later files replace."""
    cases: Cases = {}
    for file in files:
        summary = json.loads((DATA / file).read_text())
        cases |= {(case["variant"], case["batch"], case["runtime"]): case for case in summary["cases"]}
    return cases


def shown(case: dict[str, Any]) -> str:
    """The cell of a case: its p50 in ms, and the mark of a launch-bound row."""
    return f"{case['latency_ms']['p50']:.2f}" + (MARK if case["launch_bound"] else "")


def test_table_of_runtimes_is_the_stored_run() -> None:
    """And its last column is the quotient of the two columns that it names."""
    cases, rows = stored("h200/summary.json"), tables(PAGE, "Runtimes on an H200")[1]
    assert len(rows) == 12
    for variant, batch, *cells, quotient in rows:
        own = [cases[variant, int(batch), runtime] for runtime in RUNTIMES]
        assert [cell.replace("*", "") for cell in cells] == [shown(case) for case in own]
        graph, compiled = own[4]["latency_ms"]["p50"], own[2]["latency_ms"]["p50"]
        assert quotient == f"{graph / compiled:.1f}"
        fastest = min(range(len(own)), key=lambda index: float(own[index]["latency_ms"]["p50"]))
        assert [index for index, cell in enumerate(cells) if cell.startswith("**")] == [fastest]


@pytest.mark.parametrize(("page", "heading"), [(PAGE, PACKAGES), (README, "Measured")], ids=["results", "readme"])
def test_tables_of_packages_are_the_stored_run(page: Path, heading: str) -> None:
    """And their last column is the quotient of the package in a graph and torch.compile."""
    cases = stored("h100_packages/summary.json")
    rows = next(rows for rows in tables(page, heading) if len(rows[0]) == len(SERVABLE) + 3)
    assert len(rows) * len(SERVABLE) == len(cases)
    for variant, batch, *cells, quotient in rows:
        own = [cases[variant.strip("`"), int(batch), runtime] for runtime in SERVABLE]
        assert cells == [shown(case) for case in own]
        assert all(0 < case["output_error"] <= case["output_budget"] for case in own)
        graph, compiled = (own[SERVABLE.index(name)] for name in ("torch-aoti-graph", "torch-compile"))
        assert quotient == f"{graph['latency_ms']['p50'] / compiled['latency_ms']['p50']:.2f}"


def test_table_of_options_is_that_of_the_stored_manifest() -> None:
    """A file whose options were not proved faster runs with the defaults."""
    manifest = read_manifest(DATA / "h100_packages")
    tuned = {file: tuning for file, record in manifest.files.items() for tuning in record.tunings}
    rows = {row[0]: row[1:] for row in tables(PAGE, PACKAGES)[2]}
    assert set(rows) == set(tuned)
    for file, (defaults, options_ms, ratio, options, what) in rows.items():
        of = {options_text(one.options): one for one in tuned[file].candidates}
        one = of[options.strip("`")]
        assert (defaults, options_ms) == (f"{of['defaults'].p50_ms:.2f}", f"{one.p50_ms:.2f}")
        assert one.ratio
        assert one.interval
        assert ratio == f"{one.ratio:.2f} ({one.interval[0]:.2f} to {one.interval[1]:.2f})"
        chosen = options_text(tuned[file].options)
        if what == "chosen":
            assert chosen == options.strip("`")
        else:
            assert (chosen, what) == ("defaults", one.verdict)


def test_table_of_a_served_package_is_the_stored_run() -> None:
    cases = stored("h100_packages/served_summary.json")
    in_process, package, onnx = (
        cases["midas_small_256", 8, name] for name in ("torch-aoti-graph", "triton-aoti", "triton")
    )
    first, second, *others = tables(PAGE, PACKAGES)[3]
    assert first[1] == shown(in_process)
    (step,) = package["served"]["steps"]
    assert second[1:] == [shown(package), f"{step['total_ms']:.2f}"]
    of_paths = [
        [f"ONNX, {path['role']}, `{path['protocol']}`", f"{path['latency_ms']['p50']:.2f}", f"{path['server_ms']:.2f}"]
        for path in onnx["served"]["paths"]
        if path["protocol"] == "grpc+shm"
    ]
    assert others == of_paths


def test_table_of_every_family_is_the_stored_runs() -> None:
    cases = stored("h100_baseline/summary.json", "h100_baseline/raft_resnet_summary.json")
    rows = tables(PAGE, "Every family on an H100")[1]
    assert {variant.strip("`") for variant, *_ in rows} == {variant for variant, _, _ in cases}
    for name, unit, *cells in rows:
        variant = name.strip("`")
        own = [cases[variant, batch, runtime] for batch in (1, 8) for runtime in ("torch", "onnxruntime")]
        assert {case["unit"] for case in own} == {unit}
        assert cells == [shown(case) for case in own]


@pytest.mark.parametrize("name", ["summary.json", "raft_summary.json"])
def test_tables_of_served_paths_and_waterfalls_are_the_stored_runs(name: str) -> None:
    summary = json.loads((DATA / "h100_served" / name).read_text())
    (case,) = [case for case in summary["cases"] if case["served"]]
    _, paths, waterfalls = tables(PAGE, "Served on an H100")
    rows = [row[1:] for row in paths if row[0] == case["variant"]]
    assert sorted(rows) == sorted(
        [f"{path['role']}, `{path['protocol']}`", f"{path['latency_ms']['p50']:.2f}", f"{path['server_ms']:.2f}"]
        for path in case["served"]["paths"]
    )
    (waterfall,) = summary["waterfalls"]
    (steps,) = [row[1:] for row in waterfalls if row[0] == case["variant"]]
    assert steps == [*(f"{hop['ms']:.2f}" for hop in waterfall["hops"]), f"{waterfall['serving_tax_percent']:.0f}%"]


def test_stored_runs_on_two_gpus_differ_by_what_the_table_says() -> None:
    one, two = (read_run(DATA / "h100_two_gpus" / f"{name}.json") for name in ("one", "two"))
    largest = {"torch-graph": 0.0, "memory": 0.0, "torch": 0.0}
    for before, after in zip(one.cases, two.cases, strict=True):
        assert before.id == after.id
        assert before.latency_ms
        assert after.latency_ms
        ratio = after.latency_ms.p50 / before.latency_ms.p50
        memory = (memory_above_context_mb(after.memory) or 0) / (memory_above_context_mb(before.memory) or 1)
        largest[before.runtime] = max(largest[before.runtime], ratio - 1, 1 / ratio - 1)
        largest["memory"] = max(largest["memory"], abs(memory - 1))
    row = tables(PAGE, "Two GPUs of one host")[1][-1]
    assert row[3:] == [f"{largest['torch-graph']:.1%}", f"{largest['memory']:.1%}", f"{largest['torch']:.0%}"]


def test_export_page_has_the_floors_the_ceilings_and_the_factor_of_the_gate() -> None:
    _, rows = tables(ROOT / "docs/export.md", "Parity")
    assert {dtype.strip("`"): (float(floor), float(ceiling)) for dtype, floor, ceiling in rows} == {
        dtype: (FLOORS[dtype], CEILINGS[dtype]) for dtype in FLOORS
    }
    assert FACTOR == 2
    assert "twice the error of torch itself" in one_line("export")


def test_numbers_page_has_the_limits_of_the_protocol() -> None:
    page = one_line("numbers")
    for said in (
        f"more than {protocol.LAUNCH_BOUND_RATIO:g} times the device p50",
        f"fill {protocol.GPU_ROUNDS_S:g} s on a GPU, from {protocol.GPU_MIN_ROUNDS} to {protocol.MAX_ROUNDS:,}",
        f"with at least {protocol.CPU_MIN_ROUNDS}",
        f"an SM clock that moved by more than {protocol.MAX_CLOCK_DRIFT:.0%}",
        f"over {protocol.NOISY_RELATIVE_IQR:.0%} of the median",
        f"was over {protocol.MAX_HOST_SLOWDOWN:g} after two retries",
        f"no more than {protocol.HOST_SHOWS_RATIO - 1:.0%} longer than their kernels",
    ):
        assert said in page, said
    assert protocol.RETRIES == 2


def one_line(page: str) -> str:
    return " ".join((ROOT / "docs" / f"{page}.md").read_text().split())
