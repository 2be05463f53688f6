"""A model repository is written whole or not at all, and a server of another user can read it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from fixtures.errors import InputError
from fixtures.files import sha256_of
from fixtures.onnx_session import open_session
from fixtures.triton.branches import ServedBranch
from fixtures.triton.config import configs, read_config
from fixtures.triton.stored_repository import REPOSITORY, read_repository
from meta_tests.branches import publish_stand_in
from meta_tests.repositories import MIDAS_FILE, NAMES, SPEC, Place, files_of, new_place

NAME_PARTS = (("preprocess_", ""), ("", "_onnx"), ("", "_fused"), ("", ""))
READABLE, ENTERABLE = 0o004, 0o005  # by other users


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return new_place(tmp_path / "place", monkeypatch)


@pytest.fixture
def strict_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


# --- contents ---


def test_model_folders_have_the_names_of_the_contract(place: Place) -> None:
    assert list(place.build("--fused").branches) == NAMES
    expected = {f"{role}{name}{end}" for name in NAMES for role, end in NAME_PARTS}
    assert {path.name for path in place.out.iterdir() if path.is_dir()} == expected


def test_every_model_has_its_configuration_and_version(place: Place) -> None:
    place.build()
    models = [("preprocess_", ""), ("", "_onnx")]
    expected = {f"{begin}{name}{end}/1/model.onnx" for name in NAMES for begin, end in models}
    expected |= {f"{begin}{name}{end}/config.pbtxt" for name in NAMES for begin, end in (*models, ("", ""))}
    # Triton refuses an ensemble without a version folder, and git, S3 and rsync -m drop an empty one.
    expected |= {f"{name}/1/keep.txt" for name in NAMES}
    assert set(files_of(place.out)) == expected | {REPOSITORY, "README.md"}


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_configurations_are_those_of_the_branches(place: Place, device: str) -> None:
    place.build("--fused", "--device", device)
    for branch in place.branches:
        for name, config in configs(branch, "cuda" if device == "cuda" else "cpu", True).items():
            assert read_config((place.out / name / "config.pbtxt").read_text()) == config


def test_record_holds_the_digest_of_every_served_file(place: Place) -> None:
    repository = place.build("--fused")
    served = {name: path for name, path in files_of(place.out).items() if name not in {REPOSITORY, "README.md"}}
    assert repository.files == {name: sha256_of(path) for name, path in served.items()}
    for name, branch in repository.branches.items():
        assert branch.sha256 == repository.files[f"{name}_onnx/1/model.onnx"]


def test_two_builds_are_equal_byte_by_byte(place: Place) -> None:
    again = place.out.with_name("again")
    assert place.build("--fused") == place.build("--fused", "--out", str(again))
    contents = [{name: path.read_bytes() for name, path in files_of(out).items()} for out in (place.out, again)]
    assert contents[0] == contents[1]


def test_record_names_release_gpus_and_precision_class(place: Place) -> None:
    place.spec.write_text(SPEC + 'target: {triton: "25.01"}\nserving: {gpus: [2, 0], instances: 2}\n')
    repository = place.build("--dtype", "tf32")
    assert (repository.triton, repository.served_on, repository.gpus) == ("25.01", "cuda", (0, 2))
    assert {branch.dtype for branch in repository.branches.values()} == {"tf32"}


def test_external_weights_are_served_too(place: Place) -> None:
    export = place.exports[0]
    publish_stand_in(place.onnx_dir, export, external=True)
    repository = place.build("--batch", "1", "--fused")
    data = place.out / "midas_256_onnx" / "1" / "midas_small_256.onnx.data"
    assert repository.files["midas_256_onnx/1/midas_small_256.onnx.data"] == sha256_of(data)
    frames = np.full((1, 256, 256, 3), 255, np.uint8)
    fused, preprocess, model = (
        open_session(place.out / name / "1" / "model.onnx", "cpu", "fp32")
        for name in ("midas_256_fused", "preprocess_midas_256", "midas_256_onnx")
    )
    (between,) = preprocess.run(None, {"INPUT__0": frames})
    (answer,), (at_once,) = model.run(None, {"input": between}), fused.run(None, {"INPUT__0": frames})
    np.testing.assert_array_equal(at_once, answer)


# --- whole or not at all ---


def fail(*_arguments: Any, **_named: Any) -> None:
    raise RuntimeError("in the middle")


def full(*_arguments: Any, **_named: Any) -> None:
    raise OSError(28, "No space left on device")


def interrupted(*_arguments: Any, **_named: Any) -> None:
    raise KeyboardInterrupt


def other_file_system(*_arguments: Any, **_named: Any) -> None:
    raise OSError(18, "Invalid cross-device link")


@pytest.mark.parametrize("raised", [fail, interrupted], ids=["an error", "Ctrl-C"])
@pytest.mark.parametrize(
    ("owner", "name"),
    [(onnx.checker, "check_model"), (onnx, "save"), (os, "link"), (Path, "replace"), (Path, "write_text")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_failure_while_writing_leaves_nothing(place: Place, owner: Any, name: str, raised: Callable[..., None]) -> None:
    calls: list[int] = []
    original = getattr(owner, name)

    def later(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == (1 if name == "replace" else 3):
            raised()
        return original(*arguments, **named)

    place.monkeypatch.setattr(owner, name, later)
    with pytest.raises(KeyboardInterrupt if raised is interrupted else RuntimeError):
        place.build()
    place.monkeypatch.undo()
    place.assert_nothing_was_written()


def test_graph_that_the_checker_refuses_leaves_nothing(place: Place) -> None:
    def broken(_branch: ServedBranch) -> onnx.ModelProto:
        model = onnx.load(place.onnx_dir / MIDAS_FILE)
        model.graph.node[0].input[0] = "nothing"
        return model

    place.monkeypatch.setattr("fixtures.triton.repository.preprocess_model", broken)
    with pytest.raises(onnx.checker.ValidationError):
        place.build()
    place.assert_nothing_was_written()


def test_full_disk_is_refused_and_leaves_nothing(place: Place) -> None:
    place.monkeypatch.setattr(os, "link", other_file_system)
    place.monkeypatch.setattr(shutil, "copyfile", full)
    said = place.refusal()
    assert f"--out {place.out}: folder=No space left on device, expected a writable folder with room for" in said


def test_empty_folder_is_filled(place: Place) -> None:
    place.out.mkdir()
    assert list(place.build().branches) == NAMES


@pytest.mark.parametrize("occupied", ["folder", "file", "link", "dangling link"])
def test_existing_path_is_refused(place: Place, occupied: str) -> None:
    out = place.folder.parent / "out"
    if occupied == "folder":
        out.mkdir()
        (out / "notes").write_text("work")
    elif occupied == "file":
        out.write_text("work")
    elif occupied == "link":
        (place.folder.parent / "empty").mkdir()
        out.symlink_to(place.folder.parent / "empty")
    else:
        out.symlink_to("nowhere")
    before = sorted(place.folder.parent.rglob("*"))
    place.monkeypatch.setattr(onnx, "save", fail)  # refused before anything is built
    assert f"--out {out}: path=exists, expected a new or empty folder." in place.refusal("--out", str(out))
    assert sorted(place.folder.parent.rglob("*")) == before


def test_unwritable_path_is_refused(place: Place) -> None:
    out = place.spec / "repository"
    place.monkeypatch.setattr(onnx, "save", fail)
    assert re.search(
        r"folder=(Not a directory|File exists), expected a writable folder", place.refusal("--out", str(out))
    )


# --- readable by other users ---


def unreadable(out: Path) -> list[str]:
    """Files that other users cannot read and folders that they cannot enter, `out` included."""
    wanted = {path: ENTERABLE if path.is_dir() else READABLE for path in (out, *out.rglob("*"))}
    return [str(path.relative_to(out)) for path, mode in wanted.items() if path.stat().st_mode & mode != mode]


def test_other_users_can_read_every_file(place: Place) -> None:
    place.build("--fused")
    assert unreadable(place.out) == []


@pytest.mark.usefixtures("strict_umask")
def test_other_users_can_read_every_file_despite_the_umask(place: Place) -> None:
    place.build("--fused")
    assert unreadable(place.out) == []


def test_private_file_is_copied_and_stays_private(place: Place) -> None:
    source = place.onnx_dir / MIDAS_FILE
    source.chmod(0o600)
    place.build()
    assert unreadable(place.out) == []
    assert source.stat().st_mode & 0o777 == 0o600


@pytest.mark.usefixtures("strict_umask")
def test_copy_from_another_file_system_is_readable(place: Place) -> None:
    for export in place.exports:
        (place.onnx_dir / export.file).chmod(0o644)
    place.monkeypatch.setattr(os, "link", other_file_system)
    place.build()
    copy = place.out / "midas_256_onnx" / "1" / "model.onnx"
    assert copy.read_bytes() == (place.onnx_dir / MIDAS_FILE).read_bytes()
    assert copy.stat().st_mode & READABLE


def test_readable_file_is_hard_linked(place: Place) -> None:
    (place.onnx_dir / MIDAS_FILE).chmod(0o644)
    place.build()
    assert (place.out / "midas_256_onnx" / "1" / "model.onnx").samefile(place.onnx_dir / MIDAS_FILE)


def test_symbolic_link_to_a_published_file_is_followed(place: Place) -> None:
    """A container mounts the repository alone: a symbolic link would dangle there."""
    source = place.onnx_dir / MIDAS_FILE
    source.rename(source.with_name("stored"))
    source.symlink_to("stored")
    place.build()
    served = place.out / "midas_256_onnx" / "1" / "model.onnx"
    assert not served.is_symlink()
    assert sha256_of(served) == sha256_of(source)


# --- read back ---


@pytest.mark.parametrize("content", [b"", b"{}", b"null", b"\xff", b'{"schema_version": 2}'], ids=repr)
def test_folder_without_a_valid_record_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InputError, match="folder=No such file or directory, expected a model repository"):
        read_repository(tmp_path)
    (tmp_path / REPOSITORY).write_bytes(content)
    with pytest.raises(InputError, match=r"repository\.json: content=unreadable, expected what the builder wrote"):
        read_repository(tmp_path)
