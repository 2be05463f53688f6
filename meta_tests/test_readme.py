"""The README says what is true: its commands exist, its tables name every option and every key of a spec."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import skimage

from meta_tests.conftest import ROOT, Suite

# With the pages that it leads to: what it says, it may say there.
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = "\n".join(page.read_text() for page in PAGES)
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", README + CONTRIBUTING, re.DOTALL)
COMMANDS = sorted({line for block in BLOCKS for line in block.strip().splitlines()})


RUNTIMES = ("torch", "torch-graph", "torch-compile", "onnxruntime", "onnxruntime-graph")


def commands(start: str) -> list[str]:
    return [command for command in COMMANDS if command.startswith(start)]


def test_every_command_is_of_a_known_kind() -> None:
    suites = ("pytest bench_tests", "pytest export_tests", "pytest serve_tests")
    kinds = (
        "make ",
        ". .venv/bin/activate",
        "export DP_MODELS_ROOT=",
        *suites,
        "pytest-benchmark compare",
        "python -m tools.",
    )
    assert all(command.startswith(kinds) for command in COMMANDS)
    assert {"make bench", "make test"} <= set(COMMANDS)


@pytest.mark.parametrize("command", commands("make "))
def test_make_targets_exist(command: str) -> None:
    subprocess.run(["make", "--dry-run", *shlex.split(command)[1:]], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("command", commands("pytest bench_tests"))
def test_pytest_commands_select_cases(suite: Suite, command: str) -> None:
    """With photographs in the folder, and a new run in place of the one to resume."""
    arguments = shlex.split(command)[1:]
    if "my_photos/" in arguments:
        arguments[arguments.index("my_photos/")] = _photos(suite)
    if "--resume" in arguments:
        arguments.remove("--resume")
    ended = suite.run("--spec", str(ROOT / "specs/pretriton_gpu.yaml"), *arguments, "--collect-only", "-q")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(r"\d+(/\d+)? tests collected", ended.stdout)


@pytest.mark.parametrize("command", [*commands("pytest export_tests"), *commands("pytest serve_tests")])
def test_export_commands_select_files(bundle_root: Path, command: str) -> None:
    """Without what an earlier command has chosen: it is not there."""
    words = shlex.split(command)
    if "--choice" in words:
        place = words.index("--choice")
        del words[place : place + 2]
    arguments = ["-m", *words, "--models-root", str(bundle_root), "--collect-only", "-q"]
    ended = subprocess.run([sys.executable, *arguments], cwd=ROOT, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(r"\d+(/\d+)? tests collected", ended.stdout)


def _photos(suite: Suite) -> str:
    folder = suite.folder / "my_photos"
    folder.mkdir()
    (folder / "a.png").symlink_to(Path(skimage.__file__).parent / "data" / "astronaut.png")
    return str(folder)


@pytest.mark.parametrize("command", commands("python -m tools."))
def test_tools_take_the_options_that_are_shown(command: str) -> None:
    words = shlex.split(command)
    help_text = subprocess.run(
        [sys.executable, *words[1:3], "--help"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    own = words[3 : words.index("--")] if "--" in words else words[3:]  # what follows is pytest's
    for option in (word for word in own if word.startswith("-")):
        assert option in help_text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_every_page_is_led_to() -> None:
    front = (ROOT / "README.md").read_text()
    assert all(f"docs/{page.name}" in front for page in PAGES[1:])


def test_the_table_is_the_stored_run() -> None:
    """Every p50 of the README's table stands in the stored summary, rounded, and so does the last column's quotient."""
    tables = json.loads((ROOT / "meta_tests/data/h200/summary.json").read_text())["tables"]
    rows = re.findall(r"^\| (\w+_\d+) \| (\d) \| (.*) \|$", README, re.MULTILINE)
    assert len(rows) == 12
    for variant, batch, cells in rows:
        *shown, quotient = [float(cell.strip(" *◦")) for cell in cells.split("|")]
        measured = [tables[runtime][variant][batch] for runtime in RUNTIMES]
        assert shown == [round(value, 2) for value in measured]
        assert quotient == round(measured[-1] / measured[RUNTIMES.index("torch-compile")], 1)


def test_the_table_of_every_family_is_the_stored_runs() -> None:
    """RAFT and ResNet-50 are of the second run; what is launch-bound is marked."""
    cases: dict[tuple[str, str, int], Any] = {}
    for name in ("summary.json", "raft_resnet_summary.json"):  # the second one replaces
        summary = json.loads((ROOT / "meta_tests/data/h100_baseline" / name).read_text())
        cases |= {(case["variant"], case["runtime"], case["batch"]): case for case in summary["cases"]}
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([\d.]+ .*) \|$", README, re.MULTILINE)
    assert {variant for variant, _, _ in rows} == {variant for variant, _, _ in cases}
    for variant, unit, cells in rows:
        shown = []
        for batch, runtime in ((1, "torch"), (1, "onnxruntime"), (8, "torch"), (8, "onnxruntime")):
            case = cases[variant, runtime, batch]
            assert case["unit"] == unit
            shown.append(f"{case['latency_ms']['p50']:.2f}" + (" ◦" if case["launch_bound"] else ""))
        assert cells == " | ".join(shown)


@pytest.mark.parametrize("name", ["summary.json", "raft_summary.json"])
def test_the_served_table_is_the_stored_run(name: str) -> None:
    """Each median of the served table, and the waterfall's sentence."""
    summary = json.loads((ROOT / "meta_tests/data/h100_served" / name).read_text())
    (case,) = [case for case in summary["cases"] if case["served"]]
    rows = re.findall(rf"^\| {case['variant']} \| (\w+), `([a-z+]+)` \| ([\d.]+) \| ([\d.]+) \|$", README, re.MULTILINE)
    paths = {(path["role"], path["protocol"]): path for path in case["served"]["paths"]}
    assert len(rows) == len(paths)
    for role, protocol, *shown in rows:
        path = paths[role, protocol]
        assert shown == [f"{path['latency_ms']['p50']:.2f}", f"{path['server_ms']:.2f}"]
    (waterfall,) = summary["waterfalls"]
    said = README.replace("\n", " ")
    assert " → ".join(f"{hop['hop']} {hop['ms']:.2f}" for hop in waterfall["hops"]) in said
    assert f"serving tax {waterfall['serving_tax_percent']:.0f}%" in said
