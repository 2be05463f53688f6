"""Digests of the code that makes something: of modules, of all that they import, and of the installed libraries."""

from __future__ import annotations

import ast
import hashlib
import json
import platform
from collections.abc import Iterator
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent

_OURS = ("conftest", "fixtures", "tools", "bench_tests", "export_tests", "serve_tests", "meta_tests")
# Modules that import others by a computed name, and the packages that those are in.
_PLUG_INS = {"fixtures.registry": ("fixtures.models", "fixtures.runtimes")}


@cache
def source_digest(*modules: str) -> str:
    """sha256 over the files of some modules and of every module of the checkout that they import.

    Files of another kind in their folders, such as lists of prompts, belong to them.
    """
    digest = hashlib.sha256()
    for path in sorted(files_of(modules)):
        digest.update(f"{path.relative_to(ROOT)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


@cache
def machine_digest() -> str:
    """sha256 over the installed libraries, the interpreter and the instructions that kernels are chosen by."""
    libraries = sorted({(found.name, found.version) for found in distributions()})
    machine = [platform.python_version(), platform.machine(), torch.backends.cpu.get_cpu_capability()]
    return hashlib.sha256(json.dumps([libraries, machine]).encode()).hexdigest()


def files_of(modules: tuple[str, ...]) -> set[Path]:
    """The files of modules and of all that they import, directly or not."""
    files: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        path = _file_of(name)
        if name in files or path is None:
            continue
        files[name] = path
        waiting += [*_packages_above(name), *_imported_by(path), *_plug_ins_of(name)]
    folders = {path.parent for path in files.values()} - {ROOT}
    beside = {path for folder in folders for path in folder.iterdir() if path.is_file() and path.suffix != ".py"}
    return {*files.values(), *beside}


def _file_of(module: str) -> Path | None:
    if module.split(".", maxsplit=1)[0] not in _OURS:
        return None
    path = ROOT.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def _packages_above(module: str) -> Iterator[str]:
    parts = module.split(".")
    yield from (".".join(parts[:count]) for count in range(1, len(parts)))


def _imported_by(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)  # a module, or a name in one


def _plug_ins_of(module: str) -> Iterator[str]:
    for package in _PLUG_INS.get(module, ()):
        yield from (f"{package}.{file.stem}" for file in ROOT.joinpath(*package.split(".")).glob("*.py"))
