"""fixtures/sessions/options.py: an option is declared once, for the command line, the sessions and the docs."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from fixtures.sessions.options import Options, declarations, options_table
from meta_tests.conftest import ROOT


class _Group:
    """A group of pytest's parser, on argparse alone."""

    def __init__(self) -> None:
        self.parser = argparse.ArgumentParser()

    def addoption(self, flag: str, **arguments: Any) -> None:
        self.parser.add_argument(flag, **arguments)


@dataclass(frozen=True)
class _Invocation:
    dir: Path


@dataclass(frozen=True)
class _Config:
    """As much of pytest's configuration as options are read from."""

    values: argparse.Namespace
    invocation_params: _Invocation = _Invocation(Path("/called/here"))

    def getoption(self, name: str) -> Any:
        return getattr(self.values, name)


def options_of(*arguments: str) -> Options:
    """The options of a command line in the folder /called/here."""
    return Options.of(cast(pytest.Config, _Config(parser().parse_args(arguments))))


def parser() -> argparse.ArgumentParser:
    group = _Group()
    for one in declarations():
        one.add_to(cast(pytest.OptionGroup, group))
    return group.parser


def test_defaults_of_the_command_line_are_those_of_the_options() -> None:
    relative = Options(out="/called/here/out", onnx_dir="/called/here/models/optimized")
    assert options_of() == relative


def test_values_are_those_that_were_typed() -> None:
    typed = options_of("--run-id", "r", "--resume", "--no-offline", "--device=cuda", "--requests", "7")
    assert (typed.run_id, typed.resume, typed.offline, typed.device, typed.requests) == ("r", True, False, "cuda", "7")


def test_folders_of_a_run_are_relative_to_the_call() -> None:
    typed = options_of("--out", "o", "--claims", "c", "--choice", "/abs/choice.json", "--spec", "specs/a.yaml")
    assert (typed.out, typed.claims, typed.choice) == ("/called/here/o", "/called/here/c", "/abs/choice.json")
    assert typed.spec == "specs/a.yaml", "messages name the file as it was typed"


def test_help_names_every_option_with_its_meaning_and_default() -> None:
    shown = " ".join(parser().format_help().split())
    for one in declarations():
        assert f"{one.flag} {one.metavar}" if one.metavar else one.flag in shown
        assert one.meaning.replace("`", "") in shown
    assert "where runs are kept (default: out)" in shown
    assert "folder of the checkpoints (default: the variable DP_MODELS_ROOT)" in shown


def test_table_of_the_docs_is_that_of_the_declarations() -> None:
    page = (ROOT / "docs" / "options.md").read_text()
    assert options_table() in page, f"put this into docs/options.md:\n{options_table()}"
    assert options_table().count("\n") == len(list(declarations())) + 2
