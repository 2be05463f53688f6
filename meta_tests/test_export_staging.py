"""fixtures/export/staging.py: files are made aside, and what killed processes left there is removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.errors import InputError
from fixtures.export.staging import Staging


def test_staging_of_a_dead_process_is_removed_and_of_a_living_one_is_kept(tmp_path: Path) -> None:
    for name in (".staging-1", ".staging-999999999", ".staging-abc"):
        (tmp_path / name).mkdir()
    staging = Staging(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".staging-1", staging.folder.name}
    staging.close()
    assert [path.name for path in tmp_path.iterdir()] == [".staging-1"]


def test_file_is_published_under_its_name(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.onnx").write_text("older")
    staging = Staging(tmp_path)
    path = staging.path("a/b.onnx")
    path.write_text("newer")
    assert staging.publish(path) == tmp_path / "a" / "b.onnx"
    assert (tmp_path / "a" / "b.onnx").read_text() == "newer"
    assert not path.exists()


def test_folder_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").mkdir()
    staging = Staging(tmp_path)
    staging.path("a.onnx").write_text("newer")
    with pytest.raises(InputError, match=r"a\.onnx: file=Is a directory, expected a path to write to\."):
        staging.publish(staging.path("a.onnx"))


def test_folder_in_the_place_of_weights_leaves_the_older_file(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_text("older")
    (tmp_path / "a.onnx.data").mkdir()
    staging = Staging(tmp_path)
    new = [staging.path(name) for name in ("a.onnx", "a.onnx.data")]
    for path in new:
        path.write_text("newer")
    with pytest.raises(InputError, match=r"a\.onnx\.data: path=a folder, expected a path to write to\."):
        staging.publish_together(new[0], new[1:])
    assert (tmp_path / "a.onnx").read_text() == "older"


@pytest.mark.parametrize("stops_after", [0, 1, 2])
def test_file_and_its_weights_are_never_a_mixture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stops_after: int
) -> None:
    """Killed at any step, there are the old two, the new two, or no file that would read the weights."""
    for name in ("a.onnx", "a.onnx.data"):
        (tmp_path / name).write_text("older")
    staging = Staging(tmp_path)
    new = [staging.path(name) for name in ("a.onnx", "a.onnx.data")]
    for path in new:
        path.write_text("newer")
    publish = staging.publish
    moved: list[Path] = []

    def killed(path: Path) -> Path:
        if len(moved) == stops_after:
            raise KeyboardInterrupt
        moved.append(path)
        return publish(path)

    monkeypatch.setattr(staging, "publish", killed)
    if stops_after < len(new):
        with pytest.raises(KeyboardInterrupt):
            staging.publish_together(new[0], new[1:])
        assert not (tmp_path / "a.onnx").exists()
    else:
        staging.publish_together(new[0], new[1:])
        assert [(tmp_path / name).read_text() for name in ("a.onnx", "a.onnx.data")] == ["newer", "newer"]
