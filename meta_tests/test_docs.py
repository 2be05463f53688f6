"""README.md, CONTRIBUTING.md and docs/: their commands can be typed, their links and paths lead somewhere."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any
from unittest import mock

import pytest
import yaml
from _pytest.mark.expression import Expression

from fixtures import __version__
from fixtures.cases import cases_of, exports_of
from fixtures.spec import load_spec, spec_from
from fixtures.subject import require_known
from meta_tests.pages import CHANGELOG, CONTRIBUTING, PAGES, ROOT, commands, specs, words
from tools import command_line

SUITES = ("pytest bench_tests", "pytest export_tests", "pytest serve_tests")
# Specs where a command names none, on a machine with a GPU.
DEFAULT_SPECS = {"bench_tests": "pretriton_gpu", "export_tests": "export", "serve_tests": "export"}
PATH = re.compile(
    r"`((?:fixtures|tools|docs|specs|[a-z]+_tests)/[\w./-]*\w/?)`|`((?:[A-Z_]+, )*[A-Z_]+)` in `([\w/]+\.py)`"
)


def suite_commands() -> list[str]:
    return [command for suite in SUITES for command in commands(suite)]


# --- commands ---


def test_every_command_is_of_a_known_kind() -> None:
    kinds = (". .venv/bin/activate", "export DP_MODELS_ROOT=", "make ", "pytest-benchmark compare", *SUITES)
    assert all(command.startswith((*kinds, "python -m tools.")) for command in commands())
    assert {"make bench", "make test"} <= set(commands())


def test_make_targets_exist() -> None:
    for command in commands("make "):
        # make takes a name of .PHONY without a rule for a target that needs nothing done.
        arguments = ["make", "--dry-run", "--always-make", *words(command)[1:]]
        made = subprocess.run(arguments, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        assert "Nothing to be done" not in made, command


@pytest.mark.parametrize("command", suite_commands())
def test_pytest_command_selects_cases_of_its_spec(command: str, pytestconfig: pytest.Config) -> None:
    _, path, *arguments = words(command)
    selected = selected_by(path.split("/")[0], typed(pytestconfig, arguments))
    assert selected, f"{command} selects nothing"


def typed(config: pytest.Config, arguments: list[str]) -> argparse.Namespace:
    """The options of a command line, by pytest's own parser with those of this suite."""
    known, unknown = config._parser.parse_known_and_unknown_args(arguments)
    assert not unknown, f"{unknown} are no options of pytest here"
    return known


def selected_by(suite: str, options: argparse.Namespace) -> list[str]:
    """Ids of the cases, files or branches that a command line selects."""
    name = options.spec or f"specs/{DEFAULT_SPECS[suite]}.yaml"
    spec = spec_from(yaml.safe_load(specs()[name]), name) if name in specs() else load_spec(ROOT / name)
    every = cases_of(spec, options.dtype) if suite == "bench_tests" else exports_of(spec, options.dtype)
    wanted = Expression.compile(options.keyword or "")
    return [one.id for one in every if not options.keyword or wanted.evaluate(_Names(one.id))]


@dataclass(frozen=True)
class _Names:
    """As `-k` compares with the name of a test."""

    case_id: str

    def __call__(self, name: str, /, **_: object) -> bool:
        return name.lower() in self.case_id


@pytest.mark.parametrize("name", specs())
def test_shown_spec_is_accepted(name: str) -> None:
    require_known(spec_from(yaml.safe_load(specs()[name]), name))


class _Parsed(Exception):  # noqa: N818 - it ends a tool before it does anything
    pass


@pytest.mark.parametrize("command", commands("python -m tools."))
def test_tool_takes_the_options_that_are_shown(command: str, pytestconfig: pytest.Config) -> None:
    """By the tool's own parser; what follows `--` are arguments of pytest."""
    _, _, module, *arguments = words(command)
    parse = argparse.ArgumentParser.parse_args

    def parse_alone(parser: argparse.ArgumentParser, *given: Any) -> None:
        assert parse(parser, *given)
        raise _Parsed

    with (
        mock.patch.object(sys, "argv", [module, *arguments]),
        mock.patch.object(argparse.ArgumentParser, "parse_args", parse_alone),
        pytest.raises(_Parsed),
    ):
        resolve_name(module).main()
    typed(pytestconfig, command_line.parted(arguments)[1])


# --- links and paths ---


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_a_file_and_a_heading(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_exist_and_hold_the_constants_that_they_are_said_to_hold(page: Path) -> None:
    for path, constants, module in PATH.findall(page.read_text()):
        if "NAME" in path:
            continue
        file = ROOT / (path or module)
        assert file.exists(), path or module
        for constant in filter(None, constants.split(", ")):
            assert re.search(rf"^{constant}\b", file.read_text(), re.MULTILINE), f"{constant} in {module}"


def test_tests_that_prove_a_recipe_exist() -> None:
    named = set(re.findall(r"\bmeta_tests/\w+\.py", CONTRIBUTING.read_text()))
    assert len(named) >= 10
    assert all((ROOT / name).exists() for name in named), named


# --- lists ---


def test_architecture_page_has_the_layers_of_the_import_contract() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(one["layers"] for one in contracts if one.get("containers") == ["fixtures"])
    assert "\n".join(["```", *layers, "```"]) in page


def test_architecture_page_names_every_room() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    named = set(re.findall(r"`([a-z_]+)/`", page))
    rooms = {path.parent.name for path in (ROOT / "fixtures").glob("*/__init__.py")}
    assert rooms | {path.name for path in ROOT.glob("*_tests")} <= named


def test_changelog_begins_with_the_version_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (newest, *_) = re.findall(r"^## (\S+) - \d{4}-\d\d-\d\d$", CHANGELOG.read_text(), re.MULTILINE)
    assert project["version"] == newest == __version__
