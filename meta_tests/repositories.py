"""A spec with published stand-ins, and the tool that builds a model repository from them in this process."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fixtures.cases import Export, exports_of
from fixtures.errors import InputError
from fixtures.manifest import enter, read_manifest
from fixtures.records import Repository
from fixtures.spec import load_spec
from fixtures.triton.branches import ServedBranch, served_branch
from fixtures.triton.stored_repository import read_repository
from meta_tests.branches import publish_stand_in
from tools import build_model_repository

SPEC = """\
schema_version: 1
name: served
dtype: fp32
runtimes: [triton]
variants:
  - {name: midas_small_256, family: midas, model: MiDaS_small, height: 256, width: 256, batches: [1, 8]}
  - {name: raft_small_128, family: raft, model: raft_small, height: 128, width: 160, branch: flow}
"""
NAMES = ["midas_256", "midas_256_b8", "flow"]
MIDAS_FILE = "midas/midas_small_256.onnx"


@dataclass(frozen=True)
class Place:
    """A folder with a spec and its published files, and the tool in this process."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch

    @property
    def spec(self) -> Path:
        """The spec."""
        return self.folder / "spec.yaml"

    @property
    def onnx_dir(self) -> Path:
        """Where the stand-ins are published."""
        return self.folder / "onnx"

    @property
    def out(self) -> Path:
        """Where the tool writes, if not told otherwise."""
        return self.folder / "repository"

    @property
    def exports(self) -> tuple[Export, ...]:
        return exports_of(load_spec(self.spec))

    @property
    def branches(self) -> list[ServedBranch]:
        return [served_branch(export, self.onnx_dir) for export in self.exports]

    def arguments(self, *arguments: str) -> list[str]:
        """The tool's command line; a later argument replaces an earlier one."""
        return ["--spec", str(self.spec), "--onnx-dir", str(self.onnx_dir), "--out", str(self.out), *arguments]

    def build(self, *arguments: str) -> Repository:
        """Run the tool; returns the record of the repository that it wrote."""
        given = self.arguments(*arguments)
        self.monkeypatch.setattr(sys, "argv", ["build_model_repository", *given])
        assert build_model_repository.main() == 0
        return read_repository(Path(given[len(given) - given[::-1].index("--out")]))

    def refusal(self, *arguments: str) -> str:
        """The message of a build that is refused and writes nothing."""
        with pytest.raises(InputError) as caught:
            self.build(*arguments)
        self.assert_nothing_was_written()
        return str(caught.value)

    def assert_nothing_was_written(self) -> None:
        """No file beside those of `new_place`."""
        assert sorted(path.name for path in self.folder.iterdir()) == ["onnx", "spec.yaml"]

    def enter(self, name: str = MIDAS_FILE, **changes: Any) -> None:
        """Change a file's entry in the manifest."""
        enter(self.onnx_dir, name, read_manifest(self.onnx_dir).files[name].model_copy(update=changes))


def new_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A new folder with SPEC and a published stand-in of each of its exports."""
    place = Place(folder, monkeypatch)
    folder.mkdir()
    place.spec.write_text(SPEC)
    for export in place.exports:
        publish_stand_in(place.onnx_dir, export)
    return place


def files_of(folder: Path) -> dict[str, Path]:
    """Relative path → file, for every file below a folder."""
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def one_byte_changed(place: Place) -> None:
    """Damage the file of the first branch."""
    path = place.onnx_dir / MIDAS_FILE
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
